"""Resumable state on disk: ``checkpoints/step-000200/`` with a marker that vouches for its files.

The marker ``complete.json`` is written last and holds the SHA-256 of the others; a folder without it, or with a
file that does not match, is not resumed from. So a kill at any moment costs steps, never the run.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from detour.errors import RunError
from detour.files import sha256_of, storage_error, write_bytes, write_json

FOLDER = "checkpoints"
ADAPTERS = "adapters"
MARKER = "complete.json"
STATE_TENSORS = "state.safetensors"
STATE_FACTS = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on.

    Attributes:
        step: finished updates.
        tensors: flat float32 tensors by name: "values", "optimizer.…", and "best" where weights of the lowest
            validation loss are kept.
        facts: JSON-able: fingerprints of settings and data, versions, threads, the best validation loss.
    """

    step: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)


def folder_of(run_folder: Path, step: int) -> Path:
    """``runs/demo/checkpoints/step-000200``."""
    return run_folder / FOLDER / f"step-{step:06d}"


def adapter_of(run_folder: Path, step: int) -> Path:
    """``runs/demo/checkpoints/adapters/step-000200.safetensors``: what the run would have shipped at that step."""
    return run_folder / FOLDER / ADAPTERS / f"step-{step:06d}.safetensors"


def kept_adapters(run_folder: Path) -> dict[int, Path]:
    """Step → adapter file, the first step first. Each is whole; a run that was resumed writes the same again."""
    files = (run_folder / FOLDER / ADAPTERS).glob("step-*.safetensors")
    found = {int(file.stem[5:]): file for file in files if file.stem[5:].isdecimal()}
    return dict(sorted(found.items()))


def save_checkpoint(run_folder: Path, checkpoint: Checkpoint, *, keep: int, best: int | None = None) -> Path:
    """Write a checkpoint, marker last; then delete the others but the newest before it and that of step ``best``.

    A good one of the same step stays as it is: a resumed run is the same run and would write the same again, and to
    delete it first would leave nothing to resume from for a moment.

    Args:
        run_folder: of the run.
        checkpoint: what is written.
        keep: how many stay, this one included.
        best: step of the lowest validation loss, whose checkpoint stays as well.

    Raises:
        StorageError: disk full or not writable; older checkpoints are untouched.
    """
    folder = folder_of(run_folder, checkpoint.step)
    if not _is_good(folder):
        _remove(folder)
        _write(folder, checkpoint)
    older = [f for f in _step_folders(run_folder) if _step_of(f) < checkpoint.step and (f / MARKER).exists()]
    kept = {folder, *older[: keep - 1], *(f for f in older if _step_of(f) == best)}
    # Newer ones are broken, or this run would have gone on from them; unmarked ones are what a kill left.
    for other in _step_folders(run_folder):
        if other not in kept:
            _remove(other)
    return folder


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    data = save_tensors(tensors)
    digest = hashlib.sha256(data).hexdigest()  # of what was meant to be written, not of what can be read back
    write_bytes(folder / STATE_TENSORS, data)
    write_json(folder / STATE_FACTS, {"step": checkpoint.step, **checkpoint.facts})
    sha256 = {STATE_TENSORS: digest, STATE_FACTS: sha256_of(folder / STATE_FACTS)}
    write_json(folder / MARKER, {"schema": 1, "sha256": sha256})


def newest_good(run_folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose files match their marker, and a sentence for each newer one that does not."""
    broken: list[str] = []
    for folder in _step_folders(run_folder):
        try:
            return _read(folder), broken
        except RunError as error:
            broken.append(str(error))
    return None, broken


def any_marked(run_folder: Path) -> bool:
    """Whether a checkpoint was ever finished, good or broken by now."""
    return any((folder / MARKER).exists() for folder in _step_folders(run_folder))


def _read(folder: Path) -> Checkpoint:
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))["sha256"]
        for name in (STATE_TENSORS, STATE_FACTS):
            if sha256_of(folder / name) != marker[name]:
                raise RunError(
                    f"{folder / name}: does not match its SHA-256; this checkpoint is passed over."
                )
        tensors = load_tensors((folder / STATE_TENSORS).read_bytes())
        facts = json.loads((folder / STATE_FACTS).read_text(encoding="utf-8"))
        return Checkpoint(int(facts.pop("step")), tensors, facts)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        missing = f"has no {MARKER}" if not (folder / MARKER).exists() else f"cannot be read ({error})"
        raise RunError(f"{folder}: {missing}; this checkpoint is passed over.") from error


def _is_good(folder: Path) -> bool:
    try:
        _read(folder)
    except RunError:
        return False
    return True


def _step_folders(run_folder: Path) -> list[Path]:
    """All checkpoint folders, newest first."""
    folders = (run_folder / FOLDER).glob("step-" + "[0-9]" * 6 + "*")
    return sorted((f for f in folders if f.name[5:].isdecimal()), key=_step_of, reverse=True)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _remove(folder: Path) -> None:
    """Delete a checkpoint, its marker first, so that a kill in the middle leaves nothing that looks whole."""
    try:
        (folder / MARKER).unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise storage_error(folder, error) from error
