import json
import shutil
from pathlib import Path

import pytest
import torch

from detour import files
from detour.errors import StorageError
from detour.training.checkpoints import Checkpoint, folder_of, newest_good, save_checkpoint


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        step, {"values": torch.full((5,), float(step)), "exp_avg": torch.rand(5)}, {"best_loss": 0.5}
    )


def test_newest_checkpoint_comes_back_exactly(tmp_path: Path) -> None:
    saved = checkpoint(20)
    save_checkpoint(tmp_path, checkpoint(10), keep=2)
    save_checkpoint(tmp_path, saved, keep=2)
    found, broken = newest_good(tmp_path)
    assert found is not None
    assert (found.step, found.facts, broken) == (20, {"best_loss": 0.5}, [])
    assert torch.equal(found.tensors["exp_avg"], saved.tensors["exp_avg"])


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == ["step-000020", "step-000030"]


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "complete.json"])
@pytest.mark.parametrize("how", ["cut", "flip", "delete"])
def test_a_broken_checkpoint_is_said_and_the_one_before_is_taken(tmp_path: Path, name: str, how: str) -> None:
    save_checkpoint(tmp_path, checkpoint(10), keep=2)
    save_checkpoint(tmp_path, checkpoint(20), keep=2)
    victim = folder_of(tmp_path, 20) / name
    data = bytearray(victim.read_bytes())
    if how == "delete":
        victim.unlink()
    elif how == "cut":
        victim.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0x04
        victim.write_bytes(bytes(data))
    found, broken = newest_good(tmp_path)
    assert found is not None
    assert found.step == 10
    assert len(broken) == 1
    assert "step-000020" in broken[0]


def test_a_kill_before_the_marker_leaves_nothing_to_resume_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, value: object) -> None:
        if path.name == "complete.json":
            raise KeyboardInterrupt
        files.write_json(path, value)

    monkeypatch.setattr("detour.training.checkpoints.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, checkpoint(10), keep=1)
    assert newest_good(tmp_path)[0] is None
    monkeypatch.undo()
    save_checkpoint(tmp_path, checkpoint(10), keep=1)  # the same step again, over the broken one
    assert newest_good(tmp_path)[0] is not None


def test_a_full_disk_keeps_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, checkpoint(10), keep=1)

    def full(path: Path, data: bytes) -> None:
        raise files.storage_error(path, OSError(28, "No space left on device"))

    monkeypatch.setattr("detour.training.checkpoints.write_bytes", full)
    with pytest.raises(StorageError, match="disk full"):
        save_checkpoint(tmp_path, checkpoint(20), keep=1)
    found, _ = newest_good(tmp_path)
    assert found is not None
    assert found.step == 10


def test_no_checkpoints_is_none_without_complaint(tmp_path: Path) -> None:
    assert newest_good(tmp_path) == (None, [])


def test_marker_vouches_for_both_files(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path, checkpoint(7), keep=1)
    marker = json.loads((folder / "complete.json").read_text())
    assert marker["sha256"] == {n: files.sha256_of(folder / n) for n in ("state.safetensors", "state.json")}


def test_the_best_one_stays_beside_the_newest(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save_checkpoint(tmp_path, checkpoint(step), keep=1, best=20 if step >= 20 else 10)
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == ["step-000020", "step-000040"]


def test_a_broken_newer_one_never_costs_the_one_just_written(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(10), keep=1)
    folder = save_checkpoint(tmp_path, checkpoint(30), keep=2)
    (folder / "state.safetensors").write_bytes(b"half")  # its marker is still there
    save_checkpoint(tmp_path, checkpoint(20), keep=1)  # gone on from step 10
    found, broken = newest_good(tmp_path)
    assert found is not None
    assert (found.step, broken) == (20, [])


def test_what_a_kill_left_at_other_steps_is_gone_after_the_next_save(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(10), keep=2)
    for step in (5, 15):
        folder_of(tmp_path, step).mkdir()
        (folder_of(tmp_path, step) / ".state.safetensors.abcd1234.part").write_bytes(b"half")
    save_checkpoint(tmp_path, checkpoint(20), keep=2)
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == ["step-000010", "step-000020"]


def test_a_good_one_of_the_same_step_is_never_deleted_to_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, checkpoint(10), keep=1)

    def killed(path: Path, data: bytes) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr("detour.training.checkpoints.write_bytes", killed)
    save_checkpoint(tmp_path, checkpoint(10), keep=1)
    assert newest_good(tmp_path)[0] is not None


def test_everything_is_on_the_disk_before_the_marker_and_the_marker_before_a_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut can undo is what was not fsynced; files, their folder and its name come before the marker."""
    save_checkpoint(tmp_path, checkpoint(10), keep=1)
    events: list[str] = []
    fsync, replace, rmtree = files._fsync, Path.replace, shutil.rmtree
    monkeypatch.setattr(
        files, "_fsync", lambda path: (events.append(f"fsync {path.name[:9]}"), fsync(path))[1]
    )
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (events.append(f"name {to.name}"), replace(self, to))[1]
    )
    monkeypatch.setattr(
        shutil, "rmtree", lambda path: (events.append(f"delete {path.name}"), rmtree(path))[1]
    )
    save_checkpoint(tmp_path, checkpoint(20), keep=1)
    assert events == [
        "fsync checkpoin",
        *("fsync .state.sa", "name state.safetensors", "fsync step-0000"),
        *("fsync .state.js", "name state.json", "fsync step-0000"),
        *("fsync .complete", "name complete.json", "fsync step-0000"),
        "delete step-000010",
    ]


def test_steps_of_more_digits_are_newer(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    found, _ = newest_good(tmp_path)
    assert found is not None
    assert found.step == 1_000_000
