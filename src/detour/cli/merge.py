"""``detour merge``."""

from pathlib import Path
from typing import Any

import click

from detour.cli.early import announce, check_adapters, check_base
from detour.cli.options import force_option, json_option, pickle_option


@click.command("merge", short_help="Merge adapters into the weights of a base.")
@click.argument("base", metavar="BASE")
@click.option("--lora", "loras", multiple=True, metavar="FILE[:WEIGHT]", help="Adapter to merge; repeatable.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR|FILE.safetensors",
    help="A diffusers folder, or a single-file checkpoint, whichever the base is.",
)
@click.option("--revision", help="Branch, tag or commit of a hub base.")
@click.option(
    "--pictures",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Same-seed pictures of the proof; 0 proves by weights alone.",
)
@click.option("--prompt", help="Prompt of those pictures. [default: the adapters' triggers]")
@pickle_option
@force_option
@json_option
def command(*, base: str, as_json: bool, **flags: Any) -> None:
    """Write BASE with the adapters in its weights, in its own precision; the sum is made in fp32.

    Proved by every weight's change and by same-seed pictures; where they are not what was asked for, there is
    no output. A negative weight takes an adapter out again.

    \b
    detour merge pocket --lora runs/demo/demo.safetensors:0.8 --out pocket-demo
    detour generate "a red house in the desert" --base pocket-demo
    """
    check_base(base)
    check_adapters(flags["loras"])
    announce(quiet=as_json)
    from detour.cli.file_results import show_merge
    from detour.cli.progress import shown
    from detour.verbs.adapter_tools.merging import merge_adapters

    with shown(quiet=as_json) as progress:
        result = merge_adapters(base, progress=progress, **flags)
    show_merge(result, as_json=as_json)
