"""``detour schedulers``."""

from pathlib import Path
from typing import Any

import click

from detour.cli.options import SAMPLERS
from detour.cli.studies import numbers, parse_seconds, picture_options, show_study, study_options, study_spec

NAMES = SAMPLERS


def parse_samplers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """``"ddim,euler"`` → names that are known; ``None`` stays."""
    if value is None:
        return None
    names = tuple(part.strip() for part in value.split(","))
    for name in names:
        if name not in NAMES:
            raise click.BadParameter(f"'{name}' is no sampler; there are {', '.join(NAMES)}")
    return names


@click.command("schedulers", short_help="Measure samplers at several numbers of steps: quality and time.")
@click.option(
    "--steps",
    "counts",
    default="10,20,30,50",
    show_default=True,
    callback=numbers(int),
    help="Numbers of steps.",
)
@click.option(
    "--samplers",
    callback=parse_samplers,
    help=f"Names of samplers. [default: all of {','.join(NAMES)} that fit the base]",
)
@click.option(
    "--budget",
    callback=parse_seconds,
    metavar="SECONDS",
    help="Seconds for one picture; the best sampler within it is named.",
)
@click.option(
    "--reference-steps",
    type=int,
    default=200,
    show_default=True,
    help="Steps of the DPM++ pictures that all others are compared with.",
)
@click.option("--lora", metavar="FILE[:WEIGHT]", help="Adapter that every picture is drawn with.")
@picture_options("guidance")
@study_options("studies/schedulers")
def command(
    *,
    out: Path,
    counts: tuple[int, ...],
    samplers: tuple[Any, ...] | None,
    budget: float | None,
    reference_steps: int,
    lora: str | None,
    force: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Draw the same prompts and seeds with each sampler in fewer and more steps.

    \b
    detour schedulers --steps 10,20,50 --budget 1.5s
    detour schedulers --base photos-base/ --judge clip/ --prompt "a red house" --prompt "a dog"
    """
    from detour.cli.progress import shown

    spec = study_spec(flags, lora=lora, quiet=as_json)
    from detour.verbs.studies.schedulers import study_schedulers

    with shown(quiet=as_json) as progress:
        result = study_schedulers(
            spec, out=out, steps=counts, samplers=samplers, reference_steps=reference_steps,
            budget_s=budget, force=force, progress=progress,
        )  # fmt: skip
    show_study(result, ("clip", "object", "judge_distance", "pixels", "seconds"), as_json=as_json)
