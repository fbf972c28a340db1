"""``detour grid``."""

from pathlib import Path
from typing import Any

import click

from detour.cli.early import announce, check_adapters, check_base
from detour.cli.options import (
    SEEDS,
    base_option,
    drawing_options,
    force_option,
    json_option,
    pickle_option,
    policy_option,
)


def parse_weights(_: click.Context, __: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """``"0.5,1"`` → ``(0.5, 1.0)``."""
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"'{value}' is not a list of numbers, e.g. 0.5,1") from None


@click.command(
    "grid", short_help="Draw two adapters and their sum, or one at several strengths, on one sheet."
)
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@base_option()
@click.option("--revision", help="Branch, tag or commit of a hub base.")
@click.option("--lora", "loras", multiple=True, metavar="FILE[:WEIGHT]", help="One or two adapters.")
@click.option(
    "--weights",
    callback=parse_weights,
    help="Factors on the adapters' weights. [default: 0.5,1 as rows of two; 0.5,0.75,1,1.25 as columns of one]",
)
@click.option(
    "--seed", type=SEEDS, default=0, show_default=True, help="Prompt i uses seed + i in every cell."
)
@click.option("--steps", type=int, default=25, show_default=True, help="Denoising steps.")
@click.option("--guidance", "guidance_scale", type=float, help="Guidance scale. [default: the base's own]")
@drawing_options()
@policy_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("grid.png"),
    show_default=True,
    help="Picture file to write; its figures go beside it as .json.",
)
@pickle_option
@force_option
@json_option
def command(
    *, out: Path, weights: tuple[float, ...] | None, force: bool, as_json: bool, **flags: Any
) -> None:
    """Draw each PROMPT with the base, with two adapters, and with both, at the same seed.

    With one adapter: a column for each strength, a row for each checkpoint that its run kept.

    \b
    detour grid "a red house in the desert" --lora runs/demo/demo.safetensors
    detour grid "a red house in the desert" --lora style.safetensors --lora subject.safetensors
    """
    check_base(flags["base"])
    check_adapters(flags["loras"])
    announce(quiet=as_json)
    from detour.cli.file_results import refuse_withheld, show_grid, show_strengths
    from detour.cli.progress import shown
    from detour.specs.generation import GenerateSpec
    from detour.specs.sources import parse
    from detour.verbs.draw.grid import draw_grid
    from detour.verbs.draw.strengths import draw_strengths

    picture = {key: flags.pop(key) for key in ("steps", "guidance_scale")}
    values = {key: value for key, value in flags.items() if value is not None}
    values["picture"] = {key: value for key, value in picture.items() if value is not None}
    spec = parse(GenerateSpec, values)
    with shown(quiet=as_json) as progress:
        if len(spec.loras) == 1:
            chosen = {} if weights is None else {"strengths": weights}
            sheet = draw_strengths(spec, out=out, force=force, progress=progress, **chosen)
        else:
            pairs = {} if weights is None else {"weights": weights}
            result = draw_grid(spec, out=out, force=force, progress=progress, **pairs)
    if len(spec.loras) == 1:
        show_strengths(sheet, as_json=as_json)
        refuse_withheld(sheet)
    else:
        show_grid(result, as_json=as_json)
        refuse_withheld(result)
