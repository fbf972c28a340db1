"""``detour compose``."""

from pathlib import Path
from typing import Any

import click

from detour.cli.convert import FILE_DTYPES
from detour.cli.options import force_option, json_option, pickle_option


@click.command("compose", short_help="Make one adapter of several, and predict how they get along.")
@click.argument("loras", nargs=-1, required=True, metavar="FILE[:WEIGHT]...")
@click.option("--out", type=click.Path(path_type=Path), help="Where it goes. [default: only predict]")
@click.option(
    "--method",
    type=click.Choice(["sum", "ties"]),
    default="sum",
    show_default=True,
    help="sum is the weighted sum; ties trims, elects signs and takes the mean of those that agree.",
)
@click.option("--rank", type=click.IntRange(min=1), help="At most this many directions a layer.")
@click.option(
    "--energy", type=float, help="As few directions as keep this share of each layer's change: 0.95."
)
@click.option("--density", type=float, default=0.5, show_default=True, help="Of ties: share of weights kept.")
@click.option(
    "--to",
    type=click.Choice(["kohya", "diffusers", "peft"]),
    default="kohya",
    show_default=True,
    help="Format.",
)
@click.option("--family", help="sd1, sd2 or sdxl. [default: told from the files]")
@click.option("--dtype", type=FILE_DTYPES, default="auto", show_default=True, help="auto keeps the sources'.")
@pickle_option
@force_option
@json_option
def command(*, loras: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Say how adapters get along, and write their weighted sum as one adapter.

    Without --rank and --energy the sum is exact: ranks add up. With them, the share that is kept is stated.

    \b
    detour compose style.safetensors:0.8 subject.safetensors:0.5
    detour compose style.safetensors:0.8 subject.safetensors:0.5 --out both.safetensors --rank 16
    """
    from detour.cli.file_results import show_composition
    from detour.recipes.compose_adapters import compose_adapters

    show_composition(compose_adapters(loras, **flags), as_json=as_json)
