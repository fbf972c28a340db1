import numpy as np
import pytest
import torch

from detour.errors import ShapeMismatch
from detour.evaluation.drift import measure_drift
from tests.evaluation.looks import looks


def flat(*tones: int) -> np.ndarray:
    return np.stack([np.full((16, 16, 3), tone, np.uint8) for tone in tones])


def test_the_move_is_set_against_what_another_seed_moves() -> None:
    base = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    adapter = torch.tensor([[0.6, 0.8], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    found = measure_drift(
        {"base": flat(0, 20, 0, 20), "adapter": flat(5, 25, 5, 25)},
        {"base": base, "adapter": adapter},
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        seeds=2,
    )
    assert found.judge.adapter == pytest.approx(0.1)
    assert found.judge.other_seeds == pytest.approx(1.0)
    assert found.judge.share == pytest.approx(0.1)
    assert (found.pixels.adapter, found.pixels.other_seeds, found.pixels.share) == (5, 20, 0.25)
    assert found.clip_score.base == pytest.approx(50)
    assert found.clip_change.mean == pytest.approx(-10)
    assert found.parts is None


def test_the_base_does_not_drift_from_itself_and_one_seed_has_no_control() -> None:
    sides = {side: looks(3, 0) for side in ("base", "adapter", "rate_zero")}
    pictures = {side: flat(1, 2, 3) for side in sides}
    found = measure_drift(pictures, sides, looks(3, 1), seeds=1)
    assert (found.judge.adapter, found.judge.rate_zero) == (
        pytest.approx(0, abs=1e-6),
        pytest.approx(0, abs=1e-6),
    )
    assert (found.pixels.adapter, found.pixels.rate_zero, found.pixels.shuffled) == (0, 0, None)
    assert found.judge.other_seeds is None
    assert found.judge.share is None


def test_sides_of_unlike_size_are_refused() -> None:
    with pytest.raises(ShapeMismatch):
        measure_drift(
            {"base": flat(1), "adapter": flat(1)},
            {"base": looks(1, 0), "adapter": looks(2, 0)},
            looks(1, 0),
            seeds=1,
        )
