"""One run, one folder: claiming a name, keeping others out, and saying what state the run is in."""

import contextlib
import glob
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from detour.errors import RunError
from detour.files import lock_now, storage_error, write_json

OWN_JSON = (
    "checkpoints.json", "evaluation.json", "findings.json", "gradients.json", "like.json", "pictures.json",
    "proof.json", "run.json", "settings.json", "wandb.json", "world.json",
)  # fmt: skip
"""Files of a run folder that a run's name must not write over."""

RUN_STATE = "run.json"
LOCK = ".lock"
ARTEFACTS = (
    RUN_STATE,
    "resolved.toml",
    "metrics.jsonl",
    "gradients.json",
    "proof.json",
    "checkpoints.json",
    "report.html",
    "README.md",
    "samples",
    "tensorboard",
    "wandb",
    "wandb.json",
    "checkpoints",
)
"""What a run leaves beside its adapter; a folder with any of them holds a run."""

State = Literal["running", "finished", "interrupted", "failed", "diverged"]


def check_name(name: str) -> str:
    """``name`` if it can be a folder and a file on every system.

    Raises:
        RunError: it has a path in it or characters that file systems refuse.
    """
    if not re.fullmatch(r"[^\W_][\w.+-]{0,79}", name) or name.endswith("."):
        raise RunError(
            f"'{name}' cannot be the name of a run. Use letters, digits, '-', '_' and '.', "
            "beginning with a letter or a digit, 80 at most: --name my-style."
        )
    return name


def name_from(source: str) -> str:
    """A run's name from its data: the last part of the path or hub id, with odd characters replaced."""
    last = source.removeprefix("hub:").replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    if last in ("", ".", ".."):
        last = Path(source or ".").resolve().name
    cleaned = re.sub(r"[^\w.+-]+", "-", last).strip("-._+")[:80].rstrip(".")
    return cleaned or "run"


def holds_run(folder: Path) -> bool:
    """Whether a run, whole or half, lives in ``folder``."""
    return any((folder / name).exists() for name in ARTEFACTS) or any(_adapter_files(folder))


def _adapter_files(folder: Path) -> list[Path]:
    """The adapter in its formats, or the fully fine-tuned base; files of other names are the user's."""
    folders = [folder / f"{folder.name}-{kind}" for kind in ("full", "diffusers", "peft")]
    files = sorted(folder.glob(f"{glob.escape(folder.name)}*.safetensors"))
    return [*files, *(place for place in folders if place.is_dir())]


def free_name(runs: Path, name: str) -> str:
    """``name`` if no run has it, else ``name-2``, ``name-3`` and so on."""
    candidates = (name if n == 1 else f"{name}-{n}" for n in range(1, 100_000))
    return next(c for c in candidates if not holds_run(runs / c) and not is_locked(runs / c))


@contextlib.contextmanager
def claimed(runs: Path, name: str, *, force: bool) -> Iterator[Path]:
    """A folder under ``runs`` that this process alone writes to, held while the block runs.

    Without ``force`` a taken name gets a number. With ``force`` the run that has the name is deleted first; files
    that no run makes are left alone.

    Raises:
        RunError: another process is training there.
        StorageError: the folder cannot be made.
    """
    check_name(name)
    while True:
        folder = runs / (name if force else free_name(runs, name))
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(folder))
            except RunError:
                if force:
                    raise
                continue  # somebody took it in between: the next number
            if force:
                _clear(folder)
            elif holds_run(folder):
                continue
            yield folder
            return


def _clear(folder: Path) -> None:
    try:
        for path in [*(folder / name for name in ARTEFACTS), *_adapter_files(folder)]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error


class HeldFolder:
    """Knows a run's folder again: one that was renamed, moved or deleted is not made anew by the next write.

    The folder is kept open, so that a new folder of the same name cannot get its number.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: int | None = None
        with contextlib.suppress(
            OSError
        ):  # Windows opens no folders, and lets nobody rename one that is in use
            self._open = os.open(folder, os.O_RDONLY)

    def is_there(self) -> bool:
        """Whether the path still leads to the folder that it led to at first."""
        if self._open is None:
            return True
        try:
            return os.path.samestat(self._folder.stat(), os.fstat(self._open))
        except OSError:
            return False

    def check(self, *, step: int) -> None:
        """Refuse to write into another folder.

        Args:
            step: how many were finished, for the message.

        Raises:
            RunError: the folder is not there any more.
        """
        if not self.is_there():
            raise RunError(
                f"{self._folder}: the run's folder was renamed, moved or deleted while it trained; stopped after step "
                f"{step}, and nothing was written in its place. Put it back and go on: detour train --resume "
                f"{self._folder}"
            )

    def close(self) -> None:
        """Let go of the folder."""
        if self._open is not None:
            os.close(self._open)
            self._open = None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; it falls with the process, whatever ends it.

    Raises:
        RunError: another process holds it (its id is named).
        StorageError: the folder cannot be made or written.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        if not lock_now(descriptor):
            pid = os.read(descriptor, 32).decode(errors="replace").strip()
            raise RunError(
                f"{folder}: process {pid or '?'} is training here. Wait for it, or choose another --name."
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(
            descriptor
        )  # the file stays: deleting it could take it from under a process that waits for it


def is_locked(folder: Path) -> bool:
    """Whether a living process holds the folder's lock."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        return not lock_now(descriptor)
    finally:
        os.close(descriptor)


def write_state(folder: Path, state: State, facts: dict[str, Any]) -> None:
    """Replace ``run.json``: machine state for ``detour runs`` and for pages that show the run."""
    write_json(folder / RUN_STATE, {"schema": 1, "state": state, **facts})


def read_state(folder: Path) -> dict[str, Any]:
    """Read the content of ``run.json``.

    Raises:
        RunError: it is not there or cannot be read.
    """
    try:
        value = json.loads((folder / RUN_STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{folder}: holds no readable {RUN_STATE}, so it is no run of detour's. Name a run folder."
        ) from error
    if not isinstance(value, dict):
        raise RunError(f"{folder / RUN_STATE}: not what detour writes. Name another run folder.")
    return value
