"""``detour compare``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from detour.cli.early import announce, check_run
from detour.cli.options import (
    DEVICES,
    OUT_FOLDER,
    SEEDS,
    base_option,
    force_option,
    json_option,
    policy_option,
)
from detour.cli.studies import show_study

AXES = {
    "ranks": "adapter.rank",
    "presets": "adapter.targets",
    "alphas": "adapter.alpha",
    "rates": "train.optim.lr",
    "methods": "adapter.method",
}
KEYS = {
    "data": "data.source",
    "base": "base.name",
    "goal": "goal",
    "trigger": "data.trigger",
    "class_prompts": "prior.class_prompts",
    "steps": "train.steps",
    "device": "base.device",
    "prompts": "evaluate.prompts",
    "num_prompts": "evaluate.num_prompts",
    "picture_steps": "evaluate.steps",
    "seed": "seed",
}
FIGURES = (
    "style_ratio", "likeness", "object", "colour", "place", "clip", "val_loss", "pixels", "class_pixels",
    "parameters", "seconds_a_step", "file_kib",
)  # fmt: skip


@click.command(
    "compare", short_help="Train several settings with several seeds: which results differ beyond noise?"
)
@click.argument("data", required=False, metavar="[DATA]")
@click.option("--rank", "ranks", metavar="1,4,8", help="Ranks to compare.")
@click.option(
    "--preset",
    "presets",
    metavar="attn,conv",
    help="Layers to compare: presets or names as for --targets of train, + between those of one variant.",
)
@click.option("--alpha", "alphas", metavar="4,8", help="Scale numerators to compare. [default: the rank]")
@click.option("--rate", "rates", metavar="1e-4,1e-3", help="Peak learning rates to compare.")
@click.option("--method", "methods", metavar="lora,dora,full", help="Methods to compare.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=A,B,C",
    help="Any setting of a run: one value for all runs, several to compare.",
)
@click.option(
    "--equal-parameters",
    is_flag=True,
    help="Raise the rank of each preset until it has as many parameters as the largest.",
)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each variant."
)
@click.option("--seed", type=SEEDS, help="Seed of the first run; the others follow it.")
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="A run.toml or resolved.toml."
)
@base_option(default=None)
@click.option("--goal", type=click.Choice(["style", "subject"]), help="As for train.")
@click.option("--trigger", help="Word put in front of every caption and prompt that lacks it.")
@click.option("--class-prompt", "class_prompts", multiple=True, help="What the subject's class is called.")
@click.option("--steps", type=int, help="Optimizer steps of each run.")
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    help="Prompt drawn with every run. [default: held-out prompts of pocket]",
)
@click.option(
    "--num-prompts", type=int, default=8, show_default=True, help="Held-out prompts when none are given."
)
@click.option(
    "--picture-steps", type=int, default=10, show_default=True, help="Denoising steps of a picture."
)
@click.option(
    "--judge", metavar="FOLDER", help="CLIP model that scores the pictures. [default: the base's own]"
)
@click.option("--device", type=DEVICES, help="Where the work runs.")
@policy_option
@click.option(
    "--out",
    type=OUT_FOLDER,
    default=Path("studies/compare"),
    show_default=True,
    help="Folder of the results; an unfinished comparison there is continued.",
)
@force_option
@json_option
def command(
    *,
    assignments: tuple[str, ...],
    equal_parameters: bool,
    seeds: int,
    config: Path | None,
    judge: str | None,
    policy: str | None,
    out: Path,
    force: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train runs on DATA that differ in what is named, each with several seeds, and say what differs beyond noise.

    All runs see the same pictures and draw the same prompts and seeds. Every combination of the values is a variant.
    Ctrl-C saves; the same command goes on, and more seeds or values can be added later.

    \b
    detour compare photos/ --rank 1,4,8,16
    detour compare photos/ --preset cross-attn,self-attn,attn,to_q+to_v,conv --rank 2 --equal-parameters
    detour compare photos/ --set train.loss.weighting=uniform,min_snr --seeds 5
    """  # fmt: skip
    from detour.cli.progress import shown
    from detour.errors import ConfigError
    from detour.specs import load_run_spec
    from detour.specs.sources import with_changes
    from detour.specs.studies import AxisSpec, CompareSpec

    varied = {AXES[name]: listed(text) for name in AXES if (text := flags.pop(name)) is not None}
    if AXES["presets"] in varied:
        varied[AXES["presets"]] = [str(one).replace("+", ",") for one in varied[AXES["presets"]]]
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: expected KEY=A,B,C, e.g. --set train.ema=0,0.99.")
        varied[key.strip()] = listed(text)
    given = {KEYS[flag]: value for flag, value in flags.items() if value not in (None, ())}
    if config is None and not {"data.source", "data.folders"} & (given.keys() | varied.keys()):
        raise ConfigError("no pictures were named. Try: detour compare photos/ --rank 4,8.")
    given |= {key: values[0] for key, values in varied.items() if len(values) == 1}
    spec = CompareSpec(
        run=load_run_spec(config=config, flags=given),
        axes=tuple(
            AxisSpec(key=key, values=tuple(values)) for key, values in varied.items() if len(values) > 1
        ),
        seeds=seeds,
        equal_parameters=equal_parameters,
        judge=judge,
        policy=policy,
    )
    check_run(spec.run)
    for axis in spec.axes:
        for value in axis.values:
            with_changes(spec.run, {axis.key: value})  # an unknown key is said before anything is loaded
    announce(quiet=as_json)
    from detour.verbs.studies.compare import compare_runs

    with shown(quiet=as_json) as progress:
        result = compare_runs(spec, out=out, force=force, progress=progress)
    show_study(result, FIGURES, as_json=as_json)


def listed(text: str) -> Sequence[Any]:
    """``"4,8"`` → [4, 8], ``"attn,conv"`` → ["attn", "conv"]; one TOML array stays one value."""
    import tomllib

    try:
        values: list[Any] = tomllib.loads(f"value = [{text}]")["value"]
    except tomllib.TOMLDecodeError:
        values = [_read(part.strip()) for part in text.split(",")]
    return values or [text]


def _read(part: str) -> Any:
    """A TOML value, or the text as it stands."""
    import tomllib

    try:
        return tomllib.loads(f"value = {part}")["value"]
    except tomllib.TOMLDecodeError:
        return part
