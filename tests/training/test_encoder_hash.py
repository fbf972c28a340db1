"""What an encoder is: its tensors, remembered by their files, its settings and its arithmetic."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from detour import files
from detour.bases.base import open_base
from detour.training.encoder_hash import encoder_facts, tensor_hash


class Loads:
    """Gives a part with one weight, and counts how often it was asked."""

    def __init__(self, value: float) -> None:
        self.value, self.count = value, 0

    def __call__(self) -> dict[str, nn.Module]:
        self.count += 1
        part = nn.Linear(1, 1, bias=False)
        nn.init.constant_(part.weight, self.value)
        return {"vae": part}


def weights(folder: Path, data: bytes = b"weights", *, age_s: float = 100) -> Path:
    path = folder / "vae.safetensors"
    path.write_bytes(data)
    settled = path.stat().st_mtime - age_s
    os.utime(path, (settled, settled))
    return path


@pytest.fixture(autouse=True)
def old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's ``ctime`` cannot be set: let the clock stand later instead."""
    now = files.time.time_ns
    monkeypatch.setattr(files.time, "time_ns", lambda: now() + int(60e9))


def test_the_hash_is_of_the_tensors_and_files_that_did_not_change_are_not_loaded_again(
    tmp_path: Path,
) -> None:
    file, loads = weights(tmp_path), Loads(1.0)
    first = tensor_hash([file], ["vae"], loads, tmp_path / "memory")
    assert tensor_hash([file], ["vae"], loads, tmp_path / "memory") == first
    assert loads.count == 1
    assert tensor_hash([file], ["vae"], Loads(1.0), tmp_path / "elsewhere") == first
    assert tensor_hash([file], ["vae"], Loads(2.0), tmp_path / "third") != first


def test_files_that_were_replaced_under_the_same_name_size_and_time_are_loaded_again(tmp_path: Path) -> None:
    file = weights(tmp_path)
    facts = file.stat()
    first = tensor_hash([file], ["vae"], Loads(1.0), tmp_path / "memory")
    other = tmp_path / "other"
    other.write_bytes(b"WEIGHTS")
    os.utime(other, ns=(facts.st_mtime_ns, facts.st_mtime_ns))
    shutil.copy2(other, file)  # in place: the inode stays
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    loads = Loads(2.0)
    assert tensor_hash([file], ["vae"], loads, tmp_path / "memory") != first
    assert loads.count == 1


def test_a_file_that_changed_a_moment_ago_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SETTLED_S", 1e6)
    file, loads = weights(tmp_path), Loads(1.0)
    for _ in range(2):
        tensor_hash([file], ["vae"], loads, tmp_path / "memory")
    assert loads.count == 2


def test_settings_tokenizer_threads_and_device_are_part_of_what_an_encoder_is(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def facts(folder: Path, *, device: str = "cpu", part: str = "text_encoder") -> str:
        base = open_base(str(folder))
        return encoder_facts(base, [part], lambda: {part: nn.Identity()}, tmp_path / "memory", device=device)

    copy = shutil.copytree(tiny_base, tmp_path / "base")
    before, vae_before = facts(copy), facts(copy, part="vae")
    assert facts(copy, device="mps") != before
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 99)
        assert facts(copy) != before
    (copy / "tokenizer" / "merges.txt").write_text("#version: 0.2\na b\n")
    assert facts(copy) != before
    assert facts(copy, part="vae") == vae_before
    config = copy / "vae" / "config.json"
    config.write_text(config.read_text().replace('"scaling_factor": 0.18215', '"scaling_factor": 0.2'))
    assert facts(copy, part="vae") != vae_before
