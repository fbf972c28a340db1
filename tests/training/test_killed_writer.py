"""SIGKILL at random moments of the checkpoint writer and before each of its system calls.

A random moment needs a wait: of two saves, some milliseconds.
"""

import contextlib
import random
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from detour.training.checkpoints import MARKER, newest_good
from tests.forked import SERVER
from tests.training import killed_writer
from tests.training.killed_writer import expected_files, is_whole

SIZE = 100_000
"""Elements of each of the three tensors: 1.2 MB a checkpoint, an adapter of rank 4."""

NEVER = 1 << 30
"""A number that no system call of a save reaches: they are counted, nothing more."""


@dataclass
class Life:
    """What one writer said before it died."""

    begun_at: int
    acknowledged: list[tuple[int, set[str], int]]


class Writers:
    """One run folder and the processes that write into it, one after the other."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.unfinished = 0
        self.seconds_a_save = 0.01

    def live(
        self, *, kill_after_s: float = 0.0, kill_after_saves: int | None = None, kill_at: int | None = None
    ) -> Life:
        """Start a writer, kill it, and check what it leaves.

        Args:
            kill_after_s: seconds until then.
            kill_after_saves: finished saves until then, however long they take.
            kill_at: the system call before which the writer kills itself; with ``kill_after_saves`` it only counts.
        """
        found, _ = newest_good(self.folder)
        begun_at = found.step if found else 0
        ours, theirs = SERVER.Pipe(duplex=False)
        arguments = (self.folder, SIZE, self.keep, kill_at, theirs)
        writer = SERVER.Process(target=killed_writer.write_until_killed, args=arguments)
        writer.start()
        theirs.close()
        assert ours.recv() == (None, 0)
        begun = time.perf_counter()
        said = [_message(ours) for _ in range(kill_after_saves or 0)]
        if kill_after_saves is not None or kill_at is None:
            time.sleep(kill_after_s)
            writer.kill()
        writer.join(timeout=600)  # killed by then, or by itself: a busy machine takes its time
        assert writer.exitcode == -signal.SIGKILL
        life = Life(begun_at, said + _messages(ours))
        if life.acknowledged:
            self.seconds_a_save = (time.perf_counter() - begun) / len(life.acknowledged)
        elif kill_at is None:  # a busy machine: a guess that is too short would never meet a save
            self.seconds_a_save = min(1.5 * self.seconds_a_save, 2.0)
        self._check(life)
        return life

    def _check(self, life: Life) -> None:
        for step, files, _ in life.acknowledged:  # no litter, and the best one beside the newest
            assert files == expected_files(step, range(1, step + 1), self.keep)
        last = life.acknowledged[-1][0] if life.acknowledged else life.begun_at
        found, broken = newest_good(self.folder)
        if found is None:
            assert last == 0
            return
        assert found.step in (last, last + 1)  # killed between the marker and the acknowledgement
        assert is_whole(found, SIZE)
        assert len(broken) <= 1
        folders = {path.parent for path in self.folder.rglob("state.*")} | {
            path.parent for path in self.folder.rglob("*.part")
        }
        self.unfinished += bool(broken) or any(not (folder / MARKER).exists() for folder in folders)


def _message(pipe: Connection) -> tuple[int, set[str], int]:
    """(step, files, system calls of its save) as a writer says it after a save."""
    step, (files, calls) = pipe.recv()
    return step, files, calls


def _messages(pipe: Connection) -> list[tuple[int, set[str], int]]:
    """All that a dead writer had said and nobody has read yet."""
    messages: list[tuple[int, set[str], int]] = []
    with contextlib.suppress(EOFError):
        while pipe.poll():
            messages.append(_message(pipe))
    return messages


def kill_at_random(folder: Path, kills: int, *, seed: int) -> dict[str, Any]:
    """Kill writers at random moments of about two saves; returns what was counted.

    Each makes two saves first, so that it is known how long they take here and now: a guess that is too short for a
    busy machine would kill them all before their first.
    """
    draw = random.Random(seed)
    writers = [Writers(folder / f"keep-{keep}", keep) for keep in (1, 2, 3)]
    for writer in writers:
        writer.live(kill_after_saves=2)
    for index in range(kills):
        writer = writers[index % len(writers)]
        writer.live(kill_after_s=draw.uniform(0, 2 * writer.seconds_a_save))
    return {"kills": kills, "left unfinished": sum(w.unfinished for w in writers)}


def kill_before_calls(folder: Path, every: int) -> dict[str, Any]:
    """Kill a writer before each ``every``-th system call of a save that also deletes; returns what was counted."""
    writers = Writers(folder, 2)
    for _ in range(3):  # some history, so that a save has something to delete
        writers.live(kill_after_saves=2)
    calls = writers.live(kill_after_saves=1, kill_at=NEVER).acknowledged[0][2]
    for number in range(0, calls, every):
        writers.live(kill_at=number)
    return {"calls": calls, "kills": len(range(0, calls, every)), "left unfinished": writers.unfinished}


def test_a_writer_killed_at_random_moments_always_leaves_the_newest_whole(tmp_path: Path) -> None:
    assert kill_at_random(tmp_path, 24, seed=1)["left unfinished"] > 0  # some land inside saves


def test_a_writer_killed_before_its_system_calls_leaves_the_newest_whole(tmp_path: Path) -> None:
    assert kill_before_calls(tmp_path, every=7)["calls"] > 30


@pytest.mark.slow
def test_hundreds_of_kills_of_the_writer_cost_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at_random = kill_at_random(tmp_path / "random", 300, seed=2)
    before_calls = kill_before_calls(tmp_path / "calls", every=1)
    with capsys.disabled():
        print(f"\nat random: {at_random}\nbefore each system call: {before_calls}")
    assert at_random["left unfinished"] > 30  # the kills do land inside saves
