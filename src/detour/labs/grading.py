"""Grades: passed, or what is wrong, why, and a hint."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from detour.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Grade:
    """Result of grading one answer.

    Attributes:
        passed: whether the task is done.
        wrong: what is wrong, with the learner's own figure in it.
        why: which idea is behind the mistake.
        hint: where to look next, never the solution itself.
        praise: where it passed, what the answer means.
    """

    passed: bool
    wrong: str = ""
    why: str = ""
    hint: str = ""
    praise: str = ""


Grader = Callable[[Any], Grade]
"""Function from a learner's answer to a grade; an exception counts as a wrong answer."""


def right(praise: str = "") -> Grade:
    """Grade of a right answer; ``praise`` says what the answer means."""
    return Grade(passed=True, praise=praise)


def wrong(what: str, *, why: str, hint: str) -> Grade:
    """Grade of a wrong answer: what is wrong, why, and a hint, one sentence each."""
    return Grade(passed=False, wrong=what, why=why, hint=hint)


def graders_of(number: int) -> Mapping[str, Grader]:
    """Task → grader of one lab, in the order of the notebook.

    Raises:
        ConfigError: no such lab.
    """
    name = f"detour.labs.graders.lab{number:02d}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(
            f"there is no lab {number}. `detour labs list` shows those that are there."
        ) from error
    tasks: Mapping[str, Grader] = module.TASKS
    return tasks


def grade(number: int, task: str, answer: Any) -> Grade:
    """Grade one answer; ``None`` and ``...`` are the placeholders of the exercise.

    Raises:
        ConfigError: no such lab or task.
    """
    graders = graders_of(number)
    if task not in graders:
        raise ConfigError(f"lab {number} has no task '{task}'. It has: {', '.join(graders)}.")
    if answer is None or answer is ...:
        return _unanswered()
    try:
        return graders[task](answer)
    except Exception as error:
        return wrong(
            f"your answer could not be used: {type(error).__name__}: {error}",
            why="the check calls your function, or reads your value, in the form that the task names.",
            hint="compare names, shapes and types with the task's text.",
        )


def _unanswered() -> Grade:
    return wrong(
        "there is no answer yet.",
        why="the cell still holds what it was handed out with.",
        hint="look for TODO in the cell above, replace that line, and run the cell again.",
    )


def near(value: Any, expected: float, *, relative: float = 1e-3, absolute: float = 1e-9) -> bool:
    """Whether a number (or a tensor of one) is ``expected`` to the given tolerance."""
    difference = abs(float(value) - expected)
    return difference <= max(relative * abs(expected), absolute)
