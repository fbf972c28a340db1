import pytest
import torch

from detour.evaluation.prompt_keeping import measure_prompt_keeping

WISHES = torch.eye(2)
FITS = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
HALF = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.8, 0.6], [0.8, 0.6]])


def test_a_fall_of_the_clip_score_is_told_with_base_and_ceiling_beside_it() -> None:
    kept = measure_prompt_keeping({"base": FITS, "adapter": HALF}, WISHES, seeds=2, truths=FITS[::2])
    assert (kept.prompts, kept.seeds, kept.parts) == (2, 2, None)
    assert kept.clip_score.base == pytest.approx(100)
    assert kept.clip_score.adapter == pytest.approx(60)
    assert kept.clip_score.ceiling == pytest.approx(100)
    assert kept.clip_change.mean == pytest.approx(-40)
    assert kept.clip_change.significant


def test_parts_of_the_prompt_are_shares_of_all_pictures() -> None:
    hits = {"base": {"object": [True] * 4}, "adapter": {"object": [True, False, False, False]}}
    kept = measure_prompt_keeping(
        {"base": FITS, "adapter": FITS}, WISHES, seeds=2, hits=hits, true_hits={"object": [True, True]}
    )
    assert kept.parts is not None
    part = kept.parts["object"]
    assert (part.share.base, part.share.adapter, part.share.ceiling) == (1, 0.25, 1)
    assert part.change.mean == -0.75
    assert part.change.prompts == 2
