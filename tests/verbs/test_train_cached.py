"""Runs with the cache on disk: the second encodes nothing, and nothing stale is ever met."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from detour.bases.base import Base
from detour.errors import Interrupted
from detour.training import stored
from detour.verbs.train import run as recipe
from detour.verbs.train.run import TrainResult, train_adapter
from tests.verbs.photos import make_photos, quick_spec
from tests.verbs.test_train_adapter import stop_after


class Work:
    """How many pictures and texts were encoded, and which parts were loaded."""

    def __init__(self) -> None:
        self.pictures, self.texts, self.loaded = 0, 0, list[str]()

    def clear(self) -> "Work":
        self.__init__()  # type: ignore[misc]
        return self


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Counts, leaves the proof out, and takes every file for one that has not changed for long."""
    work = Work()
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    monkeypatch.setattr(recipe, "keep_trained_pictures_of", lambda *args: None)  # loads a VAE of its own
    monkeypatch.setattr("detour.files.SETTLED_S", -1e6)
    encode, encode_one = stored.encode_pictures, stored.TextStage.encode

    def counted(vae: Any, pixels: torch.Tensor) -> Any:
        work.pictures += len(pixels)
        return encode(vae, pixels)

    def counted_text(self: Any, prompts: Any) -> Any:
        work.texts += len(prompts)
        return encode_one(self, prompts)

    def loading(name: str) -> None:
        load = getattr(Base, name)

        def loaded(self: Base, *args: Any, **named: Any) -> Any:
            work.loaded.append(name)
            return load(self, *args, **named)

        monkeypatch.setattr(Base, name, loaded)

    monkeypatch.setattr(stored, "encode_pictures", counted)
    monkeypatch.setattr(stored.TextStage, "encode", counted_text)
    loading("load_vae")
    loading("load_text")
    return work


@pytest.fixture
def place(tiny_base: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_base, tmp_path / "base")
    make_photos(tmp_path / "photos", 4)
    return tmp_path


def run(place: Path, name: str, **flags: Any) -> TrainResult:
    settings = {"data__cache": "disk", "data__cache_folder": str(place / "cache"), "train__steps": 2, **flags}
    return train_adapter(quick_spec(place / "base", place / "photos", **settings), runs=place / name)


def change(weights: Path, ending: str) -> None:
    """Move one tensor of a file a little, the one whose name ends so."""
    tensors = load_file(weights)
    (name,) = (name for name in tensors if name.endswith(ending))
    tensors[name] += 1e-3
    save_file(tensors, weights, metadata={"format": "pt"})


def test_the_second_run_loads_no_encoder_and_makes_the_same_bytes(place: Path, work: Work) -> None:
    first = run(place, "first")
    assert (work.pictures, sorted(set(work.loaded))) == (8, ["load_text", "load_vae"])
    assert work.texts == 4 + 2  # captions, the empty prompt as prompt and as unconditional text
    work.clear()
    second = run(place, "second")
    assert (work.pictures, work.texts, work.loaded) == (0, 0, [])
    assert second.adapter_file.read_bytes() == first.adapter_file.read_bytes()
    assert str(place) not in first.adapter_file.read_bytes().decode("latin-1")


def test_nothing_stale_is_met_after_any_change(place: Path, work: Work) -> None:
    run(place, "first")

    def encoded(**flags: Any) -> int:
        work.clear()
        run(place, "again", **flags)
        return work.pictures

    image = Image.open(place / "photos" / "2.png")
    image.putpixel((0, 0), (1, 2, 3))
    image.save(place / "photos" / "2.png")
    assert encoded() == 2  # the edited picture and its mirrored view
    assert encoded() == 0
    assert encoded(data__resolution=32) == 8
    assert (
        encoded(data__buckets=True) == 0
    )  # 64 × 70 has the square for a bucket: the same part of each picture
    assert encoded(data__buckets=True, data__resolution=48) == 8
    assert encoded(data__flip=False) == 0
    assert encoded(data__crop="random", data__crops=2) == 16
    (place / "photos" / "1.txt").write_text("another caption")
    work.clear()
    run(place, "again")
    assert (work.pictures, work.texts) == (0, 1)
    change(place / "base" / "text_encoder" / "model.safetensors", "final_layer_norm.bias")
    work.clear()
    run(place, "again")
    assert (work.pictures, work.texts) == (0, 4 + 2)
    change(place / "base" / "vae" / "diffusion_pytorch_model.safetensors", "encoder.conv_in.bias")
    assert encoded() == 8
    config = place / "base" / "vae" / "config.json"
    config.write_text(config.read_text().replace('"scaling_factor": 0.18215', '"scaling_factor": 0.2'))
    assert encoded() == 8


def test_a_damaged_entry_is_made_again_and_said(place: Path, work: Work) -> None:
    first = run(place, "first")
    path = sorted((place / "cache" / "entries").glob("*/*"))[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    work.clear()
    second = run(place, "second")
    assert work.pictures + work.texts == 1
    assert any("1 entries of the cache were damaged and made again" in note for note in second.notes)
    assert second.adapter_file.read_bytes() == first.adapter_file.read_bytes()


def test_a_run_with_a_cache_that_is_too_small_says_so_and_resumes_to_the_same_bytes(
    place: Path, work: Work
) -> None:
    straight = run(place, "straight", train__steps=4, data__cache_gib=1e-6)
    assert any("above data.cache_gib" in note for note in straight.notes)
    settings = {"data__cache": "disk", "data__cache_folder": str(place / "cache"), "train__steps": 4}
    spec = quick_spec(place / "base", place / "photos", data__cache_gib=1e-6, **settings)
    with pytest.raises(Interrupted):
        train_adapter(spec, runs=place / "broken", progress=stop_after(2))
    shutil.rmtree(place / "cache")
    train_adapter(None, resume=place / "broken" / "quick")
    resumed = place / "broken" / "quick" / "quick.safetensors"
    assert resumed.read_bytes() == straight.adapter_file.read_bytes()
