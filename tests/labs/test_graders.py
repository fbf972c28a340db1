"""Graders pass what is right, and meet each planted mistake with the hint that belongs to it."""

import importlib
from typing import Any

import pytest

from detour.errors import ConfigError
from detour.labs.grading import grade, graders_of
from detour.labs.index import LABS
from tests.labs.answers import Answers

PRESENT = [lab.number for lab in LABS]


def answers_of(number: int) -> Answers:
    answers: Answers = importlib.import_module(f"tests.labs.answers_lab{number:02d}").ANSWERS
    return answers


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
def test_a_right_answer_passes(number: int, task: str) -> None:
    found = grade(number, task, answers_of(number)[task][0])
    assert found.passed, found


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

    found = grade(9, "jump", broken)
    assert not found.passed
    assert "ZeroDivisionError: division by zero" in found.wrong


def test_a_lab_or_task_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="no lab 13"):
        grade(13, "jump", 1)
    with pytest.raises(ConfigError, match=r"lab 9 has no task 'leap'\. It has: one_pixel"):
        grade(9, "leap", 1)
