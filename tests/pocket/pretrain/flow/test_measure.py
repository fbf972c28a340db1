"""The measuring of pocket-flow, on a folder of random weights."""

import pytest

from detour.pocket.pretrain import measuring
from detour.pocket.pretrain.flow.card import model_card
from detour.pocket.pretrain.flow.measure import measure_flow
from tests.pocket.pretrain.flow.conftest import RandomBase


def test_a_folder_is_measured_with_and_without_zero_states(
    random_base: RandomBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "STEPS", 1)
    figures = measure_flow(random_base.folder, count=1, true_count=1, guidance_scales=[2.0], sheet_path=None)
    assert figures["judge_on_true_renders"]["house style"]["object"] == 1.0
    assert figures["vae"]["psnr_db"] < 15  # random weights
    both = (figures["judge_on_generated"], figures["with_t5_zeros"])
    assert [figure["pictures"] for figure in both] == [1, 1]
    assert "256 zero states" in model_card(figures, base=random_base.folder)
