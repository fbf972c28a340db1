"""``detour extract``."""

from pathlib import Path
from typing import Any

import click

from detour.cli.early import announce, check_base
from detour.cli.options import FILE_FORMATS, force_option, json_option


@click.command("extract", short_help="Make an adapter from the difference of two bases.")
@click.argument("base", metavar="BASE")
@click.argument("tuned", metavar="TUNED")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File or folder to write.")
@click.option(
    "--rank",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Highest rank of a layer.",
)
@click.option(
    "--energy", type=float, help="The lowest rank that keeps this share of each layer's change, such as 0.95."
)
@click.option(
    "--to",
    type=FILE_FORMATS,
    default="kohya",
    show_default=True,
    help="Format.",
)
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "fp16", "bf16"]),
    default="fp32",
    show_default=True,
    help="Precision.",
)
@click.option("--layers", is_flag=True, help="List what every layer keeps.")
@force_option
@json_option
def command(*, base: str, tuned: str, layers: bool, as_json: bool, **flags: Any) -> None:
    """Write the adapter that makes BASE's UNet and text encoders into TUNED's, as near as its rank allows.

    Linear and convolution weights are taken apart by SVD; biases and norms that differ cannot go into an
    adapter and are counted.

    \b
    detour extract base-folder tuned.safetensors --rank 32 --out tuned-lora.safetensors
    """
    check_base(base)
    check_base(tuned)
    announce(quiet=as_json)
    from detour.cli.file_results import show_extraction
    from detour.cli.progress import shown
    from detour.verbs.adapter_tools.extraction import extract_adapter

    with shown(quiet=as_json) as progress:
        result = extract_adapter(base, tuned, progress=progress, **flags)
    show_extraction(result, as_json=as_json, layers=layers)
