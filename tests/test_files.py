import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from detour import files
from detour.errors import StorageError
from detour.files import (
    remembered_sha256,
    remove_temporaries,
    rename_durably,
    sha256_of,
    write_bytes,
    write_json,
    write_text,
    write_with,
)
from tests.conftest import WatchedDisk


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_is_written_whole_with_its_folders_and_readable_for_others(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.bin"
    write_bytes(path, b"123")
    assert path.read_bytes() == b"123"
    assert path.stat().st_mode & 0o777 == 0o644
    assert names(path.parent) == ["c.bin"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_failure_while_writing_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, failure: type) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise failure

    with pytest.raises(failure):
        write_with(path, fail)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_process_killed_while_writing_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    script = (
        "import os, signal, sys; from pathlib import Path; from detour.files import write_with\n"
        "def produce(p):\n    p.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_with(Path(sys.argv[1]), produce)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False, env=dict(os.environ))
    assert killed.returncode != 0
    assert path.read_text() == "old"


def test_content_is_on_the_disk_before_it_takes_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        events.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write_text(tmp_path / "a.txt", "x")
    assert events == ["file", "replace", "folder"]


def test_a_folder_is_on_the_disk_before_it_takes_its_name_and_the_name_after(
    tmp_path: Path, watched_disk: WatchedDisk
) -> None:
    source = tmp_path / "building"
    (source / "deep").mkdir(parents=True)
    (source / "a.txt").write_text("a")
    (source / "deep" / "b.txt").write_text("b")
    (source / "link").symlink_to(tmp_path / "nowhere")
    rename_durably(source, tmp_path / "made")
    assert watched_disk.synced_before("made") >= {"a.txt", "b.txt", "deep", "building"}
    assert watched_disk.events[-2:] == ["-> made", tmp_path.name]


def failing(code: int) -> Callable[[Path], None]:
    def produce(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(code, os.strerror(code))

    return produce


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "disk full"),
        (errno.EDQUOT, "disk full"),
        (errno.EACCES, "not writable"),
        (errno.EIO, "could not"),
    ],
)
def test_disk_full_and_its_like_are_one_line_and_leave_nothing(tmp_path: Path, code: int, words: str) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(StorageError, match=rf"a\.txt: {words}"):
        write_with(path, failing(code))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_disk_that_is_full_at_fsync_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="disk full"):
        write_text(tmp_path / "a.txt", "x")
    assert names(tmp_path) == []


def test_place_that_cannot_be_a_folder_is_an_error(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "x")
    with pytest.raises(StorageError):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_json_keeps_order_and_signs_and_refuses_what_is_no_number(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": "é", "a": 1})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "b": "é",\n  "a": 1\n}\n'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": "é", "a": 1}


def test_hash_is_that_of_the_whole_content(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"x" * 1000)
    assert sha256_of(tmp_path / "a", chunk_bytes=7) == hashlib.sha256(b"x" * 1000).hexdigest()


def test_only_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    mine = [tmp_path / "samples" / ".0.png.a1b2c3d4.part", tmp_path / ".run.json.zzzzzz_1.part"]
    others = [tmp_path / "film.part", tmp_path / ".download.part", tmp_path / "run.json"]
    for path in (*mine, *others):
        path.write_text("x")
    assert sorted(remove_temporaries(tmp_path)) == sorted(mine)
    assert all(path.exists() for path in others)


def test_a_hash_is_remembered_until_the_file_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, memory = tmp_path / "weights", tmp_path / "memory"
    file.write_bytes(b"one")
    now = files.time.time_ns
    monkeypatch.setattr(files.time, "time_ns", lambda: now() + int(60e9))  # the file is settled
    read: list[Path] = []

    def counted(path: Path) -> str:
        read.append(path)
        return sha256_of(path)

    monkeypatch.setattr(files, "sha256_of", counted)
    first = remembered_sha256(file, memory=memory)
    assert first == sha256_of(file) == remembered_sha256(file, memory=memory)
    assert len(read) == 1
    times = file.stat()
    file.write_bytes(b"two")  # same size, and the same time put back
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert remembered_sha256(file, memory=memory) == sha256_of(file) != first
    other = tmp_path / "other"
    other.write_bytes(b"six")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(file)
    assert remembered_sha256(file, memory=memory) == sha256_of(file)
    next(memory.iterdir()).write_text("{")  # a damaged note is no hash
    assert remembered_sha256(file, memory=memory) == sha256_of(file)


def test_a_file_that_changed_a_moment_ago_is_hashed_again(tmp_path: Path) -> None:
    file, memory = tmp_path / "weights", tmp_path / "memory"
    file.write_bytes(b"one")
    remembered_sha256(file, memory=memory)
    assert not memory.exists()


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "device"])
def test_what_is_no_file_is_never_replaced_by_one(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "there"
    if kind == "device":
        place = Path(os.devnull)
    else:
        os.mkfifo(tmp_path / "fifo")
        place = tmp_path / "fifo"
        if kind == "link to a pipe":
            (tmp_path / "there").symlink_to(place)
            place = tmp_path / "there"
    before = place.lstat().st_mode
    with pytest.raises(StorageError, match="is a device or a pipe"):
        write_bytes(place, b"x")
    assert place.lstat().st_mode == before
