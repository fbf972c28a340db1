"""Whatever a learner hands over, a check answers in words: no exception of its own, and nothing odd passes."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from detour.labs.grading import grade
from detour.labs.index import LABS
from tests.labs.graders_table import answers_of
from tests.labs.wrong_answers import GIVEN

TASKS = [(lab.number, task) for lab in LABS for task in answers_of(lab.number)]
ODD: tuple[Any, ...] = (
    None, ..., "text", [], {}, {1, 2}, -1, [None], {"a": None}, torch.zeros(3, 5), np.zeros((2, 0)),
)  # fmt: skip
EXCEPTION = re.compile(
    r"\b[A-Z]\w*(?:Error|Exception|Iteration)\b|object at 0x|not supported between|has no attribute"
)


def odd_answers(right: Any) -> Iterator[Any]:
    """Odd values in place of the answer, of each of its parts, and of what its functions return."""
    yield from ODD
    if callable(right):
        for odd in ODD:
            yield lambda *_, odd=odd, **__: odd
    if isinstance(right, Mapping):
        for key, value in right.items():
            if key in GIVEN:
                continue
            for odd in ODD:
                yield {**right, key: odd}
                if callable(value):
                    yield {**right, key: lambda *_, odd=odd, **__: odd}


@pytest.mark.parametrize(("number", "task"), TASKS)
def test_an_odd_answer_is_told_what_it_is(number: int, task: str) -> None:
    right = answers_of(number)[task][0]
    faults = []
    for odd in odd_answers(right):
        found = grade(number, task, odd)
        said = f"{found.wrong} {found.why} {found.hint}"
        if not found.passed and EXCEPTION.search(said):
            faults.append((odd, said))
    assert not faults, faults[:3]
