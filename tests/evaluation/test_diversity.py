import numpy as np
import pytest
import torch

from detour.errors import ShapeMismatch
from detour.evaluation.diversity import distances_within, measure_diversity, pixels_within
from tests.evaluation.looks import looks


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def test_spreads_are_means_over_pairs_within_a_prompt_and_of_different_prompts() -> None:
    pictures, features = noise(6), looks(6, 0)
    thumbs = pictures.astype(float)

    def pixels(i: int, j: int) -> float:
        return float(np.abs(thumbs[i] - thumbs[j]).mean())

    within = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]
    across = [(i, j) for i in range(3) for j in range(3, 6)]
    found = measure_diversity(
        {"base": pictures, "adapter": pictures},
        {"base": features, "adapter": features},
        seeds=3,
        share_max=0.25,
    )
    assert found.within_prompt is not None
    assert found.across_prompts is not None
    for spread, pairs in ((found.within_prompt, within), (found.across_prompts, across)):
        assert spread.pixels.base == pytest.approx(np.mean([pixels(i, j) for i, j in pairs]))
        cosines = [float(features[i] @ features[j]) for i, j in pairs]
        assert spread.judge.adapter == pytest.approx(1 - np.mean(cosines), abs=1e-6)
    assert distances_within(features, seeds=3).mean() == pytest.approx(found.within_prompt.judge.base)
    assert pixels_within(pictures, seeds=3).shape == (2,)


def test_a_collapse_is_called_by_its_name() -> None:
    free, one_a_prompt = noise(6), noise(2).repeat(3, axis=0)
    one_for_all = noise(1).repeat(6, axis=0)
    features = looks(6, 0)
    for pictures, names in (
        (free, ()),
        (one_a_prompt, ("within_prompt",)),
        (one_for_all, ("within_prompt", "across_prompts")),
    ):
        found = measure_diversity(
            {"base": free, "adapter": pictures},
            {"base": features, "adapter": features},
            seeds=3,
            share_max=0.25,
        )
        assert found.collapses == names


def test_a_style_of_few_tones_has_not_collapsed() -> None:
    free, features = noise(4), looks(4, 0)
    flat = (free // 16 + 100).astype(np.uint8)
    sides = {"base": free, "adapter": flat}, {"base": features, "adapter": features}
    assert measure_diversity(*sides, seeds=2, share_max=0.25).collapses
    assert not measure_diversity(*sides, seeds=2, share_max=0.25, truths=(flat, features)).collapses


def test_what_has_no_pairs_is_left_out() -> None:
    two, features = {"base": noise(2), "adapter": noise(2, 1)}, {"base": looks(2, 0), "adapter": looks(2, 1)}
    assert measure_diversity(two, features, seeds=1, share_max=0.25).within_prompt is None
    assert measure_diversity(two, features, seeds=2, share_max=0.25).across_prompts is None
    with pytest.raises(ShapeMismatch):
        measure_diversity(two, {**features, "adapter": torch.eye(3)}, seeds=1, share_max=0.25)
