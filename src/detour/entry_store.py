"""What takes long to compute (encoded pictures and texts, features) on disk: one file an entry, named by its causes.

Nothing waits for anybody. An entry is written beside its place and moved there; of two writers of one entry the last
wins, and both wrote the same. A run holds hard links to the entries that it reads, in a folder of its own: whoever
empties the cache meanwhile takes the names of entries away and never their content. What a killed run held is let go by
the next one, which finds its lock fallen.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
import time
import weakref
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from detour.errors import StorageError
from detour.files import lock_now, storage_error
from detour.tensor_files import write_tensors

ENTRIES, HELD = "entries", "held"
SUFFIX = ".safetensors"
ABANDONED_S = 3600.0
"""A temporary file of this age has lost its writer."""


class EntryStore:
    """Entries under ``folder``; those that this run reads cannot be taken from it."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        """Open the store and let go of what killed runs held.

        Args:
            folder: made if missing.
            max_bytes: of all entries, kept by :meth:`evict`.

        Raises:
            StorageError: the folder cannot be made.
        """
        self.folder, self.max_bytes = folder, max_bytes
        self.damaged = 0
        """Entries that were found damaged and dropped."""
        try:
            (folder / ENTRIES).mkdir(parents=True, exist_ok=True)
            (folder / HELD).mkdir(exist_ok=True)
            _release_dead(folder / HELD)
            lock, self._held = _own_folder(folder / HELD)
        except OSError as error:
            raise storage_error(folder, error) from error
        self._release = weakref.finalize(self, _release, lock, self._held)

    def close(self) -> None:
        """Let go of all entries; reading ends. Happens by itself when the run ends."""
        self._release()

    def hold(self, key: str) -> bool:
        """Whether the entry is there and whole; from now on it stays readable.

        A damaged one, and whatever else stands in its place, is dropped, so that it is made again.

        Raises:
            StorageError: what stands in its place cannot be dropped, or the disk is full.
        """
        held, entry = self._held / key, self._entry(key)
        if held.exists():
            return True
        try:
            if not (entry.exists() or entry.is_symlink()):
                return False
            if not (entry.is_file() and _linked(entry, held) and _is_whole(held, key)):
                self.damaged += 1
                for path in (held, entry):
                    _drop(path)
                return False
        except OSError as error:
            raise storage_error(entry, error) from error
        with contextlib.suppress(OSError):
            os.utime(entry)  # when it was last used; file systems do not keep access times by themselves
        return True

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry and hold it.

        Raises:
            StorageError: disk full or not writable.
        """
        held, entry = self._held / key, self._entry(key)
        named = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"key": key, "sha256": _digest(named)}
        write_tensors(held, named, metadata, durable=False)
        beside = entry.with_name(f".{key}.{secrets.token_hex(4)}")
        try:
            entry.parent.mkdir(exist_ok=True)
            _link(held, beside)
            beside.replace(entry)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise storage_error(entry, error) from error

    def read(self, key: str) -> dict[str, Tensor]:
        """Tensors of an entry that is held, mapped from its file.

        Raises:
            StorageError: somebody deleted the store under the run.
        """
        try:
            with safe_open(self._held / key, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise StorageError(
                f"{self.folder}: the cache was deleted while a run read it ({error}). Go on with --resume."
            ) from error

    def evict(self) -> int:
        """Delete the entries used longest ago until all fit into ``max_bytes``; those that runs hold stay.

        Returns:
            Bytes above the bound that remain, because they are held.
        """
        found = []
        for path in (self.folder / ENTRIES).glob("*/*"):
            with contextlib.suppress(OSError):  # another run may be deleting it, too
                facts = path.stat()
                if path.suffix == SUFFIX:
                    found.append((facts.st_mtime_ns, facts.st_size, facts.st_nlink, path))
                elif time.time() - facts.st_mtime > ABANDONED_S:
                    path.unlink()
        excess = sum(size for _, size, _, _ in found) - self.max_bytes
        for _, size, links, path in sorted(found, key=lambda one: one[0]):
            if excess <= 0:
                break
            if links == 1:
                with contextlib.suppress(OSError):
                    path.unlink()
                    excess -= size
        return max(excess, 0)

    def _entry(self, key: str) -> Path:
        return self.folder / ENTRIES / key[:2] / f"{key}{SUFFIX}"


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _is_whole(path: Path, key: str) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, RuntimeError, ValueError):
        return False
    return metadata.get("key") == key and metadata.get("sha256") == _digest(tensors)


def _linked(entry: Path, held: Path) -> bool:
    """Hold a file; whether it could be read."""
    try:
        _link(entry, held)
    except (FileNotFoundError, PermissionError):  # deleted meanwhile, or nobody may read it
        return False
    return True


def _drop(path: Path) -> None:
    """Delete a file, a link or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _own_folder(place: Path) -> tuple[int, Path]:
    """(descriptor of a lock that falls with the process, a new folder)."""
    while True:
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        lock = place / f"{name}.lock"
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        # Between the two lines another run may have taken it for a dead one's and deleted it.
        if lock_now(descriptor) and lock.exists():
            (place / name).mkdir()
            return descriptor, place / name
        os.close(descriptor)


def _release(descriptor: int, held: Path) -> None:
    shutil.rmtree(held, ignore_errors=True)
    held.with_name(f"{held.name}.lock").unlink(missing_ok=True)
    os.close(descriptor)


def _release_dead(place: Path) -> None:
    for lock in place.glob("*.lock"):
        with contextlib.suppress(OSError):
            descriptor = os.open(lock, os.O_RDWR)
            if lock_now(descriptor):
                _release(descriptor, lock.with_suffix(""))
            else:
                os.close(descriptor)
