from pathlib import Path

import pytest

from detour.adapters.attach import Attached
from detour.verbs.explain import overfitting as recipe
from detour.verbs.explain.overfitting import OverfitResult, overfit_one
from detour.verbs.progress import Progress


@pytest.fixture(scope="module")
def ten_steps(tiny_base: Path) -> tuple[OverfitResult, list[Progress]]:
    told: list[Progress] = []
    return overfit_one(base=str(tiny_base), lr=1e-2, progress=told.append), told


def test_ten_steps_on_one_picture_lower_the_loss_and_move_the_pixels(
    ten_steps: tuple[OverfitResult, list[Progress]],
) -> None:
    result, told = ten_steps
    assert result.steps == 10
    assert len(result.losses) == 11
    assert result.losses[0] == result.loss_before > result.loss_after == result.losses[-1]
    assert result.mean_abs_diff > 0.5
    assert result.learns
    assert "learns" in result.sentence
    assert "floor, not quality" in result.why_a_floor
    assert [p.done for p in told if p.stage == "overfitting"] == list(range(1, 11))


def test_an_installation_that_does_not_learn_is_told_so(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach = recipe.attach_trainable

    def switched_off(*args: object) -> Attached:
        attached = attach(*args)  # type: ignore[arg-type]
        attached.set_weight(0.0)
        return attached

    monkeypatch.setattr(recipe, "attach_trainable", switched_off)
    result = overfit_one(base=str(tiny_base), steps=2)
    assert not result.learns
    assert result.mean_abs_diff == 0
    assert "does NOT learn" in result.sentence


def test_the_last_loss_is_measured_and_not_said_twice(
    tiny_base: Path, ten_steps: tuple[OverfitResult, list[Progress]]
) -> None:
    """After one step it is what ten steps had before their second."""
    one = overfit_one(base=str(tiny_base), lr=1e-2, steps=1)
    assert one.losses == pytest.approx(ten_steps[0].losses[:2], rel=1e-6)
    assert one.loss_after < one.loss_before


def test_a_loss_that_fell_without_a_picture_that_moved_is_not_learning(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "mean_abs_diff", lambda a, b: 0.5)  # no more than the least that counts
    result = overfit_one(base=str(tiny_base), lr=1e-2, steps=1)
    assert result.loss_after < result.loss_before
    assert not result.learns


def test_a_picture_that_moved_without_a_loss_that_fell_is_not_learning(tiny_base: Path) -> None:
    result = overfit_one(base=str(tiny_base), lr=1.0, steps=1, targets="all")  # far too high
    assert result.loss_after > result.loss_before
    assert result.mean_abs_diff > 0.5
    assert not result.learns
    assert "does NOT learn" in result.sentence
