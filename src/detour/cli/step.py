"""``detour step``."""

from pathlib import Path
from typing import Any

import click

from detour.cli.early import announce, check_base
from detour.cli.options import SEEDS, base_option, json_option


@click.command("step", short_help="Show every intermediate result of one training step.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Picture to train on. [default: one that is drawn]",
)
@click.option("--caption", help="What the picture shows. [default: the .txt beside it]")
@base_option()
@click.option(
    "--timestep",
    type=float,
    help="Timestep, 0 to 999; on a flow the noise level, 0 to 1. [default: drawn from the seed]",
)
@click.option("--rank", type=int, default=4, show_default=True, help="Rank of the adapter.")
@click.option("--targets", default="attn", show_default=True, help="As for detour train.")
@click.option("--lr", type=float, default=1e-3, show_default=True, help="Learning rate of the step.")
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Seed of noise, timestep and adapter.")
@click.option(
    "--out",
    "--plot",
    "plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw the step.",
)
@json_option
def command(*, plot: Path | None, as_json: bool, **settings: Any) -> None:
    """Show every tensor of one training step, from picture to latents, noise, loss and gradients.

    The base is hashed before and after: it does not change.
    """
    check_base(settings["base"])
    announce(quiet=as_json)
    from detour.cli.results import print_table, table_of
    from detour.verbs.explain.slow_step import step_once
    from detour.verbs.explain.step_figure import plot_step

    trace = step_once(**settings)
    if plot is not None:
        plot_step(trace, plot)
    if as_json:
        from detour.cli.results import echo_json

        echo_json(trace.to_json())
        return
    click.echo(f"one step on {trace.base}: {trace.picture}, '{trace.caption}', timestep {trace.timestep}")
    rows = [
        (
            note.name,
            "×".join(str(side) for side in note.shape) or "scalar",
            note.dtype,
            f"{note.mean:.4f}",
            f"{note.std:.4f}",
            f"{note.norm:.4g}",
            note.meaning,
        )
        for note in trace.tensors
    ]
    numbers = [(name, "right") for name in ("shape", "dtype", "mean", "std", "norm")]
    print_table(table_of("Tensors", [("tensor", "left"), *numbers, ("what it is", "left")], rows))
    groups = [
        (
            group.block,
            str(group.layers),
            f"{group.down_grad_norm:.3g}",
            f"{group.up_grad_norm:.3g}",
            f"{group.up_change_norm:.3g}",
        )
        for group in trace.gradients
    ]
    heads = [("block", "left"), ("layers", "right"), ("down gradient", "right"), ("up gradient", "right")]
    print_table(table_of("Adapter", [*heads, ("change of up", "right")], groups))
    for remark in trace.remarks:
        click.echo(f"- {remark}")
    if plot is not None:
        click.echo(f"picture: {plot}")
