"""The same model as a diffusers folder and as one checkpoint file: trained from each to the same weights."""

from pathlib import Path

import pytest

from detour.adapter_files import read_adapter
from detour.bases.base import open_base
from detour.bases.single_file_writing import write_single_file
from detour.verbs.train import run as recipe
from detour.verbs.train.run import train_adapter
from tests.verbs.photos import make_photos, quick_spec


def test_folder_and_single_file_train_to_the_same_bytes(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    photos = make_photos(tmp_path / "photos", 4)
    single = write_single_file(open_base(str(tiny_base)), tmp_path / f"{tiny_base.name}.safetensors")
    files = [
        train_adapter(quick_spec(base, photos, train__steps=3), runs=tmp_path / runs).adapter_file
        for base, runs in ((tiny_base, "from-folder"), (single, "from-file"))
    ]
    assert any(layer.up.any() for layer in read_adapter(files[0]).layers.values())
    assert files[0].read_bytes() == files[1].read_bytes()
