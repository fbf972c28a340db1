"""``detour inspect``."""

from pathlib import Path
from typing import get_args

import click

from detour.adapter_methods import AdapterMethod
from detour.cli.early import announce, check_base
from detour.cli.options import json_option


def parse_ranks(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    """``"4,8,16"`` → ``(4, 8, 16)``."""
    try:
        ranks = tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"'{value}' is not a list of whole numbers, e.g. 4,8,16") from None
    if not ranks or min(ranks) < 1:
        raise click.BadParameter(f"'{value}': a rank is at least 1")
    return ranks


@click.command("inspect", short_help="Say where adapters go in a base, and what they cost.")
@click.argument("base", metavar="BASE")
@click.option(
    "--targets",
    default="attn",
    show_default=True,
    help="Preset (cross-attn, self-attn, attn, attn-proj, kohya, linear, conv, all), comma list, or re:REGEX.",
)
@click.option(
    "--rank", "ranks", default="4,8,16", show_default=True, callback=parse_ranks, help="Ranks to count for."
)
@click.option(
    "--method",
    type=click.Choice(get_args(AdapterMethod)),
    default="lora",
    show_default=True,
    help="How each layer is adapted.",
)
@click.option("--layers", is_flag=True, help="List every adaptable layer that the targets match.")
@click.option("--revision", help="Branch, tag or commit of a hub base.")
@click.option(
    "--out",
    "--plot",
    "plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw the UNet with frozen and adapted parts told apart.",
)
@json_option
def command(
    *,
    base: str,
    targets: str,
    ranks: tuple[int, ...],
    method: AdapterMethod,
    layers: bool,
    revision: str | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Say where adapters go in BASE, and what they cost.

    BASE is pocket or pocket-flow; sd15, sd21, sdxl, sd35-medium, sd35-large, flux-dev or flux-schnell, which need no
    weights; a hub id, a folder or a checkpoint.

    \b
    detour inspect sd15 --targets attn --rank 4,8,16
    detour inspect pocket --plot unet.png
    """
    check_base(base)
    announce(quiet=as_json)
    from detour.cli.inspection import show_inspection
    from detour.verbs.explain.inspection import inspect_base, plot_unet

    inspection = inspect_base(base, targets=targets, ranks=ranks, method=method, revision=revision)
    if plot is not None:
        plot_unet(inspection, plot)
    show_inspection(inspection, as_json=as_json, layers=layers, plot=plot)
