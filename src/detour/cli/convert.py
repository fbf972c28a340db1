"""``detour convert``."""

from pathlib import Path
from typing import Any

import click

from detour.cli.early import announce, check_adapters
from detour.cli.options import FILE_DTYPES, FILE_FORMATS, force_option, json_option, one_place, pickle_option


@click.command(
    "convert", short_help="Write an adapter in another format; the change is proved to be the same."
)
@click.argument("source", type=click.Path(path_type=Path), metavar="IN")
@click.argument("place", required=False, type=click.Path(path_type=Path), metavar="[OUT]")
@click.option("--out", type=click.Path(path_type=Path), help="File or folder to write, in place of OUT.")
@click.option(
    "--to",
    type=FILE_FORMATS,
    required=True,
    help="kohya: most web UIs. diffusers: load_lora_weights. peft: a folder for PeftModel.",
)
@click.option("--family", help="sd1, sd2, sdxl, sd3 or flux. [default: told from the file]")
@click.option("--dtype", type=FILE_DTYPES, default="auto", show_default=True, help="auto keeps the source's.")
@click.option("--base", metavar="BASE", help="Base on whose weights DoRA layers are compared too.")
@click.option("--allow-partial", is_flag=True, help="Convert what can be read, and list what was left out.")
@pickle_option
@force_option
@json_option
def command(*, source: Path, place: Path | None, out: Path | None, as_json: bool, **flags: Any) -> None:
    """Write the adapter IN as OUT in another format.

    Both files are read back and every layer's weight change is compared; above 1e-6 (fp32; the rounding unit
    in half precision) there is no output.

    \b
    detour convert runs/demo/demo.safetensors demo-peft --to peft
    detour convert pytorch_lora_weights.safetensors style.safetensors --to kohya
    """
    out = one_place(place, out)
    check_adapters([source])
    announce(quiet=as_json)
    from detour.cli.file_results import show_conversion
    from detour.verbs.adapter_tools.conversion import convert_adapter

    show_conversion(convert_adapter(source, out, **flags), as_json=as_json)
