"""Whole runs in two processes on a CPU: the adapter of one, one writer, and an end with a line when one is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from detour.adapter_files import read_adapter
from detour.adapters.delta import largest_relative_difference
from detour.training.checkpoints import newest_good
from tests.verbs.killed_runs import metrics
from tests.verbs.photos import make_photos, quick_flags
from tests.verbs.test_killed_processes import command

SHARED = {"train.steps": 20, "train.batch": 4, "sample.every": 10, "validate.every": 5, "checkpoint.every": 5}


def start(arguments: list[str], **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "detour", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(arguments: list[str]) -> str:
    process = start(arguments)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def trained_by_one_and_by_two(
    flags: dict[str, Any], place: Path, words: object, capsys: pytest.CaptureFixture[str]
) -> tuple[Path, Path]:
    """Train in one process and in two, see that the adapters are equal, and return both run folders."""
    for count in (1, 2):
        finished([*command(flags, place / str(count)), "--processes", str(count)])
    one, two = (place / str(count) / "quick" for count in (1, 2))
    states = [newest_good(folder)[0] for folder in (one, two)]
    assert states[0] is not None
    assert states[1] is not None
    assert states[1].facts["processes"] == 2
    ours, theirs = states[0].tensors["values"], states[1].tensors["values"]
    of_weights = float((ours - theirs).norm() / ours.norm())
    of_change = largest_relative_difference(*(read_adapter(f / "quick.safetensors") for f in (one, two)))
    with capsys.disabled():
        print(
            f"\n{words}: weights differ by {of_weights:.1e}, any layer's change by {of_change:.1e}",
            file=sys.stderr,
        )
    assert of_weights < 1e-5
    assert of_change < 1e-4
    return one, two


@pytest.mark.slow
@pytest.mark.parametrize("batch", [{"train.batch": 4}, {"train.batch": 2, "train.grad_accum": 2}])
def test_two_processes_give_the_adapter_of_one(
    tiny_base: Path, tmp_path: Path, batch: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = quick_flags(tiny_base, make_photos(tmp_path / "photos")) | SHARED | batch
    one, two = trained_by_one_and_by_two(flags, tmp_path, batch, capsys)
    lines = [metrics(folder) for folder in (one, two)]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    assert torch.allclose(
        torch.tensor([line.get("loss", 0.0) for line in lines[0]]),
        torch.tensor([line.get("loss", 0.0) for line in lines[1]]),
        rtol=1e-5,
    )
    names = [sorted(str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()) for f in (one, two)]
    assert names[0] == names[1]


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_a_line_and_one_process_goes_on(
    tiny_base: Path, tmp_path: Path
) -> None:
    flags = quick_flags(tiny_base, make_photos(tmp_path / "photos")) | SHARED | {"train.steps": 400}
    run = start([*command(flags, tmp_path), "--processes", "2"])
    folder = tmp_path / "quick"
    while not list(folder.glob("checkpoints/*/complete.json")):
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.2)
    os.kill(peer_of(run.pid), signal.SIGKILL)
    begun = time.monotonic()
    said, _ = run.communicate(timeout=120)
    assert time.monotonic() - begun < 60
    assert run.returncode == 12
    assert f"ended, or said nothing for too long. Go on with: detour train --resume {folder}" in said
    assert "process 1: killed by SIGKILL." in said
    assert "Traceback" not in said
    assert json.loads((folder / "run.json").read_text())["state"] == "failed"
    found, _ = newest_good(folder)
    assert found is not None
    resumed = start(["train", "--resume", str(folder)])
    os.kill(resumed.pid, 0)
    while not list(folder.glob(f"checkpoints/step-{found.step + 5:06d}/complete.json")):
        assert resumed.poll() is None, resumed.communicate()[0]
        time.sleep(0.2)
    resumed.send_signal(signal.SIGTERM)
    said, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 143
    assert "2 processes trained it and 1 process now" in said
    assert "everything is saved" in said


def peer_of(launcher: int) -> int:
    """The process of number 1 that the launcher started."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if "RANK=1" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError("no peer")
