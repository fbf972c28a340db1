"""Distil a base: train an adapter with which it draws in few steps what it draws in many."""

from pathlib import Path
from typing import Any

from detour.bases.base import Base, open_base
from detour.bases.names import split_name
from detour.errors import ConfigError
from detour.files import cache_home
from detour.specs import RunSpec
from detour.specs.sources import parse, set_dotted
from detour.verbs.progress import Progress, ProgressFn, silent
from detour.verbs.train.captioned import write_captioned
from detour.verbs.train.run import TrainResult, train_adapter

STEPS = 4
"""Steps of a picture, unless the settings say how many."""

WORLD_PICTURES = 512
"""Pictures of an embedded base's world that it is distilled on, where no others are named."""

COMMON: dict[str, Any] = {
    "data.holdout": 0.0,
    "base.dtype": "fp32",
    "train.loss.timesteps": "uniform",
    "train.loss.caption_dropout": 0.0,
    "train.loss.distance": "huber",
    "train.loss.huber_c": 0.001,
    "train.loss.huber_schedule": "constant",
    "train.schedule.kind": "constant",
    "train.ema": 0.98,
    "validate.every": 0,
    "sample.every": 0,
}
"""What distillation sets where nothing else is said: every time alike, and pseudo-Huber with the ``huber_c`` of
diffusers' ``train_lcm_distill_lora_sd_wds.py``; fp32, because clean latents of the noisiest times multiply the
network's error by 15; an average of the weights instead of a falling rate, so that every checkpoint is as good as a
run that ended there.
"""

EMBEDDED: dict[str, Any] = {
    "adapter.rank": 16,
    "adapter.targets": "all",
    "train.steps": 1500,
    "train.batch": 4,
    "train.optim.lr": 3e-3,
    "distill.solver_steps": 20,
}
"""Settings for the package's own bases."""

OTHERS: dict[str, Any] = {
    "adapter.rank": 64,
    "adapter.targets": "linear",
    "train.steps": 1000,
    "train.batch": 4,
    "train.optim.lr": 1e-4,
    "distill.solver_steps": 50,
}
"""Settings for all other bases: those of arXiv:2311.05556, section 3, as far as it gives them."""


def with_distillation(spec: RunSpec, base: Base) -> RunSpec:
    """Copy settings with those of a distillation in the place of what was not named.

    Args:
        spec: as the user gave it.
        base: that is distilled.
    """
    steps = spec.distill.steps or STEPS
    defaults = {**COMMON, **(OTHERS if base.embedded is None else EMBEDDED)}
    defaults |= {"name": f"{Path(split_name(base.name)[0]).stem}-lcm-{steps}step"}
    values: dict[str, Any] = spec.model_dump(by_alias=True, exclude_unset=True)
    values.setdefault("distill", {})["steps"] = steps
    for key, value in defaults.items():
        if not _is_named(values, key):
            set_dotted(values, key, value)
    return parse(RunSpec, values)


def _is_named(values: dict[str, Any], key: str) -> bool:
    """Whether a dotted key is set."""
    *parents, last = key.split(".")
    for parent in parents:
        values = values.get(parent, {})
    return last in values


def distill_base(
    spec: RunSpec | None,
    *,
    runs: Path = Path("runs"),
    resume: Path | None = None,
    force: bool = False,
    prove: bool = True,
    progress: ProgressFn = silent,
) -> TrainResult:
    """Train an adapter with which a base draws in few steps what it draws in many, and prove it.

    Latent consistency distillation: the adapter learns to give the same clean latents at both ends of a step of the
    guided base's solver. The file says how it is drawn, so that ``generate`` takes its steps, guidance and sampler.

    Args:
        spec: settings of the run; what is not named is what suits a distillation. ``None`` with ``resume``. An
            embedded base without pictures is distilled on pictures of its own world.
        runs: folder of all runs; the new one is ``runs/<name>``.
        resume: folder of a distillation that was interrupted.
        force: delete the run that has the name, instead of taking a number.
        prove: leave the comparison with the base out with ``False``.
        progress: told of stages, steps and notes.

    Returns:
        Where things are; the comparison is in ``distilled.json`` in the run folder, and in the notes.

    Raises:
        DetourError: as :func:`detour.verbs.train.run.train_adapter`; no pictures for a base that has no world.
    """
    if spec is not None:
        base = open_base(spec.base.name, revision=spec.base.revision, weights=False)
        spec = with_distillation(spec, base)
        if not spec.data.all_folders():
            folder = _world_pictures(base, seed=spec.seed, progress=progress)
            spec = spec.model_copy(update={"data": spec.data.model_copy(update={"source": str(folder)})})
    return train_adapter(spec, runs=runs, resume=resume, force=force, prove=prove, progress=progress)


def _world_pictures(base: Base, *, seed: int, progress: ProgressFn) -> Path:
    """Folder with captioned pictures of the base's own world; those that are there already stay."""
    if base.embedded is None:
        raise ConfigError(
            f"no pictures were named, and base '{base.name}' has no world of its own. Name a folder of pictures with "
            "captions like those that it was trained on: --data photos/."
        )
    from detour.pocket.world import render, training_example

    folder = cache_home() / "world-pictures" / f"{base.embedded.identity}-{seed}"
    for index in range(WORLD_PICTURES):
        path = folder / f"{index:04d}.png"
        if not path.with_suffix(".txt").exists():
            example = training_example(seed, index)
            write_captioned(path, render(example.scene, example.style), example.caption)
        progress(Progress(stage="drawing training pictures", done=index + 1, total=WORLD_PICTURES))
    return folder
