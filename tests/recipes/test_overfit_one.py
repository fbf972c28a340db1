from pathlib import Path

import pytest

from detour.adapters.attach import Attached
from detour.recipes import overfit_one as recipe
from detour.recipes.overfit_one import overfit_one
from detour.recipes.progress import Progress


def test_ten_steps_on_one_picture_lower_the_loss_and_move_the_pixels(tiny_base: Path) -> None:
    told: list[Progress] = []
    result = overfit_one(base=str(tiny_base), lr=1e-2, progress=told.append)
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
