"""A run on pictures of several shapes, cut at random and masked: exact like any other."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detour.adapter_files import read_adapter
from detour.adapters.delta import largest_relative_difference
from detour.errors import DataError, Interrupted
from detour.verbs.train import run as recipe
from detour.verbs.train.run import train_adapter
from tests.verbs.photos import quick_spec
from tests.verbs.test_train_adapter import stop_after

BUCKETS = {"data__buckets": True, "data__crop": "random", "data__crops": 2, "data__mask": "alpha"}


@pytest.fixture(autouse=True)
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, (width, height) in enumerate([(64, 64), (70, 64), (96, 50), (50, 96), (100, 48), (64, 66)]):
        pixels = np.random.default_rng(index).integers(1, 255, (height, width, 4), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"picture {index}")
    return folder


def test_buckets_crops_and_masks_resume_to_the_same_bytes(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    spec = quick_spec(tiny_base, photos, data__holdout=0.4, **BUCKETS)
    straight = train_adapter(spec, runs=tmp_path / "straight")
    with pytest.raises(Interrupted):
        train_adapter(spec, runs=tmp_path / "broken", progress=stop_after(3))
    folder = tmp_path / "broken" / "quick"
    train_adapter(None, resume=folder)
    assert (folder / "quick.safetensors").read_bytes() == straight.adapter_file.read_bytes()
    assert straight.val_loss is not None
    assert "Buckets: 48×80 (1), 64×64 (3), 80×48 (2); a step shows one of them." in straight.notes
    assert any("Fewer pictures than the 2 samples of a step in 48×80:" in note for note in straight.notes)


def test_two_half_batches_of_a_bucket_are_one_full_batch(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    adapters = [
        read_adapter(
            train_adapter(
                quick_spec(
                    tiny_base,
                    photos,
                    train__batch=batch,
                    train__grad_accum=4 // batch,
                    train__optim__lr=1e-4,
                    **BUCKETS,
                ),
                runs=tmp_path / f"{batch}",
            ).adapter_file
        )
        for batch in (4, 2)
    ]
    assert largest_relative_difference(*adapters) < 1e-3


def test_a_picture_that_fits_no_bucket_stops_the_run_before_its_folder_is_made(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (20, 200)).save(photos / "6.png")
    (photos / "6.txt").write_text("x")
    with pytest.raises(DataError, match=r"6\.png: 20 × 200 px, smaller than the smallest bucket"):
        train_adapter(quick_spec(tiny_base, photos, data__buckets=True), runs=tmp_path / "runs")
    with pytest.raises(DataError, match=r"data.mask is 'file', but no NAME.mask.png"):
        train_adapter(quick_spec(tiny_base, photos, data__mask="file"), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_pictures_that_had_to_be_enlarged_are_named(tiny_base: Path, photos: Path, tmp_path: Path) -> None:
    notes = train_adapter(quick_spec(tiny_base, photos, train__steps=1), runs=tmp_path).notes
    [note] = [note for note in notes if "enlarged" in note]
    assert note.startswith("warning: 3 pictures below the training size of 64 px and enlarged")
    assert "(2.png, 3.png, 4.png)" in note
