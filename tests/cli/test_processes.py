import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from detour.cli import processes
from detour.cli.processes import run_in_processes


def run(script: str, *arguments: str, count: int = 2) -> int:
    """``count`` small processes; ``rank`` and ``count`` are theirs."""
    head = "import os, signal, sys, time; rank = int(os.environ['RANK'])\n"
    return run_in_processes(arguments, count, program=("-S", "-c", head + script))


def test_each_process_is_told_who_it_is_and_has_its_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS")
    code = run(
        f"open(sys.argv[1] + os.environ['RANK'], 'w').write(' '.join(os.environ[n] for n in {names})); "
        "open(sys.argv[1] + 'port' + os.environ['RANK'], 'w').write(os.environ['MASTER_PORT'])",
        str(tmp_path) + "/",
        count=3,
    )
    assert code == 0
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == [
        f"{rank} {rank} 3 3 127.0.0.1 2" for rank in range(3)
    ]
    assert len({(tmp_path / f"port{rank}").read_text() for rank in range(3)}) == 1


def test_the_first_one_speaks_and_its_exit_code_is_the_run_s(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("print('said by', rank); print('error:', rank, file=sys.stderr); sys.exit(5)") == 5
    said = capfd.readouterr()
    assert (said.out, said.err) == ("said by 0\n", "error: 0\n")


def test_a_killed_process_ends_the_others_and_is_named(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.2)
    begun = time.monotonic()
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    code = run(f"os.kill(os.getpid(), 9) if rank == 1 else exec({stubborn!r})", count=3)
    assert time.monotonic() - begun < 20
    assert code == 12
    assert capfd.readouterr().err == "process 1: killed by SIGKILL.\n"


def test_the_last_words_of_the_one_that_failed_are_said_when_the_first_only_lost_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    script = (
        "sys.exit(12) if rank == 0 else (print('noise\\nerror: out of memory', file=sys.stderr), sys.exit(9))"
    )
    code = run(f"time.sleep(0.3 * (rank == 0)); {script}")
    assert code == 9
    assert capfd.readouterr().err == "process 1: error: out of memory\n"


def test_sigterm_is_passed_on_to_all(tmp_path: Path) -> None:
    def send_when_ready() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send_when_ready, daemon=True).start()
    script = (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); "
        "open(sys.argv[1] + '/' + str(rank), 'w'); time.sleep(60)"
    )
    assert run(script, str(tmp_path)) == 143


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="other systems do not tell a child of its parent"
)
def test_a_killed_launcher_takes_its_processes_along(tmp_path: Path) -> None:
    child = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from detour.cli.processes import end_with_launcher\n"
        "end_with_launcher()\n"
        "Path(sys.argv[1], os.environ['RANK']).write_text(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    launcher = (
        "import sys\n"
        "from detour.cli.processes import run_in_processes\n"
        "run_in_processes(sys.argv[2:], 2, program=('-c', sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", launcher, child, str(tmp_path)])
    deadline = time.monotonic() + 30
    while len([path for path in tmp_path.iterdir() if path.read_text()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    children = [Path("/proc", path.read_text()) for path in tmp_path.iterdir()]
    while any(place.exists() and "Z" not in (place / "stat").read_text().split()[2] for place in children):
        assert time.monotonic() < deadline, "the processes outlived their launcher"
        time.sleep(0.02)
