"""Copies are found whatever was done to them, new pictures are none, and where a copy begins is measured."""

from typing import cast

import numpy as np
import pytest
import torch

from detour.errors import DataError
from detour.evaluation import copies as module
from detour.evaluation.alignment import ALIGNED_SIDE, SMOOTH, _edges, laid_distances, own_distances
from detour.evaluation.copies import (
    QUOTED_CUT,
    Originals,
    calibrate,
    find_copies,
    measure_copies,
    measure_judge_cut,
)
from detour.evaluation.judge import Judge
from detour.evaluation.pixels import Pictures
from detour.evaluation.planted import planted_copies
from detour.pocket.world import NAMED_STYLES, render, training_example

STYLE = NAMED_STYLES["stained glass"]


def scenes(count: int, seed: int) -> Pictures:
    return np.stack(
        [render(training_example(seed, index).scene, STYLE, size_px=64) for index in range(count)]
    )


class ColourJudge:
    """Sees the mean colours of the four quarters alone."""

    def picture_features(self, pictures: Pictures) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float()
        means = torch.nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1)
        return torch.nn.functional.normalize(means - means.mean(1, keepdim=True))


@pytest.fixture(scope="module")
def originals() -> Pictures:
    return scenes(8, 0)


def test_planted_copies_are_found_with_their_original_and_new_pictures_are_not(originals: Pictures) -> None:
    scale = calibrate(originals)
    changed = np.concatenate(list(planted_copies(originals, seed=1).values()))
    copies = find_copies(changed, originals, scale)
    own = np.tile(np.arange(len(originals)), len(changed) // len(originals))
    assert copies.share >= 0.9
    assert np.array_equal(copies.nearest[copies.copied], own[copies.copied])
    assert find_copies(scenes(20, 5), originals, scale).share == 0.0


def test_a_mirrored_copy_lies_on_its_original(originals: Pictures) -> None:
    assert laid_distances(originals[:1, :, ::-1], originals)[0, 0] == pytest.approx(0.0, abs=1e-6)


def test_light_is_no_difference_and_other_pictures_are_far(originals: Pictures) -> None:
    dimmed = (originals // 2).astype(np.uint8)
    distances = laid_distances(dimmed, originals)
    assert distances.diagonal().max() < 0.01
    assert distances[~np.eye(len(originals), dtype=bool)].min() > 0.3


def test_distances_to_the_own_original_are_the_diagonal(originals: Pictures) -> None:
    twice = np.concatenate([originals[:, :, ::-1], originals])
    own = own_distances(twice, originals)
    assert own.shape == (2, len(originals))
    assert own[0] == pytest.approx(0.0, abs=1e-5)
    assert own[1] == pytest.approx(laid_distances(originals, originals).diagonal(), abs=1e-5)


def test_pictures_of_one_colour_are_copies_of_nothing(originals: Pictures) -> None:
    flat = np.full((2, 64, 64, 3), 130, np.uint8)
    flat[:, 10, 10] = 131
    assert laid_distances(flat, flat).min() > 0.9
    assert find_copies(flat, originals, calibrate(originals)).share == 0.0


def test_originals_that_are_alike_lower_the_threshold_and_say_so(originals: Pictures) -> None:
    base = originals[0].astype(np.float64)
    alike = np.stack([(0.75 * base + 0.25 * other).astype(np.uint8) for other in originals[1:]])
    scale = calibrate(alike)
    assert scale.threshold < calibrate(originals).threshold
    assert scale.planted_found < 0.9
    assert scale.originals_alike is not None
    assert scale.originals_alike <= 0.05


def test_a_picture_that_is_there_twice_does_not_move_the_threshold(originals: Pictures) -> None:
    twice = np.concatenate([originals, originals[:4, :, ::-1]])
    scale = calibrate(twice)
    assert scale.repeated == 8
    assert scale.threshold == pytest.approx(calibrate(originals).threshold, abs=0.05)


def test_one_original_is_enough_and_none_is_refused(originals: Pictures) -> None:
    scale = calibrate(originals[:1])
    assert scale.originals_alike is None
    assert scale.threshold > 0.05
    assert "cannot be told from one original" in scale.sentence()
    with pytest.raises(DataError, match="no pictures that could have been copied"):
        calibrate(originals[:0])


def test_copies_stand_beside_the_base_and_true_pictures(originals: Pictures) -> None:
    new = scenes(6, 9)
    adapter = np.concatenate([originals[:3, :, ::-1], new[:3]])
    figures = measure_copies({"adapter": adapter, "base": new}, originals, truths=scenes(4, 12))
    assert figures.share.adapter == 0.5
    assert (figures.share.base, figures.share.ceiling) == (0.0, 0.0)
    assert figures.beyond_base == 0.5
    assert [(pair.picture, pair.original, pair.copied) for pair in figures.pairs[:3]] == [
        (0, 0, True),
        (1, 1, True),
        (2, 2, True),
    ]
    assert figures.pairs[0].hash_bits == 0
    assert figures.pairs[0].similarity is None
    assert figures.nearest.base > figures.scale.threshold
    assert len(figures.pairs) == 6


def test_the_quoted_cut_is_measured_with_the_judge_in_use(originals: Pictures) -> None:
    judge = cast(Judge, ColourJudge())
    always = measure_judge_cut(judge, Originals(originals), cut=-1.0)
    never = measure_judge_cut(judge, Originals(originals), cut=1.1)
    assert (always.distinct_above, always.planted_below) == (1.0, 0.0)
    assert (never.distinct_above, never.planted_below) == (0.0, 1.0)
    assert "does not hold here: 100% of the originals" in always.sentence()
    figures = measure_copies({"adapter": originals, "base": originals}, originals, judge=judge)
    assert figures.judge_cut is not None
    assert figures.judge_cut.cut == QUOTED_CUT
    assert figures.pairs[0].similarity == pytest.approx(1.0, abs=1e-5)


def test_edges_are_those_of_pooling_twice_in_a_picture_and_in_its_mirror() -> None:
    """The local mean as two products against torch's own pooling, with every edge of the picture in it."""
    pixels = 255 * torch.rand(3, 3, ALIGNED_SIDE, ALIGNED_SIDE, generator=torch.Generator().manual_seed(0))
    smooth = pixels
    for _ in range(2):
        smooth = torch.nn.functional.pad(smooth, (SMOOTH // 2,) * 4, mode="replicate")
        smooth = torch.nn.functional.avg_pool2d(smooth, SMOOTH, 1)
    edges = (pixels - smooth).flatten(2)
    edges = (edges - edges.mean(2, keepdim=True)).flatten(1)
    torch.testing.assert_close(_edges(pixels), edges / edges.norm(dim=1, keepdim=True), atol=1e-6, rtol=0)
    turned = _edges(pixels.flip(3))
    mirrored = _edges(pixels).unflatten(1, (3, ALIGNED_SIDE, ALIGNED_SIDE)).flip(3).flatten(1)
    torch.testing.assert_close(turned, mirrored, atol=1e-6, rtol=0)


def test_windows_that_are_kept_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    originals, pictures = scenes(5, 0), scenes(4, 9)
    kept = Originals(originals)
    assert kept.windows is not None
    monkeypatch.setattr(module, "MAX_WITH_WINDOWS", 4)
    made_anew = Originals(originals)
    assert made_anew.windows is None
    assert calibrate(kept) == calibrate(made_anew)
    assert np.array_equal(kept.distances(pictures), made_anew.distances(pictures))
    assert np.array_equal(kept.distances(pictures), laid_distances(pictures, originals))
