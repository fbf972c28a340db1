"""``detour blocks``."""

from pathlib import Path
from typing import Any

import click

from detour.cli.studies import picture_options, show_study, study_options, study_spec


@click.command("blocks", short_help="Measure which blocks of the network an adapter acts through.")
@click.argument("adapter", metavar="ADAPTER[:WEIGHT]")
@picture_options("steps", "guidance", "scheduler")
@study_options("studies/blocks")
def command(*, adapter: str, out: Path, force: bool, as_json: bool, **flags: Any) -> None:
    """Draw with each block of ADAPTER switched off, and with each alone.

    \b
    detour blocks runs/demo/demo.safetensors
    """
    from detour.cli.progress import shown

    spec = study_spec(flags, lora=adapter, quiet=as_json)
    from detour.verbs.studies.blocks import study_blocks

    with shown(quiet=as_json) as progress:
        result = study_blocks(spec, out=out, force=force, progress=progress)
    show_study(result, ("move", "pixels", "clip", "object"), as_json=as_json)
