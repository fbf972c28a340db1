"""``detour forward``."""

from pathlib import Path
from typing import Any

import click

from detour.cli.early import announce, check_base
from detour.cli.options import DEVICES, SEEDS, base_option, force_option, json_option


@click.command("forward", short_help="Show the forward process on a picture, and the base's way back.")
@click.argument(
    "picture", type=click.Path(path_type=Path, dir_okay=False), required=False, metavar="[PICTURE]"
)
@click.option("--caption", help="What the picture shows. [default: the .txt beside it]")
@base_option()
@click.option("--revision", help="Branch, tag or commit of a hub base.")
@click.option(
    "--schedule",
    type=click.Choice(["base", "scaled_linear", "linear", "squaredcos_cap_v2"]),
    default="base",
    show_default=True,
    help="Noise schedule.",
)
@click.option("--beta-start", type=float, help="First beta. [default: the schedule's usual one]")
@click.option("--beta-end", type=float, help="Last beta. [default: the schedule's usual one]")
@click.option("--zero-terminal-snr", is_flag=True, help="Rescale the schedule so that it ends in pure noise.")
@click.option("--levels", type=int, default=10, show_default=True, help="Noise levels that are shown.")
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Seed of all noise.")
@click.option("--device", type=DEVICES, default="auto", show_default=True, help="Where it runs.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("forward.png"),
    show_default=True,
    help="The figure.",
)
@force_option
@json_option
def command(*, out: Path, force: bool, as_json: bool, **settings: Any) -> None:
    """Add noise to PICTURE at once and step by step, compare the two, and denoise it again with the base.

    Without PICTURE the embedded base's world draws one.

    \b
    detour forward photo.jpg
    detour forward photo.jpg --schedule squaredcos_cap_v2 --out cosine.png
    """
    check_base(settings["base"])
    announce(quiet=as_json)
    from detour.cli.results import print_table, table_of
    from detour.verbs.explain.forward_figure import agreement, plot_forward
    from detour.verbs.explain.forward_trace import trace_forward
    from detour.verbs.staging import refuse_no_png, refuse_taken

    refuse_no_png(out)
    refuse_taken(out, force=force)
    trace = trace_forward(**settings)
    plot_forward(trace, out)
    if as_json:
        from detour.cli.results import echo_json

        echo_json(trace.to_json())
        return
    click.echo(f"{trace.picture} on {trace.base}, schedule {trace.schedule}: '{trace.caption}'")
    rows = [
        (
            str(level.timestep),
            f"{level.timestep / trace.num_timesteps:.3f}" if trace.is_flow else f"{level.alpha_cumprod:.4g}",
            f"{level.snr:.3g}",
            f"{level.variance:.3f}",
            f"{level.variance_expected:.3f}",
            f"{level.largest_difference:.1e}",
        )
        for level in trace.levels
    ]
    heads = ("timestep", "σ" if trace.is_flow else "ᾱ", "SNR", "variance", "expected", "walk − jump")
    print_table(table_of("Noise levels", [(head, "right") for head in heads], rows))
    click.echo(f"- one jump and step by step {agreement(trace)}")
    click.echo(f"- the variance is what it should be to {trace.largest_variance_error:.1%}")
    click.echo(
        f"- the latents' own variance is {trace.clean_variance:.2f}: theirs with noise is one only at the end"
    )
    click.echo(f"picture: {out}")
