"""A run that touches the frozen base says so."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from detour.verbs.progress import Progress
from detour.verbs.train.run import train_adapter
from tests.verbs.photos import make_photos, quick_spec


@pytest.mark.parametrize("nudged", [False, True])
def test_a_base_weight_that_moves_during_training_is_reported(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nudged: bool
) -> None:
    """One element of one frozen tensor by its last bits, once, in the middle of the run."""
    forward, left = UNet2DConditionModel.forward, [0]

    def moved(self: Any, *args: Any, **settings: Any) -> Any:
        if left[0]:
            left[0] = 0
            with torch.no_grad():
                self.conv_in.bias[0] += 1e-6
        return forward(self, *args, **settings)

    def tell(report: Progress) -> None:
        if nudged and report.stage == "training" and report.done == 3:
            left[0] = 1

    monkeypatch.setattr(UNet2DConditionModel, "forward", moved)
    spec = quick_spec(tiny_base, make_photos(tmp_path / "photos", 4), validate__every=0, checkpoint__every=0)
    proof = train_adapter(spec, runs=tmp_path / "runs", progress=tell).proof
    assert proof is not None
    assert proof.gradients is not None
    assert proof.gradients.base_unchanged is not nudged
    said = any("not the same after training" in reason for reason in proof.reasons)
    assert said is (nudged and proof.verdict != "no_effect")
    if nudged:
        assert proof.verdict != "learned"
