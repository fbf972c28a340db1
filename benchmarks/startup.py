"""``python -m benchmarks.startup``: how soon the command line speaks, and what a slip costs, command by command.

Each slip is a plain error of input: a folder that is not there, a key that is not known, a file of another kind. Given
are the CPU seconds until the error (the median of ``--rounds``), and for commands that work, the wall seconds until the
first line on a terminal. ``--help`` and ``import detour`` are measured too.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

MOST_CPU_S = 1.5
"""Most CPU seconds that a plain input error may take."""
MOST_FIRST_LINE_S = 1.0
"""Most seconds until the first line on a terminal."""
MOST_HELP_S = 0.3
"""Most CPU seconds that ``detour --help`` and ``import detour`` may take."""


def slips(folder: Path) -> dict[str, list[str]]:
    """Name → arguments of a command with an input error."""
    picture = folder / "picture.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    photos = folder / "photos"
    photos.mkdir()
    return {
        "train, no such folder": ["train", str(folder / "none")],
        "train, unknown key": ["train", str(photos), "--set", "train.step=3"],
        "train, no such base": ["train", str(photos), "--base", "pokcet"],
        "generate, no such adapter": ["generate", "a house", "--lora", str(folder / "none.safetensors")],
        "show, a picture": ["show", str(picture)],
        "convert, no such file": [
            "convert",
            str(folder / "none.safetensors"),
            str(folder / "out"),
            "--to",
            "peft",
        ],
        "merge, a picture": ["merge", "pocket", "--lora", str(picture), "--out", str(folder / "out")],
        "prove, no such run": ["prove", str(folder / "none")],
        "evaluate, no such run": ["evaluate", str(folder / "none")],
        "compare, unknown key": ["compare", str(photos), "--set", "train.step=3,4"],
        "plan, no such base": ["plan", "--base", "sdlx"],
        "data check, no such folder": ["data", "check", str(folder / "none")],
    }


def cpu_seconds(command: Sequence[str]) -> tuple[float, int]:
    """CPU seconds of a process and its exit code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = subprocess.run(command, capture_output=True, check=False).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, code


def first_line_seconds(command: Sequence[str]) -> tuple[float, float]:
    """(wall, CPU) seconds until a process has written its first line to a terminal; then it is ended."""
    import pty

    reading, writing = pty.openpty()
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=writing, stderr=writing, stdin=subprocess.DEVNULL)
    os.close(writing)
    seen = b""
    while b"\n" not in seen:
        seen += os.read(reading, 1024)
    wall = time.perf_counter() - began
    ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    process.kill()
    process.wait()
    os.close(reading)
    return wall, sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    detour = [sys.executable, "-m", "detour"]
    late: list[str] = []

    def said(name: str, seconds: float, most: float, what: str) -> None:
        print(f"{name:32} {seconds:5.2f} s {what} (at most {most:g})", flush=True)
        if seconds > most:
            late.append(name)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        plain = {"--help": [*detour, "--help"], "import detour": [sys.executable, "-c", "import detour"]}
        for name, command in plain.items():
            times = [cpu_seconds(command)[0] for _ in range(rounds)]
            said(name, statistics.median(times), MOST_HELP_S, "of CPU time")
        for name, arguments in slips(folder).items():
            measured = [cpu_seconds([*detour, *arguments]) for _ in range(rounds)]
            assert all(code not in (0, 1) for _, code in measured), f"{name}: exit codes {measured}"
            said(name, statistics.median(seconds for seconds, _ in measured), MOST_CPU_S, "of CPU time")
        for name in ("evaluate", "generate", "train"):
            target = {
                "evaluate": [str(folder / "photos")],
                "generate": ["a house"],
                "train": [str(folder / "photos")],
            }
            times = [first_line_seconds([*detour, name, *target[name]])[1] for _ in range(rounds)]
            said(
                f"{name}, first line",
                statistics.median(times),
                MOST_FIRST_LINE_S,
                "of CPU time on a terminal",
            )
    sys.exit(1 if late else 0)


if __name__ == "__main__":
    main()
