from pathlib import Path

import numpy as np
import pytest
import torch

from detour.evaluation.feature_cache import FeatureCache, picture_key

KEYS = [picture_key("judge", np.full((2, 2, 3), tone, np.uint8)) for tone in range(4)]


def test_features_come_back_in_this_process_and_in_the_next(tmp_path: Path) -> None:
    first = FeatureCache(tmp_path)
    assert first.get(KEYS[0]) is None
    first.put(KEYS[0], torch.arange(3.0))
    first.close()
    second = FeatureCache(tmp_path)
    found = second.get(KEYS[0])
    assert found is not None
    assert torch.equal(found, torch.arange(3.0))


def test_the_key_holds_judge_shape_and_every_pixel() -> None:
    picture = np.zeros((2, 4, 3), np.uint8)
    other = picture.copy()
    other[1, 3, 2] = 1
    keys = {
        picture_key("a", picture),
        picture_key("b", picture),
        picture_key("a", other),
        picture_key("a", picture.reshape(4, 2, 3)),
    }
    assert len(keys) == 4


def test_a_damaged_entry_is_not_believed(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put(KEYS[0], torch.arange(3.0))
    cache.close()
    (entry,) = (tmp_path / "entries").glob("*/*")
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.write_bytes(data)
    assert FeatureCache(tmp_path).get(KEYS[0]) is None


def test_the_bound_holds_when_the_cache_is_closed(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, max_bytes=600)
    for key in KEYS:
        cache.put(key, torch.zeros(3))
    cache.close()
    sizes = [entry.stat().st_size for entry in (tmp_path / "entries").glob("*/*")]
    assert 0 < sum(sizes) <= 600
    assert len(sizes) < len(KEYS)


def test_a_folder_that_cannot_be_made_leaves_the_cache_in_memory(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    cache = FeatureCache(tmp_path / "taken")
    cache.put(KEYS[0], torch.ones(2))
    assert cache.get(KEYS[0]) is not None
    cache.close()


def test_the_users_cache_folder_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETOUR_CACHE", str(tmp_path))
    cache = FeatureCache()
    cache.put(KEYS[0], torch.ones(2))
    assert list((tmp_path / "features" / "entries").glob("*/*"))
    cache.close()
