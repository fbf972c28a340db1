"""Pictures of one prompt are alike: prompts are the samples, however many pictures of each are drawn."""

from dataclasses import replace

import numpy as np
import pytest

from detour.evaluation import limits
from detour.evaluation.judgement import judge
from detour.evaluation.raw_material import ClassSides
from detour.evaluation.reading import Rows
from detour.evaluation.subject_likeness import measure_subject
from detour.evaluation.way import measure_way
from tests.evaluation.planted_features import planted, planted_subject


def often(rows: Rows, seeds: int) -> Rows:
    return np.repeat(rows, seeds, axis=0)


@pytest.mark.parametrize("seeds", [2, 5])
def test_the_same_picture_drawn_again_and_again_makes_no_style_surer(seeds: int) -> None:
    one = planted(prompts=6)
    plain = measure_way(one.adapter, one.base, one.references)
    again = measure_way(often(one.adapter, seeds), often(one.base, seeds), one.references, seeds=seeds)
    for name in ("share", "low", "high", "room", "p_room", "p_nearer", "nearer"):
        assert getattr(again, name) == pytest.approx(getattr(plain, name), abs=1e-9), name


@pytest.mark.parametrize("seeds", [2, 5])
def test_nor_a_subject(seeds: int) -> None:
    one = planted_subject(prompts=6, class_goes=0.2)
    assert one.own_class is not None
    sides = {"adapter": one.adapter, "base": one.base, "class_adapter": one.own_class.adapter,
             "class_base": one.own_class.base}  # fmt: skip
    plain = measure_subject(**sides, references=one.references, kept_out=2)
    again = measure_subject(
        **{name: often(rows, seeds) for name, rows in sides.items()},
        references=one.references, seeds=seeds, kept_out=2,
    )  # fmt: skip
    assert again.prompts == plain.prompts == 6
    assert again.preserved == plain.preserved
    assert again.taken_kept_out == pytest.approx(plain.taken_kept_out)
    for name in ("taken", "trigger", "own_class"):
        for figure in ("share", "low", "high", "p_value"):
            assert getattr(getattr(again, name), figure) == pytest.approx(
                getattr(getattr(plain, name), figure)
            )


def test_the_verdict_passes_the_seeds_on() -> None:
    one = planted(prompts=8)
    twice = judge(replace(one, adapter=often(one.adapter, 3), base=often(one.base, 3), seeds=3))
    assert twice.way is not None
    assert twice.way.p_nearer == measure_way(one.adapter, one.base, one.references).p_nearer
    subject = planted_subject(prompts=8)
    assert subject.own_class is not None
    sides = ClassSides(adapter=often(subject.own_class.adapter, 3), base=often(subject.own_class.base, 3))
    found = judge(
        replace(
            subject, adapter=often(subject.adapter, 3), base=often(subject.base, 3), own_class=sides, seeds=3
        )
    )
    assert found.subject is not None
    assert found.subject.prompts == 8


@pytest.mark.parametrize("count", [2, 3, limits.FIRM_REFERENCES_MIN - 1])
def test_few_references_give_a_share_and_no_limits(count: int) -> None:
    found = measure_way(planted().adapter, planted().base, planted(references=count).references)
    assert (found.low, found.high) == (None, None)
    firm = measure_way(
        planted().adapter, planted().base, planted(references=limits.FIRM_REFERENCES_MIN).references
    )
    assert firm.low is not None


def test_a_base_that_draws_the_style_anyway_leaves_no_way_to_limit() -> None:
    one = planted()
    same = planted(style=0).references
    found = measure_way(one.adapter, one.base, same)
    assert found.p_room > limits.GAIN_P_MAX
    assert (found.low, found.high) == (None, None)


def test_a_class_that_is_the_subject_already_has_no_limits_and_no_answer() -> None:
    one = planted_subject()
    assert one.own_class is not None
    found = measure_subject(
        adapter=one.references[:8], base=one.references[:8], class_adapter=one.references[:8],
        class_base=one.references[:8], references=one.references,
    )  # fmt: skip
    assert found.own_class.low is None
    assert found.preserved == "unknown"
