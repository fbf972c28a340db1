"""``detour timesteps``."""

from pathlib import Path
from typing import Any

import click

from detour.cli.studies import picture_options, show_study, study_options, study_spec


@click.command("timesteps", short_help="Measure at which timesteps an adapter acts.")
@click.argument("adapter", metavar="ADAPTER[:WEIGHT]")
@click.option(
    "--timesteps",
    "num_timesteps",
    type=int,
    default=12,
    show_default=True,
    help="Number of timesteps at which predictions are compared.",
)
@picture_options("steps", "guidance", "scheduler")
@study_options("studies/timesteps")
def command(*, adapter: str, out: Path, num_timesteps: int, force: bool, as_json: bool, **flags: Any) -> None:
    """Draw with ADAPTER on in early, middle or late steps alone, and compare predictions along the schedule.

    \b
    detour timesteps runs/demo/demo.safetensors
    """
    from detour.cli.progress import shown

    spec = study_spec(flags, lora=adapter, quiet=as_json)
    from detour.verbs.studies.timesteps import study_timesteps

    with shown(quiet=as_json) as progress:
        result = study_timesteps(spec, out=out, num_timesteps=num_timesteps, force=force, progress=progress)
    show_study(result, ("move", "pixels", "clip", "object"), as_json=as_json)
