"""``detour interpolate``."""

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


@click.command("interpolate", short_help="Draw pictures between two seeds, two prompts or two adapters.")
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT [PROMPT]")
@base_option()
@click.option("--revision", help="Branch, tag or commit of a hub base.")
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Seed of the start noise.")
@click.option("--seed-to", type=SEEDS, help="Seed at the other end. [default: the same]")
@click.option(
    "--lora",
    "loras",
    multiple=True,
    metavar="FILE[:WEIGHT]",
    help="Adapter that every picture is drawn with; repeatable.",
)
@click.option(
    "--lora-from",
    multiple=True,
    metavar="FILE[:WEIGHT]",
    help="Adapter whose strength falls to 0; repeatable.",
)
@click.option(
    "--lora-to",
    multiple=True,
    metavar="FILE[:WEIGHT]",
    help="Adapter whose strength rises from 0; repeatable.",
)
@click.option(
    "--frames", type=int, default=9, show_default=True, help="Number of pictures, both ends included."
)
@click.option("--negative", "negative_prompt", default="", help="What guidance steers away from.")
@click.option("--steps", type=int, default=25, show_default=True, help="Denoising steps.")
@click.option("--guidance", "guidance_scale", type=float, help="Guidance scale. [default: the base's own]")
@drawing_options()
@policy_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("between.png"),
    show_default=True,
    help="Picture file to write; its figures go beside it as .json.",
)
@click.option(
    "--video",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a video as well: .gif, or .mp4 and .webm (pip install detour-lora[video]).",
)
@click.option("--fps", type=float, default=8.0, show_default=True, help="Pictures a second of the video.")
@pickle_option
@force_option
@json_option
def command(*, out: Path, video: Path | None, fps: float, force: bool, as_json: bool, **flags: Any) -> None:
    """Draw pictures from one PROMPT, seed or adapter to another, and measure how evenly they change.

    Start noise goes along the sphere, text states along the line, strengths from 0 to 1; the sampler is DDIM without
    noise. Whatever has two ends goes along together.

    \b
    detour interpolate "a red house in the desert" --seed 1 --seed-to 2 --video way.gif
    detour interpolate "a red house" "a blue house" --frames 17
    detour interpolate "a red house" --lora-to runs/demo/demo.safetensors
    """
    check_base(flags["base"])
    check_adapters([*flags["loras"], *flags["lora_from"], *flags["lora_to"]])
    announce(quiet=as_json)
    from detour.cli.file_results import refuse_withheld, show_interpolation
    from detour.cli.progress import shown
    from detour.specs.generation import InterpolateSpec
    from detour.specs.sources import parse
    from detour.verbs.draw.interpolation import interpolate_pictures

    picture = {key: flags.pop(key) for key in ("steps", "guidance_scale", "negative_prompt")}
    values = {key: value for key, value in flags.items() if value is not None}
    values["picture"] = {key: value for key, value in picture.items() if value is not None}
    spec = parse(InterpolateSpec, values)
    with shown(quiet=as_json) as progress:
        result = interpolate_pictures(spec, out=out, video=video, fps=fps, force=force, progress=progress)
    show_interpolation(result, as_json=as_json)
    refuse_withheld(result)
