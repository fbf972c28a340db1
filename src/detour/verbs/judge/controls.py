"""Trains control adapters with the settings of the run: at rate 0, on shuffled captions, without class pictures."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from detour.bases.base import open_base
from detour.data.folder import Dataset, read_dataset
from detour.errors import ConfigError, DataError, RunError
from detour.evaluation.compared import ControlName
from detour.files import storage_error, write_json
from detour.specs import RunSpec, to_toml
from detour.specs.sources import with_changes
from detour.training.recorded_pictures import changes, read_recorded
from detour.training.run_folder import holds_run, read_state
from detour.verbs.judge.finished_run import FinishedRun
from detour.verbs.progress import Progress, ProgressFn, silent
from detour.verbs.train.saved_run import product_of

CONTROLS = "controls"
"""Folder in a run folder that holds the run folders of its controls."""

NAMES: Mapping[ControlName, str] = {"rate_zero": "rate-zero", "shuffled": "shuffled", "no_prior": "no-prior"}
"""Control → name of its run folder and of its adapter file."""

RATE_ZERO_STEPS = 2
"""Steps of the control at rate 0, whose weights do not change however many there are."""


def train_control(run: FinishedRun, name: ControlName, *, progress: ProgressFn = silent) -> Path:
    """Train a control of a run into ``RUN/controls``, unless a valid one is there already.

    One that was interrupted goes on from its last checkpoint; one of other settings or pictures is trained again.

    Args:
        run: that it is a control of; its pictures and class pictures have to be where it found them.
        name: which.
        progress: told as training tells, the control's name in front.

    Returns:
        the control's adapter file.

    Raises:
        ConfigError: the run trained the base's own weights; a control would be as large as the base. Or it had no class
            pictures that a control could leave out.
        DataError: the pictures are gone or not those of the run, or their captions are all the same.
        TrainingDiverged: as training does.
        Interrupted: Ctrl-C; what is trained is kept.
    """
    from detour.verbs.train.run import train_adapter

    if run.spec.adapter.method == "full":
        raise ConfigError(
            "a fully trained base has no trained controls: each would be as large as the base. Use --controls base."
        )
    spec = control_spec(run.spec, name)
    if name == "no_prior" and (run.spec.prior.use is False or not run.spec.prior.class_prompts):
        raise ConfigError(
            f"{run.folder}: this run was trained without class pictures, so there is nothing to leave out. Leave "
            "--no-prior out."
        )
    folder = run.folder / CONTROLS / NAMES[name]
    product = product_of(folder, spec)
    named = _named(progress, name)
    dataset = read_dataset(spec.data, lenient=True, decode=False)
    _refuse_other_pictures(run, dataset)
    _make_room(folder, _key(spec, dataset))
    if product.exists() and _state(folder) == "finished":
        return product
    if _state(folder) is not None and (folder / "resolved.toml").exists():
        train_adapter(None, resume=folder, prove=False, progress=named)
    else:
        train_adapter(spec, runs=folder.parent, force=True, prove=False, progress=named)
    return product


def control_spec(spec: RunSpec, name: ControlName) -> RunSpec:
    """Settings of a control: those of the run, apart from its own name, rate or captions, and without samples.

    Args:
        spec: the resolved run.
        name: which control.
    """
    changes: dict[str, Any] = {"name": NAMES[name], "sample.every": 0, "track": "none", "adapter.formats": ()}
    if name == "shuffled":
        return with_changes(spec, {**changes, "data.captions": "shuffled"})
    if name == "no_prior":
        return with_changes(spec, {**changes, "prior.use": False})
    unneeded = {"validate.every": 0, "validate.patience": 0, "checkpoint.every": 0}
    shorter = {"train.steps": RATE_ZERO_STEPS, "train.schedule.warmup": 0, "train.schedule.cycles": 1}
    return with_changes(
        spec,
        {**changes, **unneeded, **shorter, "validate.ship": "last", "train.optim.lr": 0.0},
    )


def _refuse_other_pictures(run: FinishedRun, dataset: Dataset) -> None:
    recorded = read_recorded(run.folder)
    changed = [] if recorded is None else changes(recorded, dataset)
    if changed:
        raise DataError(
            f"the pictures are not those of the run: {', '.join(changed[:5])}{' …' if len(changed) > 5 else ''}. "
            "Put them back: a control on others says nothing."
        )


def _key(spec: RunSpec, dataset: Dataset) -> str:
    """Hex SHA-256 of everything that determines the control's weights."""
    parts = {
        "settings": to_toml(spec),
        "pictures": dataset.fingerprint,
        "base": open_base(spec.base.name, revision=spec.base.revision).content_sha256(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _make_room(folder: Path, key: str) -> None:
    """Delete a control that was trained with other settings or pictures, and record the key of the new one."""
    mark = folder.with_name(f"{folder.name}.json")
    try:
        if mark.exists() and json.loads(mark.read_text(encoding="utf-8")).get("key") == key:
            return
        if folder.exists():
            shutil.rmtree(folder)
    except (ValueError, AttributeError):
        shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    write_json(mark, {"key": key})


def _state(folder: Path) -> str | None:
    """Read the state of the control's run; ``None`` where there is no such run."""
    if not holds_run(folder):
        return None
    try:
        return str(read_state(folder).get("state"))
    except RunError:
        return None


def _named(progress: ProgressFn, name: ControlName) -> ProgressFn:
    """Report progress of training under the control's name; notes were reported when the run itself was trained."""

    def tell(report: Progress) -> None:
        progress(replace(report, stage=f"control '{NAMES[name]}': {report.stage}", note=""))

    return tell
