"""``detour pocket``: the embedded bases and the world that they know."""

from pathlib import Path

import click

from detour.cli.options import SEEDS, json_option, one_place


@click.group("pocket", short_help="Draw pictures of the embedded bases' world, or measure a base again.")
def command() -> None:
    """The embedded bases, pocket and pocket-flow, and the world that both were trained on.

    How they were made: python -m detour.pocket.pretrain --help, python -m detour.pocket.pretrain.flow --help
    """


@command.command("draw")
@click.argument("place", required=False, type=click.Path(path_type=Path, file_okay=False), metavar="[OUT]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the pictures, in place of OUT.",
)
@click.option("--style", default="comic", show_default=True, help="A named style of the world.")
@click.option(
    "--subject",
    nargs=3,
    metavar="THING COLOUR WORDS",
    help="One individual in place of a style, and what its captions call it: octopus purple 'a sks cat'.",
)
@click.option("--count", type=click.IntRange(1, 10_000), default=24, show_default=True, help="Pictures.")
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Draws scenes and phrasings.")
def draw(
    *,
    place: Path | None,
    out: Path | None,
    style: str,
    subject: tuple[str, str, str] | None,
    count: int,
    seed: int,
) -> None:
    """Draw a practice set into OUT: pictures in one style, or of one individual, a true caption beside each.

    \b
    detour pocket draw photos/ --style watercolour
    detour train photos/ --name my-watercolour
    """
    from detour.cli.progress import shown
    from detour.errors import RunError
    from detour.verbs.datasets.practice_subject import WorldSubject, draw_subject_pictures
    from detour.verbs.judge.held_out_material import write_world_style
    from detour.verbs.train.demo import draw_training_pictures

    out = one_place(place, out)
    if out.exists() and any(out.iterdir()):
        raise RunError(f"{out}: not empty, and nothing is overwritten. Name another folder.")
    with shown() as progress:
        if subject is not None:
            kind, colour, words = subject
            thing = WorldSubject(kind=kind, colour=colour, words=words)
            draw_subject_pictures(out, thing, count=count, seed=seed, progress=progress)
        else:
            draw_training_pictures(out, style_name=style, count=count, seed=seed, progress=progress)
            write_world_style(out, style)
    click.echo(f"{count} pictures with captions in {out}. Next: detour train {out}")


@command.command("measure")
@click.option(
    "--base", default="pocket", show_default=True, help="pocket, pocket-flow, or a folder of either kind."
)
@click.option(
    "--count", type=click.IntRange(8), default=256, show_default=True, help="Pictures of each kind."
)
@click.option("--guidance", type=float, help="Guidance scale. [default: the base's recommended one]")
@click.option(
    "--out",
    "--sheet",
    "sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write 48 of the pictures there.",
)
@json_option
def measure_base(*, base: str, count: int, guidance: float | None, sheet: Path | None, as_json: bool) -> None:
    """Measure an embedded base again: its VAE, its judge, what it draws for combinations it never saw, its speed.

    Minutes on a CPU; --count 32 gives a rough answer sooner. Runs on one thread, as the model card's figures do.
    """
    import torch

    from detour.bases.base import open_base
    from detour.cli.results import print_json, print_table, table_of
    from detour.pocket.pretrain.flow.measure import measure_flow
    from detour.pocket.pretrain.measuring import measure

    opened = open_base(base)
    opened.require_weights()
    scale = opened.recommended_guidance if guidance is None else guidance
    torch.set_num_threads(1)
    figures = (measure_flow if opened.is_flow else measure)(
        opened.folder, count=count, true_count=count, guidance_scales=[scale], sheet_path=sheet
    )
    if as_json:
        print_json(figures)
        return
    vae = figures["vae"]
    click.echo(
        f"VAE on unseen pictures   {vae['psnr_db']:.1f} dB, off by {vae['mean_abs_error_255']:.1f} of 255"
    )
    click.echo(f"one picture, {figures['steps']} steps    {figures['seconds_a_picture']:.2f} s on one core")
    sides = {"generated": figures["judge_on_generated"], **figures["judge_on_true_renders"]}
    rows = [
        (name, *(f"{side[part]:.1%}" for part in ("object", "colour", "place")))
        for name, side in sides.items()
    ]
    heads = [("judge reads", "left"), ("object", "right"), ("colour", "right"), ("place", "right")]
    print_table(table_of("", heads, rows))
