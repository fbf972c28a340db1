"""``detour generate``."""

from pathlib import Path
from typing import Any

import click

from detour.cli.early import announce, check_adapters, check_base
from detour.cli.options import (
    DEVICES,
    DTYPES,
    OUT_FOLDER,
    SAMPLERS,
    SEEDS,
    base_option,
    json_option,
    pickle_option,
)


@click.command("generate", short_help="Draw pictures, with and without adapters.")
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@base_option()
@click.option("--revision", help="Branch, tag or commit of a hub base.")
@click.option(
    "--lora", "loras", multiple=True, metavar="FILE[:WEIGHT]", help="Adapter to draw with; repeatable."
)
@click.option(
    "--lora-steps",
    metavar="SHARE=WEIGHT,...",
    help="Factor on the adapters' weights along the steps; 0=1,0.5=0 switches them off halfway.",
)
@click.option(
    "--merge",
    is_flag=True,
    help="Add the adapters to the loaded weights first: many pictures of the same ones are faster.",
)
@click.option("--negative", "negative_prompt", default="", help="What guidance steers away from.")
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Picture i uses seed + i.")
@click.option("--count", type=int, default=1, show_default=True, help="Number of pictures of each prompt.")
@click.option(
    "--steps",
    type=int,
    help="Denoising steps. [default: 25, or what a base or adapter made for few steps wants]",
)
@click.option(
    "--fast",
    metavar="KIND[:STEPS]",
    help="How files made for few steps are drawn: lcm, tcd, turbo, lightning, hyper, schnell, or off. "
    "[default: told from their names]",
)
@click.option("--guidance", "guidance_scale", type=float, help="Guidance scale. [default: the base's own]")
@click.option(
    "--true-guidance",
    "true_guidance_scale",
    type=float,
    help="Classifier-free guidance of a base that is told its guidance scale (Flux-dev); gives --negative its effect.",
)
@click.option(
    "--guidance-interval",
    metavar="FROM-TO",
    help="Shares of the steps between which guidance applies; 0.2-0.8 leaves it out of the first and last fifth. "
    "[default: 0-1]",
)
@click.option(
    "--deep-every",
    type=int,
    metavar="N",
    help="Run a UNet's deeper blocks in one of N steps and reuse what they made (DeepCache). [default: 1]",
)
@click.option(
    "--scheduler",
    type=click.Choice(["auto", *SAMPLERS]),
    help="Sampler; dpm++ is DPM++ 2M. [default: dpm++, and euler on a rectified flow (SD 3, Flux)]",
)
@click.option(
    "--spacing",
    type=click.Choice(["own", "leading", "trailing", "linspace"]),
    help="Where the sampler's times lie on the schedule. [default: as the base says]",
)
@click.option(
    "--eta", type=float, help="Share of noise that ddim or tcd adds back, 0 to 1. [default: 0, tcd 0.3]"
)
@click.option(
    "--from",
    "start",
    metavar="PICTURE",
    help="Picture to begin with; it gives its shape where no size is named.",
)
@click.option(
    "--strength",
    type=float,
    help="Share of the steps that are drawn of a picture begun with --from; 1 keeps nothing. [default: 0.75]",
)
@click.option(
    "--mask", metavar="PICTURE", help="White is drawn anew, black stays to the pixel; of --from's size."
)
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="PICTURE[:STRENGTH]",
    help="Picture that the network is shown beside the prompt; repeatable. [default strength: 1]",
)
@click.option(
    "--reference-adapter",
    metavar="FILE",
    help="IP-Adapter that shows references (plain, Plus or Full). [default: the base's own]",
)
@click.option(
    "--reference-encoder",
    metavar="FOLDER",
    help="Image encoder that it reads. [default: one of its width beside FILE]",
)
@click.option(
    "--reference-blocks",
    metavar="BLOCK=FACTOR,...",
    help="Factor on the strength in blocks: down, up.0, or one attention, up.0.1; others have 1.",
)
@click.option(
    "--reference-steps",
    metavar="SHARE=FACTOR,...",
    help="Factor on the strength along the steps; 0=1,0.5=0 shows references in the first half alone.",
)
@click.option("--width", "width_px", type=int, help="Pixels. [default: the base's own size]")
@click.option("--height", "height_px", type=int, help="Pixels. [default: the base's own size]")
@click.option("--batch", type=int, default=4, show_default=True, help="Pictures in one forward pass.")
@click.option(
    "--width-class",
    type=int,
    help="Rows of each forward pass (1, 2, 4, 8 or 16), as a picture records it: the same bytes in another batch.",
)
@click.option("--device", type=DEVICES, default="auto", show_default=True, help="Where it runs.")
@click.option(
    "--dtype", type=DTYPES, default="auto", show_default=True, help="Precision; auto is fp32 on a CPU."
)
@click.option("--compare", is_flag=True, help="Each picture with and without the adapters, at the same seed.")
@click.option("--grid", is_flag=True, help="One labelled sheet of all pictures as well.")
@click.option(
    "--trace", type=int, default=0, metavar="N", help="Also write the picture at N steps of denoising."
)
@click.option(
    "--out",
    type=OUT_FOLDER,
    default=Path("outputs"),
    show_default=True,
    help="Folder for the pictures; files are numbered, nothing is overwritten.",
)
@click.option(
    "--policy",
    type=click.Path(dir_okay=False, exists=True),
    metavar="FILE",
    help="Safety policy (detour safety show FILE); pictures that it withholds are named, and the exit code is 19.",
)
@click.option(
    "--c2pa-cert",
    type=click.Path(dir_okay=False, exists=True),
    metavar="FILE",
    help="Certificate (PEM, with its chain) that each picture is signed with.",
)
@click.option(
    "--c2pa-key",
    type=click.Path(dir_okay=False, exists=True),
    metavar="FILE",
    help="Key of the certificate (PEM).",
)
@pickle_option
@json_option
def command(
    *,
    out: Path,
    grid: bool,
    as_json: bool,
    lora_steps: str | None,
    reference_steps: str | None,
    reference_blocks: str | None,
    guidance_interval: str | None,
    **flags: Any,
) -> None:
    """Draw a picture for each PROMPT.

    The same command writes the same bytes: every picture has its own seed, and its PNG carries all settings.

    \b
    detour generate "a red house in the desert" --count 4 --grid
    detour generate "a red house in the desert" --lora runs/demo/demo.safetensors:0.8 --compare
    detour generate "a red house in the snow" --from house.png --strength 0.5
    detour generate "a cat" --base sd15/ --reference cat.png:0.6 --reference-adapter ip-adapter_sd15.safetensors
    detour generate "a (red:1.3) house in the [desert]" --negative "blurry, (frame:1.2)"

    Brackets weigh words as in AUTOMATIC1111; write \\( for a bracket that is meant. Prompts may be of any length.
    """
    check_base(flags["base"])
    check_adapters(flags["loras"])
    announce(quiet=as_json)
    from detour.adapters.blocks import parse_block_weights
    from detour.cli.progress import shown
    from detour.cli.results import show_generate_result
    from detour.errors import Withheld
    from detour.generation.strength import parse_interval, parse_step_weights
    from detour.specs.generation import GenerateSpec
    from detour.specs.sources import parse
    from detour.verbs.draw.pictures import generate_pictures

    picture_keys = (
        "negative_prompt",
        "steps",
        "guidance_scale",
        "true_guidance_scale",
        "deep_every",
        "width_px",
        "height_px",
        "scheduler",
        "spacing",
        "eta",
    )
    picture = {key: flags.pop(key) for key in picture_keys}
    if guidance_interval is not None:
        picture["guidance_interval"] = parse_interval(guidance_interval)
    values = {key: value for key, value in flags.items() if value is not None}
    if lora_steps is not None:
        values["lora_steps"] = parse_step_weights(lora_steps)
    if reference_steps is not None:
        values["reference_steps"] = parse_step_weights(reference_steps)
    if reference_blocks is not None:
        values["reference_blocks"] = parse_block_weights(reference_blocks)
    values["picture"] = {key: value for key, value in picture.items() if value is not None}
    spec = parse(GenerateSpec, values)
    with shown(quiet=as_json) as progress:
        result = generate_pictures(spec, out=out, grid=grid, progress=progress)
    show_generate_result(result, as_json=as_json)
    if result.withheld:
        total = len(spec.prompts) * spec.count
        raise Withheld(f"{len(result.withheld)} of {total} pictures were withheld by policy {result.policy}.")
