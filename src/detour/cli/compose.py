"""``detour compose``."""

from pathlib import Path
from typing import Any

import click

from detour.cli.early import announce, check_adapters
from detour.cli.options import (
    adapter_out_options,
    base_option,
    force_option,
    json_option,
    pickle_option,
    smaller_options,
)


@click.command("compose", short_help="Combine several adapters into one, and predict how they interfere.")
@click.argument("loras", nargs=-1, required=True, metavar="FILE[:WEIGHT]...")
@click.option(
    "--out", type=click.Path(path_type=Path), help="File or folder to write. [default: predict only]"
)
@click.option(
    "--method",
    type=click.Choice(["sum", "ties"]),
    default="sum",
    show_default=True,
    help="sum is the weighted sum; ties trims, elects signs and takes the mean of those that agree.",
)
@smaller_options
@click.option("--density", type=float, help="With ties: share of the weights that are kept. [default: 0.5]")
@adapter_out_options
@base_option(None)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw a heat map of what they share, a .png.",
)
@pickle_option
@force_option
@json_option
def command(*, loras: tuple[str, ...], plot: Path | None, as_json: bool, **flags: Any) -> None:
    """Predict how adapters interfere, and write their weighted sum as one adapter.

    Without --rank and --energy the sum is exact: ranks add up. With them, the share that is kept is stated.

    With --base the adapters are measured on it as well: how each moves its predictions, and both together.

    \b
    detour compose style.safetensors:0.8 subject.safetensors:0.5 --plot shared.png
    detour compose style.safetensors:0.8 subject.safetensors:0.5 --out both.safetensors --rank 16
    """
    check_adapters(loras)
    announce(quiet=as_json)
    from detour.cli.file_results import show_composition
    from detour.verbs.adapter_tools.composition import compose_adapters

    show_composition(compose_adapters(loras, plot=plot, **flags), as_json=as_json, plot=plot)
