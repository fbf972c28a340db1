"""``detour plan``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detour.cli.early import announce, check_base
from detour.cli.options import DEVICES, DTYPES, base_option, json_option

if TYPE_CHECKING:
    from detour.verbs.train.memory_plan import MemoryPlan

# flag → key of run.toml
KEYS = {
    "base": "base.name",
    "revision": "base.revision",
    "device": "base.device",
    "dtype": "base.dtype",
    "goal": "goal",
    "resolution": "data.resolution",
    "rank": "adapter.rank",
    "targets": "adapter.targets",
    "method": "adapter.method",
    "batch": "train.batch",
    "grad_accum": "train.grad_accum",
}


@click.command("plan", short_help="Predict the memory of a run by stage, with settings for common GPUs.")
@base_option(default=None)
@click.option("--goal", type=click.Choice(["style", "subject"]), help="As for detour train.")
@click.option("--rank", type=int, help="Rank of the adapter.")
@click.option("--targets", help="As for detour train.")
@click.option("--method", help="As for detour train.")
@click.option("--batch", type=int, help="Samples in one forward pass.")
@click.option("--grad-accum", type=int, help="Forward passes in one step.")
@click.option("--resolution", type=int, help="Side of the training pictures in pixels.")
@click.option("--device", type=DEVICES, help="Where the work runs.")
@click.option("--dtype", type=DTYPES, help="Precision of the frozen base.")
@click.option("--revision", help="Branch, tag or commit of a hub base.")
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="A run.toml or resolved.toml."
)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. base.quantize=nf4."
)
@json_option
def command(*, config: Path | None, assignments: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Predict the memory of a run by stage and part, and propose settings for common GPUs.

    The training step runs on tensors without storage, so nothing is downloaded but settings;
    on one core it takes half a minute for SD 1.5's shape and a minute for SDXL's.

    \b
    detour plan --base sd15 --rank 16 --batch 4
    detour plan --base sdxl --targets kohya --dtype bf16
    """
    from detour.specs import load_run_spec

    given = {KEYS[flag]: value for flag, value in flags.items() if value is not None}
    spec = load_run_spec(config=config, flags=given, assignments=assignments)
    check_base(spec.base.name)
    announce(quiet=as_json)
    from detour.cli.progress import shown
    from detour.verbs.train.memory_plan import plan_memory

    with shown(quiet=as_json) as progress:
        plan = plan_memory(spec, progress=progress)
    if as_json:
        from detour.cli.results import echo_json

        echo_json(plan.to_json())
    else:
        show(plan)


def show(plan: "MemoryPlan") -> None:
    """Print the plan as tables."""
    from detour.cli.results import bytes_text, print_table, table_of

    settings = ", ".join(f"{key} {value}" for key, value in plan.settings.items())
    click.echo(f"{plan.base}: {settings}")
    rows = [
        (
            stage.stage,
            ", ".join(f"{name} {bytes_text(size)}" for name, size in stage.parts.items()),
            bytes_text(stage.total),
        )
        for stage in plan.stages
    ]
    print_table(table_of("Memory by stage", [("stage", "left"), ("parts", "left"), ("total", "right")], rows))
    click.echo(
        f"peak: {bytes_text(plan.peak_bytes)} while {plan.peak_stage}, "
        f"{bytes_text(plan.process_bytes)} of it for interpreter, libraries or driver"
    )
    cards = [
        (
            card.card,
            bytes_text(card.peak_bytes),
            " ".join(f"--set {key}={str(value).lower()}" for key, value in card.settings.items()) or "none",
            card.words,
        )
        for card in plan.cards
    ]
    heads = [("card", "left"), ("training takes", "right"), ("changes", "left"), ("what they do", "left")]
    print_table(table_of("Settings for the training step", heads, cards))
    for note in plan.notes:
        click.echo(f"- {note}")
