import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detour.adapter_files import read_adapter
from detour.adapter_files.container import decode, read_file
from detour.adapter_files.hashes import data_sha256, file_hashes
from detour.adapter_files.limits import DEFAULT_LIMITS
from detour.adapter_files.metadata import thumbnail_url
from detour.verbs.train import run as recipe
from detour.verbs.train.run import train_adapter
from detour.verbs.train.saved_run import first_sample
from tests.verbs.photos import make_photos, quick_spec


@pytest.fixture
def run(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    return train_adapter(
        quick_spec(tiny_base, make_photos(tmp_path / "photos"), sample__every=3), runs=tmp_path / "runs"
    ).run_folder


def test_the_file_carries_a_picture_that_these_weights_drew_and_its_hashes_stay_right(run: Path) -> None:
    data = read_file(run / "quick.safetensors", DEFAULT_LIMITS)
    tensors, metadata = decode(data, DEFAULT_LIMITS, where="x")
    shown = metadata["modelspec.thumbnail"]
    with Image.open(next((run / "samples" / "step-000006").glob("00-*.png"))) as sample:
        assert shown == thumbnail_url(np.asarray(sample.convert("RGB")))
        earlier = first_sample(run, 3)
        assert earlier is not None
        assert shown != thumbnail_url(earlier)
    kind, _, text = shown.partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert (image.format, image.size) == ("JPEG", (64, 64))  # never enlarged
    assert metadata["sshs_model_hash"] == data_sha256(data)
    assert metadata["modelspec.hash_sha256"] == f"0x{data_sha256(data)}"
    without = {key: value for key, value in metadata.items() if key != "modelspec.thumbnail"}
    assert file_hashes(tensors, metadata) == file_hashes(tensors, without)
    assert file_hashes(tensors, metadata)["sshs_legacy_hash"] == metadata["sshs_legacy_hash"]


def test_trigger_and_picture_stand_where_other_programs_look(run: Path) -> None:
    """A1111's keys and its name for a preview; the picture is the sample itself, without what its PNG tells."""
    card = json.loads((run / "quick.json").read_text(encoding="utf-8"))
    _, metadata = decode(read_file(run / "quick.safetensors", DEFAULT_LIMITS), DEFAULT_LIMITS, where="x")
    assert card["activation text"] == metadata.get("modelspec.trigger_phrase", "")
    assert (card["sd version"], card["preferred weight"]) == ("SD1", 1.0)
    with Image.open(run / "quick.preview.png") as preview:
        assert not preview.info
        shown = first_sample(run, 6)
        assert shown is not None
        assert np.array_equal(np.asarray(preview), shown)


def test_a_step_without_samples_has_no_thumbnail(tmp_path: Path) -> None:
    assert first_sample(tmp_path, 4) is None


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_other_formats_stand_beside_the_file_with_the_same_change(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    flags = {"adapter__formats": ("diffusers", "peft"), "adapter__method": method, "adapter__alpha": 6.0}
    spec = quick_spec(tiny_base, make_photos(tmp_path / "photos"), **flags)
    trained = train_adapter(spec, runs=tmp_path / "runs")
    assert any("ComfyUI" in note for note in trained.notes) == (method == "dora")  # who draws it wrongly
    folder = trained.run_folder
    ours = read_adapter(folder / "quick.safetensors").layers
    for place in ("quick-diffusers", "quick-peft"):
        theirs = read_adapter(folder / place).layers
        assert theirs.keys() == ours.keys()
        for key, layer in ours.items():
            other = theirs[key]
            # diffusers' form has the scale in its factors
            scaled = (
                {"up": layer.tensors["up"] * (layer.alpha / layer.rank)} if place == "quick-diffusers" else {}
            )
            for name, value in other.tensors.items():
                assert torch.equal({**layer.tensors, **scaled}[name], value), (place, key, name)
            assert layer.alpha == 6
            assert other.alpha == (layer.rank if scaled else 6)
    again = train_adapter(spec, runs=tmp_path / "runs", force=True).run_folder
    assert again == folder
    assert (folder / "quick-peft" / "adapter_config.json").is_file()
