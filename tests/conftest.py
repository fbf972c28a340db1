"""Fixtures that tests of several tiers share."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_base import make_tiny_base

gc.disable()  # importing the libraries makes millions of objects and no garbage


def pytest_collection_finish() -> None:
    """Take the objects of the libraries out of the garbage collector's sight, and let it run less often.

    Looking through them took 10 of the 36 CPU seconds of two files of tests of training runs.
    """
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """``os.fsync`` returns at once: it protects from a power cut, which no test can make, and takes 10 ms a call.

    A short run calls it sixty times. Tests of what is on the disk when put a function of their own in its place, and
    processes that tests start and kill have the true one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random SD 1.x in miniature (64 px); read-only by agreement, copy it to change it."""
    return make_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")


class WatchedDisk:
    """Names of files and folders in the order in which they were synced, and ``-> NAME`` for each new name."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def synced_before(self, name: str) -> set[str]:
        return set(self.events[: self.events.index(f"-> {name}")])


@pytest.fixture
def watched_disk(monkeypatch: pytest.MonkeyPatch) -> WatchedDisk:
    watched, rename, replace = WatchedDisk(), Path.rename, Path.replace

    def fsync(descriptor: int) -> None:
        watched.events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    def renamed(self: Path, target: Path) -> Path:
        watched.events.append(f"-> {Path(target).name}")
        return rename(self, target)

    def replaced(self: Path, target: Path) -> Path:
        watched.events.append(f"-> {Path(target).name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(Path, "replace", replaced)
    return watched
