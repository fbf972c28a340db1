"""``detour show``."""

from pathlib import Path

import click

from detour.cli.early import announce, check_adapters, check_base
from detour.cli.options import force_option, json_option, pickle_option


@click.command("show", short_help="Say what is in an adapter file.")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--base", metavar="BASE", help="Which of its layers this base does not have.")
@click.option(
    "--norms/--no-norms",
    default=None,
    help="Figures of the change, block by block. [default: for files up to 64 MB]",
)
@click.option(
    "--out",
    "--plot",
    "plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw each block's norm and how few directions carry it.",
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
    config: bool,
    allow_pickle: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Say what is in the adapter FILE, without loading a base.

    \b
    detour show runs/demo/demo.safetensors --plot blocks.png
    detour show style.safetensors --base sdxl
    detour show ip-adapter-plus_sd15.safetensors --base sd15
    detour show runs/demo/demo.safetensors --config > run.toml
    """
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
