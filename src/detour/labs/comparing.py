"""Compares a learner's function with the right one on several cases, and names every known mistake."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detour.labs.grading import Grade, right, wrong
from detour.labs.wording import Instead, described

RELATIVE, ABSOLUTE = 1e-3, 1e-5
"""Tolerance of numbers that every lesson states: a thousandth of the right value, at least 0.00001."""
TENSOR_RELATIVE, TENSOR_ABSOLUTE = 1e-4, 1e-5
"""Tolerance of tensors, ten times smaller, so that half precision is told from float32."""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A wrong formula that learners write, and what to tell them.

    Attributes:
        formula: takes the task's arguments; recognised where it gives the learner's answer in every case.
        what: what the learner's function does.
        why: the idea behind the mistake.
        hint: where to look next.
    """

    formula: Callable[..., Any]
    what: str
    why: str
    hint: str


def compare(
    answer: Callable[..., Any],
    formula: Callable[..., Any],
    cases: Sequence[tuple[Any, ...]],
    mistakes: Sequence[Mistake] = (),
    *,
    why: str,
    hint: str,
    praise: str = "",
) -> Grade:
    """Grade a function by its results in every case.

    Args:
        answer: the learner's.
        formula: the right one; returns a number, a bool, a tensor, or a list or tuple of them.
        cases: positional arguments of each call; copies are handed over.
        mistakes: looked through in order where an answer is wrong.
        why: said where no mistake is recognised.
        hint: likewise.
        praise: said where all cases are right.
    """
    if not callable(answer):
        return wrong(
            f"your answer is {described(answer)}, not a function.",
            why="the check calls it with cases of its own.",
            hint="hand the function itself to check, without brackets behind its name.",
        )
    found, unlike = [], None
    for case in cases:
        given = copy.deepcopy(case)
        try:
            found.append(answer(*given))
        except Exception as error:
            return _stops_as(mistakes, error, found, cases) or _stopped(error, case)
        changed = _changed(given, case)
        if changed:
            return changed
        unlike = unlike or _unlike(found[-1], formula(*case))
    if unlike:
        return _named(mistakes, found, cases) or unlike
    expected = [formula(*case) for case in cases]
    if all(map(same, found, expected)):
        return right(praise)
    recognised = _named(mistakes, found, cases)
    if recognised:
        return recognised
    if len({str(one) for one in found}) == 1 and len({str(one) for one in expected}) > 1:
        return wrong(
            f"your function gives {described(found[0])} whatever it is given.",
            why=why,
            hint="compute the answer from the arguments.",
        )
    index = next(index for index, pair in enumerate(zip(found, expected, strict=True)) if not same(*pair))
    return wrong(_difference(found[index], expected[index], cases[index]), why=why, hint=hint)


def same(found: Any, expected: Any) -> bool:
    """Whether an answer equals the right one within the tolerance; lists and tuples count alike."""
    if isinstance(expected, Instead) or isinstance(found, Instead):
        return bool(found == expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, bool):
        return is_bool(found) and bool(found) == expected
    if isinstance(expected, Tensor) and expected.ndim:
        return found.shape == expected.shape and bool(
            torch.allclose(found.double(), expected.double(), rtol=TENSOR_RELATIVE, atol=TENSOR_ABSOLUTE)
        )
    value, true = (float(one.item() if hasattr(one, "item") else one) for one in (found, expected))
    return abs(value - true) <= max(RELATIVE * abs(true), ABSOLUTE)


def is_bool(value: Any) -> bool:
    """Whether a value is True or False, of Python, NumPy or PyTorch; 1 and 0 and words are not."""
    if isinstance(value, Tensor):
        return value.dtype == torch.bool and value.numel() == 1
    if isinstance(value, np.ndarray):
        return value.dtype == np.bool_ and value.size == 1
    return isinstance(value, bool | np.bool_)


def same_pictures(answer: Any, other: str, *, praise: str, why: str, hint: str) -> Grade:
    """Grade ``answer["mine"]`` against ``answer["theirs"]``: uint8 pictures, of which one step of 255 is rounding.

    Args:
        answer: both sets of pictures.
        other: whose ``theirs`` are, with an apostrophe.
        praise: said where they are the same.
        why: said where they differ.
        hint: likewise.
    """
    mine, theirs = np.asarray(answer["mine"]), np.asarray(answer["theirs"])
    if mine.shape != theirs.shape:
        return wrong(
            f"your pictures have the shape {mine.shape}, {other} {theirs.shape}.",
            why="they cannot be compared.",
            hint="as many pictures as are asked for, at the base's own size.",
        )
    if mine.dtype != np.uint8:
        return wrong(
            f"your pictures are {mine.dtype}, {other} {theirs.dtype}.",
            why="a picture is bytes, 0 to 255.",
            hint="round, and make bytes of them.",
        )
    difference = np.abs(mine.astype(int) - theirs.astype(int))
    if difference.max(initial=0) <= 1 and mine.size:
        return right(praise)
    return wrong(
        f"they differ by up to {difference.max(initial=0)} of 255 ({difference.mean():.2f} on average).",
        why=why,
        hint=hint,
    )


def _stopped(error: Exception, case: tuple[Any, ...]) -> Grade:
    if isinstance(error, TypeError) and "positional argument" in str(error):
        return wrong(
            f"your function does not take the {len(case)} arguments that the task names.",
            why="the check calls it as the notebook does, with cases of its own.",
            hint="leave the line that begins with `def` as it was handed out.",
        )
    return wrong(
        f"your function stops with {type(error).__name__} for {_arguments(case)}: {error}",
        why="it has to give an answer in every case that the task allows.",
        hint="call it with these arguments in a cell of your own, and see which line stops.",
    )


def _changed(given: tuple[Any, ...], case: tuple[Any, ...]) -> Grade | None:
    """Complaint where the function changed its arguments; ``None`` otherwise."""
    for number, (after, before) in enumerate(zip(given, case, strict=True), start=1):
        if isinstance(before, Tensor) and not torch.equal(after, before):
            return wrong(
                f"your function changes its {_ordinal(number)} argument in place.",
                why="whoever calls it goes on with that tensor, and would find other numbers in it.",
                hint="make a new tensor: `a * b`, not `a *= b`, `a.mul_(b)` or `out=a`.",
            )
        if isinstance(before, np.ndarray) and not np.array_equal(after, before):
            return wrong(
                f"your function changes its {_ordinal(number)} argument in place.",
                why="whoever calls it goes on with that array, and would find other numbers in it.",
                hint="make a new array instead of writing into the given one.",
            )
        if isinstance(before, list | dict) and after != before:
            return wrong(
                f"your function changes its {_ordinal(number)} argument.",
                why="whoever calls it goes on with that list.",
                hint="build a new list.",
            )
    return None


def _unlike(found: Any, expected: Any) -> Grade | None:
    """Complaint where an answer has another type than the right one; ``None`` otherwise."""
    if found is None:
        return wrong(
            "your function returns nothing.",
            why="a function without `return` gives None, and so does its placeholder.",
            hint="fill in the TODO, and return what you computed.",
        )
    if isinstance(found, Instead):
        return None
    if isinstance(expected, list | tuple):
        if isinstance(found, str) or not hasattr(found, "__len__") or not hasattr(found, "__iter__"):
            return _kind(found, f"{len(expected)} values in a list or tuple")
        if len(found) != len(expected):
            return _kind(found, f"{len(expected)} values; {len(found)} came back")
        return next((bad for pair in zip(found, expected, strict=True) if (bad := _unlike(*pair))), None)
    if isinstance(expected, Tensor) and expected.ndim:
        if not isinstance(found, Tensor):
            return _kind(found, f"a tensor of shape {tuple(expected.shape)}")
        if found.shape != expected.shape:
            return _kind(found, f"one of shape {tuple(expected.shape)}")
        return None
    if isinstance(expected, bool):
        return None if is_bool(found) else _kind(found, "True or False")
    if isinstance(found, Tensor | np.ndarray) and np.prod(tuple(found.shape)) != 1:
        return _kind(found, "one number")
    if isinstance(found, str) or not (
        isinstance(found, bool | int | float | np.generic | Tensor | np.ndarray)
    ):
        return _kind(found, "one number")
    return None


def _kind(found: Any, wanted: str) -> Grade:
    return wrong(
        f"your function returns {described(found)}, where the task asks for {wanted}.",
        why="what follows works on an answer of that form alone.",
        hint="compare what you return with the docstring of the function.",
    )


def _named(
    mistakes: Sequence[Mistake], found: Sequence[Any], cases: Sequence[tuple[Any, ...]]
) -> Grade | None:
    """Grade of the first mistake that gives the learner's answer in every case."""
    for mistake in mistakes:
        try:
            if all(same(one, mistake.formula(*case)) for one, case in zip(found, cases, strict=True)):
                return wrong(mistake.what, why=mistake.why, hint=mistake.hint)
        except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            continue  # the mistake has no answer in one of the cases, so it is not the learner's
    return None


def _stops_as(
    mistakes: Sequence[Mistake], error: Exception, found: Sequence[Any], cases: Sequence[tuple[Any, ...]]
) -> Grade | None:
    """Grade of a mistake that gives the learner's answers so far and raises the same error as the learner's
    function.
    """
    for mistake in mistakes if found else ():
        try:
            if not all(same(one, mistake.formula(*case)) for one, case in zip(found, cases, strict=False)):
                continue
            mistake.formula(*cases[len(found)])
        except type(error):
            return wrong(mistake.what, why=mistake.why, hint=mistake.hint)
        except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            continue
    return None


def _difference(found: Any, expected: Any, case: tuple[Any, ...]) -> str:
    if isinstance(expected, list | tuple):
        pairs = list(zip(found, expected, strict=True))
        place = next(place for place, pair in enumerate(pairs) if not same(*pair))
        return f"value {place + 1} of your answer: {_difference(*pairs[place], case)}"
    if isinstance(expected, bool):
        return f"for {_arguments(case)} you get {bool(found)}, {expected} was expected."
    if isinstance(expected, Tensor) and expected.ndim:
        return f"your tensor is off by up to {float((found.double() - expected.double()).abs().max()):.3g}."
    if isinstance(found, Instead) or isinstance(expected, Instead):
        words = [
            described(one) if isinstance(one, Instead) else f"{float(one):.5g}" for one in (found, expected)
        ]
        return f"for {_arguments(case)} you get {words[0]}, {words[1]} was expected."
    return f"for {_arguments(case)} you get {float(found):.5g}, {float(expected):.5g} was expected."


def _arguments(case: tuple[Any, ...]) -> str:
    words = [f"{one:.4g}" if isinstance(one, float) else described(one) for one in case]
    for index, one in enumerate(case):
        if isinstance(one, list) and len(str(one)) < 60:
            words[index] = str(one)
    return ", ".join(words)


def _ordinal(number: int) -> str:
    return ("first", "second", "third", "fourth", "fifth", "sixth")[number - 1]
