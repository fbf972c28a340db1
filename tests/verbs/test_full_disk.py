"""A disk that is really full: a small one is mounted, filled while a run goes on, and freed again."""

import contextlib
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detour.errors import StorageError
from detour.files import storage_error
from detour.training.checkpoints import newest_good
from detour.verbs.progress import Progress
from detour.verbs.train import run as recipe
from detour.verbs.train import saved_run as save_run
from detour.verbs.train.run import train_adapter
from tests.verbs.killed_runs import SMALL, differences
from tests.verbs.photos import make_photos, quick_spec


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Write until nothing fits any more."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))
    return filler


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "step"), [("training", 3), ("training", 7), ("encoding pictures", 1)])
def test_a_disk_that_fills_up_ends_the_run_in_one_line_and_it_goes_on_when_freed(
    tiny_base: Path, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, stage: str, step: int
) -> None:
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    photos = make_photos(tmp_path / "photos")
    spec = quick_spec(tiny_base, photos, **SMALL)
    straight = train_adapter(spec, runs=tmp_path / "straight").run_folder
    folder = small_disk / "quick"

    def full_from_here(report: Progress) -> None:
        if report.stage == stage and report.done >= step and not (small_disk / "filler").exists():
            fill(small_disk)

    with pytest.raises(StorageError, match="disk full"):
        train_adapter(spec, runs=small_disk, progress=full_from_here)
    found, broken = newest_good(folder)
    assert (found.step if found else 0) == {3: 2, 7: 6, 1: 0}[step]
    assert len(broken) <= 1
    (small_disk / "filler").unlink()
    train_adapter(None, resume=folder)
    assert differences(straight, folder) == []


@pytest.mark.parametrize("which", ["quick", "step-000002"])
def test_an_adapter_that_does_not_fit_is_written_when_the_run_goes_on(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    spec = quick_spec(tiny_base, make_photos(tmp_path / "photos"), train__steps=2)
    straight = train_adapter(spec, runs=tmp_path / "straight").run_folder

    write = save_run.write_adapter

    def full(path: Path, *values: Any, **named: Any) -> None:
        if path.stem == which:
            raise storage_error(path, OSError(errno.ENOSPC, "No space left on device"))
        write(path, *values, **named)

    with monkeypatch.context() as patch:
        patch.setattr(save_run, "write_adapter", full)
        with pytest.raises(StorageError, match=rf"{which}\.safetensors: disk full"):
            train_adapter(spec, runs=tmp_path)
    train_adapter(None, resume=tmp_path / "quick")
    assert differences(straight, tmp_path / "quick") == []
