"""``detour data``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from detour.cli.early import announce, check_run
from detour.cli.options import DEVICES, SEEDS, base_option, json_option

if TYPE_CHECKING:
    from detour.verbs.datasets.checks import DataReport


@click.group("data", short_help="Check or caption a data set before training on it.")
def command() -> None:
    """Pictures and captions: check them before training."""


@command.command("check")
@click.argument("source", metavar="DATA")
@click.option(
    "--goal",
    type=click.Choice(["style", "subject"]),
    default="style",
    show_default=True,
    help="What the adapter is for.",
)
@base_option()
@click.option(
    "--resolution", type=int, help="Side of the training pictures, pixels. [default: the base's own]"
)
@click.option("--recursive", is_flag=True, help="Read every folder below DATA as well.")
@click.option("--buckets", is_flag=True, help="As for detour train: keep each picture's shape.")
@click.option("--skip-bad-images", is_flag=True, help="As for detour train: leave unreadable pictures out.")
@click.option("--caption", help="Caption of the pictures that have none.")
@click.option("--trigger", default="", help="Word put in front of every caption that lacks it.")
@click.option(
    "--seed",
    type=SEEDS,
    default=0,
    show_default=True,
    help="Seed of the run; it decides which pictures are held out.",
)
@click.option(
    "--judge",
    metavar="JUDGE",
    help="CLIP model that is asked whether captions fit their pictures. [default: the base's own, or the usual one "
    "where it was fetched before]",
)
@click.option(
    "--out",
    "--sheet",
    "sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw the pictures on one sheet, those with a flaw framed in red.",
)
@json_option
def check(
    *,
    source: str,
    goal: str,
    base: str,
    resolution: int | None,
    recursive: bool,
    buckets: bool,
    skip_bad_images: bool,
    caption: str | None,
    trigger: str,
    seed: int,
    judge: str | None,
    sheet: Path | None,
    as_json: bool,
) -> None:
    """Say what DATA holds and what is wrong with it; exits with 1 when training would stop.

    Finds unreadable pictures, pictures in folders that are not read, missing or equal captions, words that stand in
    nearly every caption, captions that fit their pictures no better than chance (as a judge reads them), copies (also
    across the held-out split), blurred and small pictures, pictures of which much is cut away, frames, and marks that
    stand in the same place of most pictures.

    \b
    detour data check photos/ --sheet photos.png
    detour data check dog/ --goal subject --trigger "sks dog"
    """
    from detour.cli.progress import shown
    from detour.specs import BaseSpec, DataSpec, RunSpec
    from detour.specs.sources import parse

    given = {
        "source": source,
        "recursive": recursive,
        "buckets": buckets,
        "skip_bad_images": skip_bad_images,
        "caption": caption,
        "trigger": trigger,
    }
    spec = parse(DataSpec, given)
    check_run(RunSpec(data=spec, base=BaseSpec(name=base)))
    announce(quiet=as_json)
    from detour.verbs.datasets.checks import check_data

    with shown(quiet=as_json) as progress:
        report = check_data(
            spec,
            goal="subject" if goal == "subject" else "style",
            base=base,
            resolution_px=resolution,
            seed=seed,
            sheet=sheet,
            judge=judge,
            progress=progress,
        )
    if as_json:
        from detour.cli.results import echo_json

        echo_json(report.to_json())
    else:
        show(report, sheet)
    if not report.usable:
        raise SystemExit(1)


def show(report: "DataReport", sheet: Path | None) -> None:
    """The report as a person reads it: what is there, then what to do."""
    for line in report.found:
        click.echo(line)
    num_class = report.class_pictures
    class_pictures = f", and {num_class} class picture{'s' * (num_class != 1)}" if num_class else ""
    ratios = ", ".join(f"{ratio} ×{count}" for ratio, count in list(report.aspect_ratios.items())[:5])
    low, middle, high = (f"{w} × {h}" for w, h in zip(report.width_px, report.height_px, strict=True))
    click.echo(f"sizes in pixels: median {middle}, from {low} to {high}; aspect ratios {ratios}")
    click.echo(
        f"captions: {report.captions} of {report.pictures}, {report.distinct_captions} different{class_pictures}; "
        f"{report.held_out} pictures would be held out"
    )
    if report.words:
        words = ", ".join(f"{word} {count}" for word, count in list(report.words.items())[:10])
        click.echo(f"words in most captions: {words}")
    click.echo("")
    for finding in report.findings:
        click.echo(f"{finding.severity}: {finding.cause}")
        click.echo(f"  fix: {finding.fix}")
        for name in finding.pictures[:5]:
            click.echo(f"  - {name}")
        if len(finding.pictures) > 5:
            click.echo(f"  - and {len(finding.pictures) - 5} more")
    if not report.findings:
        click.echo("nothing is wrong with it, as far as this can be seen")
    if sheet is not None:
        click.echo(f"sheet: {sheet}")


@command.command("caption")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--model",
    default="Salesforce/blip-image-captioning-base",
    show_default=True,
    help="A BLIP captioning model: hub id or folder.",
)
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--prompt", default="", help="Words that each caption begins with, e.g. 'a drawing of'.")
@click.option("--device", type=DEVICES, default="auto", show_default=True, help="Where the work runs.")
@json_option
def caption(
    *, folder: Path, model: str, revision: str | None, prompt: str, device: str, as_json: bool
) -> None:
    """Write a caption beside every picture of FOLDER that has none, with a BLIP model.

    Captions that are there stay. Read what it wrote before training: a caption that names the style keeps the adapter
    from learning it.
    """
    from detour.cli.progress import shown
    from detour.verbs.datasets.captioning import caption_pictures

    with shown(quiet=as_json) as progress:
        result = caption_pictures(
            folder, model=model, revision=revision, prompt=prompt, device=device, progress=progress
        )
    if as_json:
        from detour.cli.results import echo_json

        echo_json(result.to_json())
        return
    for name, text in result.written.items():
        click.echo(f"{name}: {text}")
    click.echo(
        f"{len(result.written)} captions written, {result.kept} were there. Next: detour data check {folder}"
    )
