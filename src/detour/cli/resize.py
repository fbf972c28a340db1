"""``detour resize``."""

from pathlib import Path
from typing import Any

import click

from detour.cli.early import announce, check_adapters
from detour.cli.options import adapter_out_options, force_option, json_option, pickle_option, smaller_options


@click.command("resize", short_help="Write an adapter at a lower rank, or with other strengths by block.")
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File or folder to write.")
@smaller_options
@click.option("--blocks", metavar="BLOCK=WEIGHT,...", help="Strengths, e.g. down=1,mid=0.5,up.1=0.")
@adapter_out_options
@click.option("--layers", is_flag=True, help="List what every layer keeps.")
@pickle_option
@force_option
@json_option
def command(*, source: Path, layers: bool, as_json: bool, **flags: Any) -> None:
    """Write the adapter FILE at a lower rank: the best approximation of each layer, with the share that it keeps.

    Blocks are down.N, mid, up.N, rest, text_encoder; down and up stand for all of theirs.

    \b
    detour resize style.safetensors --energy 0.95 --out small.safetensors
    detour resize style.safetensors --blocks down=0.5,mid=0 --out calm.safetensors
    """
    check_adapters([source])
    announce(quiet=as_json)
    from detour.cli.file_results import show_resize
    from detour.verbs.adapter_tools.resizing import resize_adapter

    show_resize(resize_adapter(source, **flags), as_json=as_json, layers=layers)
