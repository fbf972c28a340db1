from pathlib import Path

import pytest

from detour.bases.base import open_base
from detour.data.folder import Dataset, read_dataset
from detour.specs import DataSpec
from detour.training.material import load_material
from tests.verbs.photos import make_photos


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_captions_and_prompts_of_which_the_end_is_not_seen_are_told(
    tiny_base: Path, tmp_path: Path, cache: str
) -> None:
    photos = make_photos(tmp_path / "photos", 2)
    (photos / "0.txt").write_text("x" * 75)
    (photos / "1.txt").write_text("y" * 76)
    spec = DataSpec(
        source=str(photos),
        resolution=64,
        flip=False,
        holdout=0.0,
        cache=cache,
        cache_folder=str(tmp_path / "cache"),
    )
    material = load_material(
        open_base(str(tiny_base)),
        read_dataset(spec),
        Dataset(()),
        spec=spec,
        device="cpu",
        other_prompts=("", "z" * 76, "short"),
    )
    assert set(material.too_long) == {"y" * 76, "z" * 76}
