"""Nobody reads any more: a pipe closed, a terminal hung up. The work goes on, and the exit code is its own."""

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from detour.cli.main import COMMANDS, run
from detour.cli.progress import PlainLines, shown
from detour.cli.streams import LastingStream
from detour.verbs.progress import Progress


@pytest.fixture(params=["pipe", "terminal"])
def unread(request: pytest.FixtureRequest) -> Iterator[TextIO]:
    """A text stream whose other end is closed."""
    if request.param == "pipe":
        reading, writing = os.pipe()
    else:
        reading, writing = pytest.importorskip("pty").openpty()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    yield stream
    stream.close()  # raises when something is still waiting for the reader that is gone


def test_the_stream_alone_would_end_the_run(unread: TextIO) -> None:
    with pytest.raises(OSError, match=r"roken pipe|nput/output") as gone:
        PlainLines(unread)(Progress(stage="training", done=1, total=2))
    assert gone.value.errno in (errno.EPIPE, errno.EIO)
    os.dup2(os.open(os.devnull, os.O_WRONLY), unread.fileno())


def test_progress_that_nobody_reads_is_dropped(unread: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", LastingStream(unread))
    for is_terminal in (False, True):
        monkeypatch.setattr(LastingStream, "isatty", lambda _, answer=is_terminal: answer, raising=False)
        with shown() as progress:
            for step in range(1, 4):
                progress(Progress(stage="training", done=step, total=3, note="a note"))


def test_a_command_goes_on_and_ends_well(
    unread: TextIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", unread)
    monkeypatch.setattr(sys, "stdout", unread)
    with pytest.raises(SystemExit) as end:
        run(["pocket", "draw", str(tmp_path / "photos"), "--count", "2"])
    assert end.value.code == 0
    assert len(list((tmp_path / "photos").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["trian"], 2), (["runs", "--runs", "/dev/null"], 2)]
)
def test_the_exit_code_is_the_commands_own_in_a_pipe_that_closed(arguments: list[str], code: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "detour", *arguments], stdout=writing, stderr=writing, check=False
    )
    os.close(writing)
    assert done.returncode == code


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_ends_well_where_its_reader_is_gone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        with pytest.raises(SystemExit) as end:
            run([name, "--help"])
    assert end.value.code == 0


def test_a_full_disk_is_still_an_error() -> None:
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(OSError, match="no space"):
        LastingStream(Full()).write("x")


def test_ctrl_c_while_modules_are_imported_is_one_word() -> None:
    """The interrupt comes inside an import that answers it with an error of its own, as C extensions do."""
    script = (
        "import os, signal, sys, types, importlib.abc, importlib.util\n"
        "class Interrupted(importlib.abc.Loader):\n"
        "    def exec_module(self, module):\n"
        "        try: os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(5)\n"
        "        except KeyboardInterrupt as error: raise ImportError('half a library') from error\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'detour.verbs.train.run_list':\n"
        "            return importlib.util.spec_from_loader(name, Interrupted())\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from detour.cli.main import run\n"
        "run(['runs'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "stopped.\n")
