"""A p-value counts up to the limit that is written down, and no further."""

from types import SimpleNamespace
from typing import Any

import pytest

from detour.evaluation import judgement, limits
from detour.evaluation.competence import Competence
from detour.evaluation.keeping import Keeping, settle
from detour.evaluation.relations import Relations
from detour.evaluation.way import Way

BEYOND = 1.001


def loss(p_lost: float, p_kept: float) -> Keeping:
    return Keeping(
        answer="unknown", loss=0.5, low=0.3, high=0.7, p_lost=p_lost, p_kept=p_kept, against_base=0.5, p_base=p_lost,
        prompts=16, because="",
    )  # fmt: skip


@pytest.mark.parametrize("share", [1.0, BEYOND])
def test_a_loss_and_a_figure_that_was_kept(share: float) -> None:
    within = share == 1.0
    lost = settle({"one": loss(share * limits.LOST_P_MAX, 1.0)})["one"]
    assert lost.answer == ("lost" if within else "unknown")
    kept = settle({"one": loss(1.0, share * limits.KEPT_P_MAX)})["one"]
    assert kept.answer == ("kept" if within else "unknown")
    # Of two figures together each has half of the level.
    two = settle({name: loss(share * limits.LOST_P_MAX / 2, 1.0) for name in "ab"})
    assert {one.answer for one in two.values()} == ({"lost"} if within else {"unknown"})


@pytest.mark.parametrize("share", [1.0, BEYOND])
def test_a_gain_in_style_and_in_a_subject(share: float) -> None:
    within = share == 1.0
    way = Way(
        share=0.9,
        low=0.8,
        high=1.0,
        room=0.2,
        p_room=0.001,
        p_nearer=share * limits.GAIN_P_MAX,
        nearer=1.0,
        references=16,
    )
    view: Any = SimpleNamespace(subject=None, way=way)
    assert judgement._gain(view)[0] == within
    behind = SimpleNamespace(share=0.1, p_value=0.001)
    taken = SimpleNamespace(share=0.9, low=0.8, high=1.0, p_value=share * limits.GAIN_P_MAX)
    subject = SimpleNamespace(taken=taken, taken_kept_out=None, trigger=behind, preserved="unknown")
    view = SimpleNamespace(subject=subject, way=None)
    assert judgement._gain(view)[0] == within


@pytest.mark.parametrize("share", [1.0, BEYOND])
def test_what_a_judge_reads(share: float) -> None:
    p_value, within = share * limits.COMPETENCE_P_MAX, share == 1.0
    assert Competence(pictures=16, margin=1.0, chance=0.0, p_value=p_value).shown == within
    relations = Relations(own=0.5, others=0.1, nearest=0.9, agreement=0.5, p_value=p_value, prompts=16)
    assert relations.shown == within
