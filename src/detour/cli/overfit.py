"""``detour overfit``."""

from pathlib import Path
from typing import Any

import click

from detour.cli.early import announce, check_base
from detour.cli.options import SEEDS, base_option, json_option


@click.command("overfit", short_help="Train ten steps on one picture: does this installation learn at all?")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Picture to train on. [default: one that is drawn]",
)
@click.option("--caption", help="What the picture shows. [default: the .txt beside it]")
@base_option()
@click.option("--steps", type=int, default=10, show_default=True, help="Training steps.")
@click.option("--rank", type=int, default=4, show_default=True, help="Rank of the adapter.")
@click.option("--targets", default="attn", show_default=True, help="As for detour train.")
@click.option("--lr", type=float, default=2e-3, show_default=True, help="Learning rate.")
@click.option(
    "--seed", type=SEEDS, default=0, show_default=True, help="Seed of noise, timesteps and adapter."
)
@json_option
def command(*, as_json: bool, **settings: Any) -> None:
    """Train ten steps on one picture, in less than a minute, to check that this installation learns at all.

    Exit code 8 when it does not.
    """
    check_base(settings["base"])
    announce(quiet=as_json)
    from detour.cli.progress import shown
    from detour.errors import ProofFailed
    from detour.verbs.explain.overfitting import overfit_one

    with shown(quiet=as_json) as progress:
        result = overfit_one(progress=progress, **settings)
    if as_json:
        from detour.cli.results import echo_json

        echo_json(result.to_json())
    else:
        click.echo(f"{result.picture}: '{result.caption}'")
        click.echo("loss, same noise   " + "  ".join(f"{loss:.4f}" for loss in result.losses))
    if not result.learns:
        raise ProofFailed(result.sentence)
    if not as_json:
        click.secho(result.sentence, bold=True)
        click.echo(result.why_a_floor)
