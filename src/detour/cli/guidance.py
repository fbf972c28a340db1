"""``detour guidance``."""

from pathlib import Path
from typing import Any

import click

from detour.cli.studies import numbers, picture_options, show_study, study_options, study_spec


@click.command("guidance", short_help="Measure guidance scales: prompts kept, saturation and artefacts.")
@click.option(
    "--scales",
    default="1,3,5,7.5,12,20",
    show_default=True,
    callback=numbers(float),
    help="Guidance scales to compare; 1 switches guidance off.",
)
@click.option("--lora", metavar="FILE[:WEIGHT]", help="Adapter that every picture is drawn with.")
@picture_options("steps", "scheduler")
@study_options("studies/guidance")
def command(
    *, out: Path, scales: tuple[float, ...], lora: str | None, force: bool, as_json: bool, **flags: Any
) -> None:
    """Draw the same prompts and seeds at each guidance scale.

    \b
    detour guidance --scales 1,2,4,8 --lora runs/demo/demo.safetensors
    """
    from detour.cli.progress import shown

    spec = study_spec(flags, lora=lora, quiet=as_json)
    from detour.verbs.studies.guidance import study_guidance

    with shown(quiet=as_json) as progress:
        result = study_guidance(spec, out=out, scales=scales, force=force, progress=progress)
    show_study(
        result,
        ("clip", "object", "saturation", "clipped", "contrast", "round_trip", "variety"),
        as_json=as_json,
    )
