"""Conditions on named figures."""

import pytest

from detour.errors import ConfigError
from detour.evaluation.evaluation import Evaluation
from detour.evaluation.requirements import FIGURES, answer, answer_text, parse_requirement

LEARNED = Evaluation.model_construct(
    verdict="learned",
    fidelity=None,
    prompt_keeping=None,
    drift=None,
    diversity=None,
    copies=None,
    recited=None,
    reproduced=None,
    answers=None,
    metrics={},
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("style", "not a condition"),
        ("style>=", "not a condition"),
        ("style=>1", "Write NAME>=VALUE"),
        ("styl>=0.5", "Did you mean 'style'"),
        ("style>=high", "no number"),
        ("style>=nan", "no number"),
        ("verdict>=learned", "is a word"),
        ("verdict=learnt", "Did you mean 'learned'"),
    ],
)
def test_a_condition_that_cannot_be_read_says_what_to_write(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_requirement(text)


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("verdict=learned", True),
        ("verdict == learned", True),
        ("verdict!=learned", False),
        ("verdict=copies", False),
        ("verdict!=copies", True),
    ],
)
def test_words_are_compared_as_words(text: str, met: bool) -> None:
    assert answer(parse_requirement(text), LEARNED).met is met


@pytest.mark.parametrize(
    "figure", [one.name for one in FIGURES if one.name not in ("verdict", "marked", "pixels")]
)
@pytest.mark.parametrize("operator", [">=", "<=", ">", "<", "=", "!="])
def test_what_was_not_measured_meets_nothing(figure: str, operator: str) -> None:
    one = answer(parse_requirement(f"{figure}{operator}0"), LEARNED)
    assert not one.met
    assert "not measured" in answer_text(one)


def test_a_percentage_is_a_share_and_bounds_hold_to_rounding() -> None:
    assert parse_requirement("style >= 50%").bound == 0.5
    requirement = parse_requirement("accuracy_drop<=0.1")
    assert requirement.operator == "<="
    from detour.evaluation.requirements import _COMPARE

    assert _COMPARE["<="](0.9 - 0.8, 0.1)
    assert not _COMPARE["<="](0.1001, 0.1)
