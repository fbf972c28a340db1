"""Atomic, durable writes: temp file in the same folder → fsync → replace → fsync folder.

A plain ``open(path, "w")`` that is killed leaves half a file; safetensors is atomic but does not fsync and leaves
``.tmp*`` behind (safetensors 0.8). Everything that detour writes goes through here.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detour.errors import DetourError, StorageError

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.part")
"""Names that :func:`tempfile.mkstemp` makes for :func:`write_with`."""


def write_with(
    path: Path, produce: Callable[[Path], None], *, mode: int = 0o644, durable: bool = True
) -> None:
    """Let ``produce`` write a temporary file beside ``path``, then make it ``path`` in one step.

    Args:
        path: final place; its folder is made when missing.
        produce: gets the path of an empty temporary file in the same folder and fills it.
        mode: permission bits of the finished file.
        durable: wait until it is on the disk; caches, which are checked when they are read, need not.

    Raises:
        StorageError: disk full, no permission, or the folder cannot be made; nothing is left behind.
    """
    temporary: Path | None = None
    try:
        _refuse_no_file(path)
        _make_folder(path.parent)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        produce(temporary)
        temporary.chmod(mode)
        if durable:
            _fsync(temporary)
        temporary.replace(path)
        temporary = None
        if durable:
            _fsync(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _refuse_no_file(path: Path) -> None:
    """Replacing a device, a pipe or a socket would take it away from everybody: ``--out /dev/null`` as root.

    Raises:
        StorageError: ``path`` is one of those.
    """
    try:
        kind = path.stat().st_mode
    except OSError:  # not there yet; what else is wrong with it, the write itself says
        return
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise StorageError(
            f"{path}: is a device or a pipe, which would be replaced by a file. Name a file with --out."
        )


def _make_folder(folder: Path) -> None:
    """``mkdir -p``, and each new folder's name is on the disk when this returns: files in it would go with it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        _fsync(path.parent)


def remove_temporaries(folder: Path) -> list[Path]:
    """Delete the temporary files that killed writers left under ``folder``; nobody may be writing there.

    Returns:
        What was deleted.

    Raises:
        StorageError: one cannot be deleted.
    """
    found = [path for path in sorted(folder.rglob(".*.part")) if _TEMPORARY.fullmatch(path.name)]
    for path in found:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(path, error) from error
    return found


def storage_error(path: Path, error: OSError) -> StorageError:
    """The message for a failed write, with the next step for the causes that users meet."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{path}: disk full; nothing was overwritten. Free some space and run again.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(f"{path}: not writable ({error.strerror}). Choose another place with --out.")
    return StorageError(
        f"{path}: could not be written ({error.strerror or error}). Check the disk and the folder, and run again."
    )


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk.

    Raises:
        OSError: it is not there, or the disk is full.
    """
    _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems refuse fsync on folders
        if error.errno not in (errno.EINVAL, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk; links are not followed.

    Raises:
        OSError: it cannot be read, or the disk is full.
    """
    for folder, _, names in os.walk(path):
        for name in names:
            if not (Path(folder) / name).is_symlink():
                _fsync(Path(folder) / name)
        _fsync(Path(folder))
    if path.is_file():
        _fsync(path)


def rename_durably(source: Path, target: Path) -> None:
    """Rename a folder after its content is on the disk; the new name is on the disk when this returns.

    Without the order a power cut may leave the name with files of zero bytes behind it.

    Args:
        source: the folder.
        target: a free name in the same file system.

    Raises:
        OSError: it cannot be renamed, or the disk is full.
    """
    sync_tree(source)
    source.rename(target)
    _fsync(target.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Atomic, durable ``path.write_bytes(data)``."""
    write_with(path, lambda temporary: _fill(temporary, data))


def _fill(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Atomic, durable UTF-8 text with ``\\n`` line ends on every system."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Atomic, durable JSON, indented, keys in the order given, one newline at the end."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_text(path: Path, *, max_bytes: int, error: type[DetourError]) -> str:
    """Read a text file that a user wrote: UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        max_bytes: larger files are refused before they are read.
        error: class of what is raised.

    Raises:
        error: unreadable, not UTF-8, or larger than ``max_bytes``.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise error(f"{path}: larger than {max_bytes // 1024:,} KiB. Is this the right file?")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not UTF-8 text (byte {problem.start}). Save it as UTF-8.") from problem
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror or problem}). Check the name.") from problem


def lines_of(text: str) -> list[str]:
    """Split at line feeds alone, which is how JSON Lines and lists of prompts are written.

    ``str.splitlines`` splits at U+2028, U+0085 and five others too, which may stand inside a line, and in JSON inside
    a string.
    """
    return text.split("\n")


def is_unicode(text: str) -> bool:
    """Whether a string can be written as UTF-8; a file name whose bytes are no UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """The string with what cannot be written as UTF-8 shown as escapes, such as ``caf\\udce9.png``."""
    return text.encode(errors="backslashreplace").decode()


def lock_now(descriptor: int) -> bool:
    """Take the lock of an open file without waiting; whether nobody else has it."""
    try:
        import fcntl
    except ImportError:  # Windows: msvcrt locks a byte range; it falls with the process as well
        return _lock_now_on_windows(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_now_on_windows(descriptor: int) -> bool:
    import msvcrt

    try:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # far behind the id, which others may read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError:
        return False
    return True


def sha256_of(path: Path, *, chunk_bytes: int = 1 << 20) -> str:
    """Hex SHA-256 of a file's content, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(chunk_bytes):
            digest.update(chunk)
    return digest.hexdigest()


SETTLED_S = 2.0
"""A file that changed less than this ago may change again within one tick of its clock: its hash is not remembered."""


def file_identity(path: Path) -> dict[str, Any]:
    """Facts that change whenever the file is written or replaced: a copy that keeps its time has another ``ctime``.

    Raises:
        OSError: it cannot be looked at.
    """
    facts = path.resolve().stat()
    return {
        "path": str(path.resolve()),
        "size": facts.st_size,
        "modified_ns": facts.st_mtime_ns,
        "created_ns": facts.st_ctime_ns,
        "inode": [facts.st_dev, facts.st_ino],
    }


def is_settled(identity: dict[str, Any]) -> bool:
    """Whether a file of :func:`file_identity` changed so long ago that its next change would show there."""
    return time.time_ns() - max(identity["modified_ns"], identity["created_ns"]) > SETTLED_S * 1e9


def remembered_sha256(path: Path, *, memory: Path | None = None) -> str:
    """Hex SHA-256 of a file's content, read again only when :func:`file_identity` says that the file changed.

    Args:
        path: of a large file that is hashed often, such as a base's weights.
        memory: folder of remembered hashes; ``None``: ``hashes`` in the user's cache folder.
    """
    identity = file_identity(path)
    text = json.dumps(identity, sort_keys=True)
    folder = cache_home() / "hashes" if memory is None else memory
    note = folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(note.read_text(encoding="utf-8"))["sha256"])
    digest = sha256_of(path)
    if file_identity(path) == identity and is_settled(identity):
        with contextlib.suppress(StorageError):  # where nothing can be kept, it is hashed again
            write_json(note, {"sha256": digest})
    return digest


def cache_home() -> Path:
    """Folder of the user for what can be made again: ``$DETOUR_CACHE``, or ``detour`` in the system's cache folder."""
    if own := os.environ.get("DETOUR_CACHE"):
        return Path(own).expanduser()
    named = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if os.name == "nt" else None)
    return (Path(named) if named else Path.home() / ".cache") / "detour"
