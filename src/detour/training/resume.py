"""Whether a run on disk can be gone on with: the same settings, pictures, base and weights as before."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detour.adapter_methods import FROM_BASE
from detour.data.folder import Dataset
from detour.errors import ConfigError, RunError
from detour.specs import RunSpec, load_run_spec, save_run_spec, to_toml
from detour.specs.places import without_places
from detour.specs.resolved import ResolvedRun
from detour.specs.sources import parse, read_toml, with_changes
from detour.training.checkpoints import FOLDER, Checkpoint, any_marked, kept_adapters, newest_good
from detour.training.recorded_pictures import changes, facts_of, read_recorded
from detour.training.resolving import changed_keys, flat_values
from detour.training.run_folder import read_state

SETTINGS = "resolved.toml"


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on.

    Attributes:
        spec: the run's settings, without any ``"auto"``.
        checkpoint: the newest good one; ``None`` where the run died before it wrote any, and begins again.
        notes: what the user should know: broken checkpoints, another torch.
    """

    spec: RunSpec
    checkpoint: Checkpoint | None
    notes: tuple[str, ...]


def fingerprints(
    spec: ResolvedRun,
    dataset: Dataset,
    base_sha256: str,
    class_pictures: Dataset | None = None,
    *,
    processes: int = 1,
) -> dict[str, Any]:
    """What a checkpoint remembers of the run that it belongs to."""
    return {
        "settings": to_toml(spec),
        "data": dataset.fingerprint,
        "class": class_pictures.fingerprint if class_pictures else None,
        "base": base_sha256,
        "threads": spec.train.threads,
        "processes": processes,
        "torch": torch.__version__,
    }


DISTILLED = "distilled.json"
"""Name of the proof of a distilled adapter in its run folder."""


def lacks_only_its_proof(run_folder: Path) -> bool:
    """Whether the run is trained and was killed while it was being proved.

    Raises:
        RunError: no run there.
    """
    trained = read_state(run_folder).get("state") == "finished"
    if not trained or (run_folder / "proof.json").exists():
        return False
    spec = read_settings(run_folder)
    if spec.distill.steps:
        return not (run_folder / DISTILLED).exists()
    return spec.adapter.method != "reference"  # which is proved by its pictures alone


def read_settings(run_folder: Path) -> RunSpec:
    """The settings of a run.

    Raises:
        RunError: no run, or one that died before its settings were written.
        ConfigError: ``resolved.toml`` cannot be read.
    """
    read_state(run_folder)
    if (run_folder / SETTINGS).exists():
        return load_run_spec(config=run_folder / SETTINGS)
    remembered = settings_in_checkpoint(run_folder)
    if remembered is not None:
        return remembered
    if any_marked(run_folder) or kept_adapters(run_folder):
        raise RunError(
            f"{run_folder}: {SETTINGS} is gone, and no good checkpoint remembers the settings. Put the file back; the "
            f"adapters so far are in {run_folder / FOLDER}."
        )
    raise RunError(
        f"{run_folder}: this run died before it wrote {SETTINGS}; nothing was done yet. Start it again as before."
    )


def settings_in_checkpoint(run_folder: Path) -> RunSpec | None:
    """The settings as the newest good checkpoint remembers them; ``None`` without one."""
    checkpoint, _ = newest_good(run_folder)
    if checkpoint is None:
        return None
    try:
        return parse(RunSpec, tomllib.loads(str(checkpoint.facts["settings"])))
    except (KeyError, tomllib.TOMLDecodeError, ConfigError):
        return None


def find_resume_point(run_folder: Path, *, processes: int = 1) -> ResumePoint:
    """Read what is needed to go on with a run.

    Raises:
        RunError: no run, a finished run, broken checkpoints alone, or ``resolved.toml`` was edited.
        ConfigError: ``resolved.toml`` cannot be read.
    """
    state = read_state(run_folder)
    if state.get("state") == "finished":
        raise RunError(f"{run_folder}: this run is finished. {_how_to_train_on(run_folder)}")
    spec = read_settings(run_folder)
    checkpoint, broken = newest_good(run_folder)
    if checkpoint is None:
        if any_marked(run_folder):
            raise RunError(
                f"{run_folder}: no good checkpoint to go on from ({len(broken)} broken). Start again: "
                f"detour train --config {run_folder / SETTINGS} --force."
            )
        return ResumePoint(spec, None, ("It died before its first checkpoint: beginning again at step 1.",))
    spec = _completed(spec, checkpoint, run_folder / SETTINGS)
    _refuse_changed_settings(run_folder, checkpoint, spec)
    notes = list(broken)
    if not (run_folder / SETTINGS).exists():
        save_run_spec(run_folder / SETTINGS, spec)
        notes.append(f"{SETTINGS} was gone: written again from the checkpoint of step {checkpoint.step}.")
    before = checkpoint.facts.get("torch")
    if before != torch.__version__:
        notes.append(
            f"torch was {before} and is {torch.__version__} now: the run goes on, but not bit for bit."
        )
    shared_by = checkpoint.facts.get("processes", 1)
    if shared_by != processes:
        notes.append(
            f"{_counted(shared_by)} trained it and {_counted(processes)} now: sums are rounded in another order, so "
            "the run goes on, but not bit for bit."
        )
    return ResumePoint(spec, checkpoint, tuple(notes))


def _how_to_train_on(run_folder: Path) -> str:
    """A command that begins a new run at the weights that a finished one shipped."""
    spec = read_settings(run_folder)
    if not (run_folder / SETTINGS).exists():  # the command names it
        save_run_spec(run_folder / SETTINGS, spec)
    new = f"Train on in a new run: detour train --config {run_folder / SETTINGS} --name {spec.name}-on"
    if spec.adapter.method == "full":
        return f"{new} --base {run_folder / f'{spec.name}-full'}."
    new = f"{new} --from {run_folder / f'{spec.name}.safetensors'}"
    if spec.adapter.init in FROM_BASE:  # its file is plain LoRA of twice the rank
        return f"{new} --set adapter.init=kaiming --rank {2 * int(spec.adapter.rank)}."
    return f"{new}."


def _counted(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def refuse_changed_data(run_folder: Path, checkpoint: Checkpoint | None, dataset: Dataset) -> None:
    """Stop when the pictures or captions are not those of the run.

    Raises:
        RunError: names the pictures that differ.
    """
    if checkpoint is not None and checkpoint.facts.get("data") == dataset.fingerprint:
        return
    before = read_recorded(run_folder)
    if before is None:
        # Killed before it knew its pictures: these are they.
        before = {} if checkpoint is not None else facts_of(dataset)
    changed = changes(before, dataset)
    if checkpoint is None and not changed:
        return
    named = ", ".join(changed[:5]) + (" …" if len(changed) > 5 else "")
    raise RunError(
        f"{run_folder}: the pictures are not those of the run: {named or 'their order'}. "
        "Put them back, or train under a new --name."
    )


def refuse_changed_class(run_folder: Path, checkpoint: Checkpoint, class_pictures: Dataset | None) -> None:
    """Stop when the class pictures are not those of the run: they were deleted and drawn anew elsewhere.

    Raises:
        RunError: they differ.
    """
    if checkpoint.facts.get("class") != (class_pictures.fingerprint if class_pictures else None):
        raise RunError(
            f"{run_folder}: the class pictures are not those that the run began with (another machine, torch or "
            "thread count draws others). Put them back, or train under a new --name."
        )


def refuse_changed_base(run_folder: Path, checkpoint: Checkpoint, base_sha256: str) -> None:
    """Stop when the base's weights are not those of the run.

    Raises:
        RunError: they differ.
    """
    if checkpoint.facts.get("base") != base_sha256:
        raise RunError(
            f"{run_folder}: the base's weights are not those that the run began with. "
            "Put them back, or train under a new --name."
        )


def refuse_changed_references(run_folder: Path, checkpoint: Checkpoint, shown_sha256: str) -> None:
    """Stop when the image encoder gives other embeddings than those of the run.

    Raises:
        RunError: they differ.
    """
    if checkpoint.facts.get("shown") != shown_sha256:
        raise RunError(
            f"{run_folder}: the image encoder gives other embeddings than those that the run began with. Put it back, "
            "or train under a new --name."
        )


def _completed(spec: RunSpec, checkpoint: Checkpoint, settings: Path) -> RunSpec:
    """Take settings that came after the run had begun from the checkpoint: its file does not have them."""
    if not settings.exists():
        return spec
    written = flat_values(read_toml(settings))
    recorded = flat_values(tomllib.loads(str(checkpoint.facts.get("settings", ""))))
    left = [key for key, value in flat_values(spec.model_dump(by_alias=True)).items() if value == "auto"]
    return with_changes(spec, {key: recorded[key] for key in left if key in recorded and key not in written})


def _refuse_changed_settings(run_folder: Path, checkpoint: Checkpoint, spec: RunSpec) -> None:
    recorded: Mapping[str, Any] = checkpoint.facts
    before, after = (
        parse(
            RunSpec, without_places(one.model_dump(by_alias=True))
        )  # pictures and base are held by their content
        for one in (parse(RunSpec, tomllib.loads(str(recorded.get("settings", "")))), spec)
    )
    if before == after:
        return
    changed = ", ".join(changed_keys(before, after))
    raise RunError(
        f"{run_folder / SETTINGS}: edited since the checkpoint: {changed or 'see the file'}. "
        "A resumed run keeps its settings; put them back, or train under a new --name."
    )
