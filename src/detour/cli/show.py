"""``detour show``."""

from pathlib import Path

import click

from detour.cli.early import announce, check_adapters, check_base
from detour.cli.options import force_option, json_option, pickle_option

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
"""Endings of files that are shown as pictures."""


@click.command("show", short_help="Say what is in an adapter file, or how a picture was drawn.")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--base",
    metavar="BASE",
    help="List the layers that this base does not have; for a picture: the base that drew it.",
)
@click.option(
    "--norms/--no-norms",
    default=None,
    help="Norm and stable rank of the change by block. [default: for files up to 64 MB]",
)
@click.option(
    "--out",
    "--plot",
    "plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw the norm and the stable rank of every block's change.",
)
@click.option(
    "--verify", is_flag=True, help="Draw a picture again and compare the pixels; exit code 21 if not equal."
)
@click.option(
    "--files",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="FOLDER",
    help="Where --verify looks for adapters, reference and start pictures, by their hashes.",
)
@click.option(
    "--trust",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE.pem",
    help="Authorities whose certificates count in a picture's signed manifest.",
)
@click.option(
    "--mark",
    metavar="KEY",
    help="Look for the invisible mark of this key in a picture, also in a cut, resized or JPEG copy.",
)
@click.option("--config", is_flag=True, help="Print the run.toml that repeats the run that made it.")
@pickle_option
@force_option
@json_option
def command(
    *,
    file: Path,
    base: str | None,
    norms: bool | None,
    plot: Path | None,
    verify: bool,
    files: Path | None,
    trust: Path | None,
    mark: str | None,
    config: bool,
    allow_pickle: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Say what is in the adapter FILE, without loading a base; or how the picture FILE.png was drawn.

    \b
    detour show runs/demo/demo.safetensors --plot blocks.png
    detour show style.safetensors --base sdxl
    detour show ip-adapter-plus_sd15.safetensors --base sd15
    detour show runs/demo/demo.safetensors --config > run.toml
    detour show outputs/0000-a-red-house-seed0.png --verify --files runs/
    detour show copy.jpg --mark KEY
    """
    if file.suffix.lower() in PICTURES:
        _picture(file, base=base, verify=verify, files=files, trust=trust, mark=mark, as_json=as_json)
        return
    if verify or files is not None or trust is not None or mark is not None:
        raise click.UsageError("--verify, --files, --trust and --mark are for pictures: name a PNG file.")
    check_base(base)
    check_adapters([file])
    announce(quiet=as_json or config)
    from detour.cli.file_results import show_reference_report, show_report
    from detour.errors import ConfigError
    from detour.printing import printable
    from detour.verbs.adapter_tools.block_figure import draw_blocks
    from detour.verbs.adapter_tools.contents import ReferenceReport, read_config, show_adapter
    from detour.verbs.staging import refuse_no_png, refuse_taken

    if config:
        click.echo(printable(read_config(file), keep="\n\t"), nl=False)
        return
    if plot is not None:
        refuse_no_png(plot)
        refuse_taken(plot, force=force)
    report = show_adapter(
        file, base=base, norms=True if plot is not None else norms, allow_pickle=allow_pickle
    )
    if isinstance(report, ReferenceReport):
        if plot is not None:
            raise ConfigError("--plot draws the change of a base's layers, and an IP-Adapter changes none.")
        show_reference_report(report, as_json=as_json)
        return
    if plot is not None:
        draw_blocks(report, plot)
    show_report(report, as_json=as_json, plot=plot)


def _picture(
    file: Path,
    *,
    base: str | None,
    verify: bool,
    files: Path | None,
    trust: Path | None,
    mark: str | None,
    as_json: bool,
) -> None:
    import json

    from detour.data.pictures import open_picture, open_png

    # Before PyTorch is loaded: a file that is no picture is said at once.
    if file.suffix.lower() == ".png":
        open_png(file)
    else:
        open_picture(file, max_megapixels=100.0)
    announce(quiet=as_json)
    from detour.cli.results import echo_json
    from detour.errors import NotReproduced
    from detour.printing import printable
    from detour.verbs.draw.provenance import read_picture, verify_picture

    read = read_picture(file, trust=trust, mark=mark)
    report = read.report
    if not as_json:
        for line in report.lines():
            click.echo(printable(line))
    again = verify_picture(read, base=base, files=files, mark=mark) if verify else None
    if as_json:
        shown = report.model_dump(mode="json")
        if again is not None:
            shown["again"] = again.model_dump(mode="json")
        echo_json(json.dumps(shown, indent=2))
    elif again is not None and again.state == "equal":
        click.echo(again.line())
    if again is not None and again.state != "equal":
        raise NotReproduced(again.line())
