"""Start the processes of one run, watch them, and end all when one ends badly.

What ``accelerate launch`` and ``torchrun`` set for each process, this sets too: ``RANK``, ``WORLD_SIZE``,
``MASTER_ADDR`` and so on. They work as well; this one also starts processes on a CPU, gives each its cores, and does
not bury the one line that says what went wrong.
"""

import ctypes
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

LOST = 12
"""Exit code of a process that lost another one (:class:`detour.errors.ProcessLost`)."""

LAUNCHER = "DETOUR_LAUNCHER"
"""Environment variable: process number of the launcher."""

PR_SET_PDEATHSIG = 1
"""Option of ``linux/prctl.h`` that sets the signal a process gets when its parent dies."""

GRACE_S = 20.0
"""How long the others may take to notice that one ended badly and to say so; then they are ended, and after as long
again killed."""


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this process is the one that prints for the user."""
    return os.environ.get("RANK", "0") == "0"


def end_with_launcher() -> None:
    """Stop this process when a launcher of ours is killed, as SIGTERM stops it.

    On Linux alone; elsewhere, and under other launchers, nothing happens.
    """
    launcher = os.environ.get(LAUNCHER)
    if launcher is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(launcher):  # it died before it could be watched
        os.kill(os.getpid(), signal.SIGTERM)


def run_in_processes(
    arguments: Sequence[str], count: int, *, program: Sequence[str] = ("-m", "detour")
) -> int:
    """Run ``detour ARGUMENTS`` as ``count`` processes that train together.

    Args:
        arguments: the command line without the program's name.
        count: of processes; each gets an equal share of the cores, unless ``OMP_NUM_THREADS`` is set.
        program: what Python is told to run.

    Returns:
        Exit code: the first one's, or that of the one that took it along.
    """
    with ExitStack() as files:
        spoken = [files.enter_context(tempfile.TemporaryFile()) for _ in range(1, count)]
        return _run([sys.executable, *program, *arguments], count, spoken)


def _run(command: Sequence[str], count: int, spoken: Sequence[IO[bytes]]) -> int:
    shared = _environment(count)
    children = [
        subprocess.Popen(
            command,
            env=shared | {"RANK": str(index), "LOCAL_RANK": str(index)},
            stdout=subprocess.DEVNULL if index else None,
            stderr=spoken[index - 1] if index else None,
            start_new_session=True,  # Ctrl-C comes to us alone, and we pass it on to all
        )
        for index in range(count)
    ]
    with _signals_passed_on(children):
        culprit = _watch(children)
    code = children[0].returncode
    if culprit and (code == LOST or code < 0):
        sys.stderr.write(
            f"process {culprit}: {_last_words(children[culprit].returncode, spoken[culprit - 1])}\n"
        )
        code = children[culprit].returncode
    return LOST if code < 0 else code


def _environment(count: int) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "OMP_NUM_THREADS": str(max(1, cores // count)),
        **os.environ,
        "WORLD_SIZE": str(count),
        LAUNCHER: str(os.getpid()),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _watch(children: "Sequence[subprocess.Popen[bytes]]") -> int | None:
    """Wait for all; once one ended badly, the others have :data:`GRACE_S`. Returns which one was the first to."""
    ended: queue.Queue[int] = queue.Queue()

    def wait(index: int) -> None:
        children[index].wait()
        ended.put(index)

    for index in range(len(children)):
        threading.Thread(target=wait, args=(index,), daemon=True).start()
    left = set(range(len(children)))
    culprit: int | None = None
    deadline: float | None = None
    last_resort = [signal.SIGTERM, signal.SIGKILL]
    while left:
        try:
            index = ended.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            _send(last_resort.pop(0) if len(last_resort) > 1 else last_resort[0], children)
            deadline = time.monotonic() + GRACE_S
            continue
        left.discard(index)
        if children[index].returncode and culprit is None:
            culprit, deadline = index, time.monotonic() + GRACE_S
    return culprit


@contextmanager
def _signals_passed_on(children: "Sequence[subprocess.Popen[bytes]]") -> Iterator[None]:
    """Ctrl-C and SIGTERM are the run's to grant; a terminal that closes is a SIGTERM."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}

    def pass_on(number: int, _frame: object) -> None:
        _send(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM, children)

    for number in numbers:
        signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(number: int, children: "Sequence[subprocess.Popen[bytes]]") -> None:
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def _last_words(code: int, spoken: IO[bytes]) -> str:
    """Why a process ended: its last line, or the signal that killed it."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}."
    spoken.seek(0)
    lines = spoken.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"ended with exit code {code}."
