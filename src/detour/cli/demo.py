"""``detour demo``."""

from pathlib import Path

import click

from detour.cli.options import SEEDS, json_option, runs_option


@click.command("demo", short_help="Train, prove and draw a style on an embedded base, in minutes on a CPU.")
@click.option(
    "--base",
    type=click.Choice(("pocket", "pocket-flow")),
    default="pocket",
    show_default=True,
    help="pocket learns a light; pocket-flow, a flow-matching transformer, a style that lives in its detail.",
)
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Seed of the whole demo.")
@runs_option
@json_option
def command(*, base: str, seed: int, runs: Path, as_json: bool) -> None:
    """Train a rank-4 adapter on 24 pictures of a style that the embedded base never saw, prove it, draw it.

    Needs no GPU and no download. A second demo makes runs/demo-2; --base pocket-flow makes runs/demo-flow.
    """
    from detour.cli.progress import shown
    from detour.cli.results import show_demo_result
    from detour.verbs.train.demo import run_demo

    with shown(quiet=as_json) as progress:
        result = run_demo(runs=runs, base=base, seed=seed, progress=progress)
    show_demo_result(result, as_json=as_json)
