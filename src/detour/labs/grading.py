"""Grades: passed, or what is wrong, why, and a hint."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detour.errors import ConfigError
from detour.labs.wording import described


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
        return _unreadable(answer, error)


def _unreadable(answer: Any, error: Exception) -> Grade:
    """Grade of an answer at which the check itself stopped: the learner's function raised, or a form is unexpected."""

    parts = dict(answer) if isinstance(answer, Mapping) else {"": answer}
    blank = [str(name) for name, value in parts.items() if value is None or value is ...]
    if blank:
        return wrong(
            f"there is no answer for {', '.join(blank)} yet.",
            why="the cell still holds what it was handed out with.",
            hint="look for TODO in the cell above, replace that line, and run the cell again.",
        )
    if _raised_in(error, [one for one in parts.values() if callable(one)]):
        return wrong(
            f"your function stops with {type(error).__name__}: {error}",
            why="it has to give an answer in every case that the task allows.",
            hint="call it in a cell of your own, and see which line stops.",
        )
    if any(callable(one) for one in parts.values()):
        return wrong(
            "what your function returns is not of the form that the task names.",
            why="a function without `return` gives None, and so does its placeholder; other forms cannot be compared.",
            hint="compare what it returns with its docstring, in a cell of your own.",
        )
    shown = ", ".join(f"{name + ' is ' if name else ''}{described(value)}" for name, value in parts.items())
    return wrong(
        f"your answer is not of the form that the task names: {shown or 'it is empty'}.",
        why="the check reads your value as the task describes it.",
        hint="compare names, shapes and types with the task's text.",
    )


def _raised_in(error: Exception, functions: Sequence[Callable[..., Any]]) -> bool:
    """Whether an error comes from the source of one of the functions, and not from the check that called it."""
    files = {code.co_filename for one in functions if (code := getattr(one, "__code__", None)) is not None}
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename in files:
            return True
        frame = frame.tb_next
    return False


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
