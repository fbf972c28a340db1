"""Graders pass what is right, and meet each planted mistake with the hint that belongs to it."""

from pathlib import Path
from typing import Any

import pytest

from detour.errors import ConfigError
from detour.labs.grading import grade, graders_of
from detour.labs.index import LABS
from tests.labs.equivalents import EQUIVALENT
from tests.labs.graders_table import also_right, answers_of, page, tried
from tests.labs.wrong_answers import changed_sources, made, solution_function

PRESENT = [lab.number for lab in LABS]
TABLE = Path(__file__).parents[2] / "docs" / "labs" / "graders.md"
TASKS = [(number, task) for number in PRESENT for task in answers_of(number)]
WRONG = [
    pytest.param(number, task, answer, word, id=f"lab{number:02d}-{task}-{index}")
    for number, task in TASKS
    for index, (answer, word) in enumerate(answers_of(number)[task][1])
]


@pytest.mark.parametrize("number", PRESENT)
def test_every_task_of_a_lab_is_tried_and_a_lab_has_three_wrong_answers_at_least(number: int) -> None:
    answers = answers_of(number)
    assert list(answers) == list(graders_of(number))
    assert all(wrong for _, wrong in answers.values())
    assert sum(len(wrong) for _, wrong in answers.values()) >= 3


@pytest.mark.parametrize(("number", "task"), TASKS)
def test_right_answers_pass_however_they_are_written(number: int, task: str) -> None:
    others = also_right(number)[task]
    assert others
    for answer in (answers_of(number)[task][0], *others):
        found = grade(number, task, answer)
        assert found.passed, found


@pytest.mark.parametrize("number", PRESENT)
def test_every_generated_wrong_answer_is_caught_and_every_task_has_eight(number: int) -> None:
    for task, one in tried(number).items():
        assert one.passed == [], f"lab {number}, {task}"
        assert one.planted + one.caught >= 8, f"lab {number}, {task}"
        assert sorted(one.harmless) == sorted(EQUIVALENT.get((number, task), {})), f"lab {number}, {task}"


def test_the_table_of_graders_is_not_stale() -> None:
    assert TABLE.read_text(encoding="utf-8") == page(), (
        f"run `python -m tests.labs.graders_table {TABLE.name}`"
    )


def test_a_change_of_the_source_is_made_once_and_runs() -> None:
    function = solution_function(9, "variance")
    assert function is not None
    changed = dict(changed_sources(function))
    swapped = made(9, changed["alpha_bar * clean_variance -> alpha_bar / clean_variance"])
    assert swapped(0.5, 0.25) == 0.5 / 0.25 + 1 - 0.5
    assert made(9, function)(0.5, 0.25) == 0.5 * 0.25 + 0.5


def test_an_answer_that_changes_what_it_is_given_is_told_so() -> None:
    def in_place(clean: Any, noise: Any, alpha_bar: Any) -> Any:
        return clean.mul_(alpha_bar.sqrt()).add_((1 - alpha_bar).sqrt() * noise)

    assert "changes its first argument in place" in grade(9, "jump", in_place).wrong


def test_an_answer_of_another_form_is_told_what_it_is() -> None:
    assert "'text', where the task asks for one number" in grade(9, "variance", lambda *_: "text").wrong
    assert "does not take the 2 arguments" in grade(9, "variance", lambda alpha: alpha).wrong
    assert "not a function" in grade(9, "variance", 0.4).wrong
    assert "stops with ZeroDivisionError for 0.25, 0.6" in grade(9, "variance", lambda *_: 1 / 0).wrong


@pytest.mark.parametrize(("number", "task", "answer", "word"), WRONG)
def test_a_planted_mistake_is_met_with_its_own_hint(number: int, task: str, answer: Any, word: str) -> None:
    found = grade(number, task, answer)
    assert not found.passed
    assert all((found.wrong, found.why, found.hint))
    assert word in f"{found.wrong} {found.why} {found.hint}"


@pytest.mark.parametrize(("number", "task"), TASKS)
def test_what_is_handed_out_does_not_pass(number: int, task: str) -> None:
    assert grade(number, task, None).wrong == "there is no answer yet."
    assert not grade(number, task, lambda *_given, **_named: None).passed
    assert not grade(number, task, {}).passed


def test_an_answer_that_raises_is_wrong_and_says_so() -> None:
    def broken(*_given: Any) -> None:
        raise ZeroDivisionError("division by zero")

    for task in ("jump", "variance"):
        found = grade(9, task, broken)
        assert not found.passed
        assert "ZeroDivisionError" in found.wrong
        assert "division by zero" in found.wrong


def test_a_lab_or_task_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="no lab 20"):
        grade(20, "jump", 1)
    with pytest.raises(ConfigError, match=r"lab 9 has no task 'leap'\. It has: one_pixel"):
        grade(9, "leap", 1)
