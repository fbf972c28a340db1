"""Every task is predicted before it is done and compared after it, and what stands under "Measured:" is computed."""

import ast
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from detour.labs.comparing import ABSOLUTE, RELATIVE, TENSOR_ABSOLUTE, TENSOR_RELATIVE
from detour.labs.grading import grade, graders_of
from detour.labs.index import LABS, Lab
from detour.labs.sources import exercise_of, solution_of, with_tolerances
from detour.labs.tolerances import NUMBERS, TENSORS, TOLERANCES, tolerance_of
from tests.labs.graders_table import answers_of


def calls(text: str) -> Iterator[tuple[str, str, ast.Call]]:
    """(function, its task or question, the call) of every check, prediction and comparison, in their order."""
    found = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    for node in sorted(found, key=lambda one: one.lineno):
        assert isinstance(node.func, ast.Name)
        if node.func.id in ("check", "predict", "compare_with"):
            name = node.args[1 if node.func.id == "check" else 0]
            assert isinstance(name, ast.Constant), "a name that cannot be read"
            yield node.func.id, str(name.value), node


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_every_task_is_predicted_before_its_check_and_compared_after_it(lab: Lab) -> None:
    order = [(kind, name) for kind, name, _ in calls(solution_of(lab.source.read_text(encoding="utf-8")))]
    tasks = list(graders_of(lab.number))
    assert [name for kind, name in order if kind == "check"] == tasks
    last = -1
    for task in tasks:
        predicted, checked, compared = (
            order.index((kind, task)) for kind in ("predict", "check", "compare_with")
        )
        assert last < predicted < checked < compared, f"{lab.name}, {task}"
        last = checked
    assert sorted(name for kind, name in order if kind == "predict") == sorted(
        name for kind, name in order if kind == "compare_with"
    )


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_a_question_stands_before_every_prediction_and_the_exercise_leaves_it_empty(lab: Lab) -> None:
    text = lab.source.read_text(encoding="utf-8")
    for kind, name, _ in calls(solution_of(text)):
        if kind == "predict":
            assert text.count(f"**Predict** (`{name}`)") == 1, f"{lab.name}, {name}"
    given = {name: node.args[1] for kind, name, node in calls(exercise_of(text)) if kind == "predict"}
    assert all(isinstance(one, ast.Constant) and one.value == "" for one in given.values()), given
    told = {name: node.args[1] for kind, name, node in calls(solution_of(text)) if kind == "predict"}
    assert all(isinstance(one, ast.Constant) and len(str(one.value)) > 1 for one in told.values()), told


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_what_is_measured_is_computed(lab: Lab) -> None:
    """No constant text, and no text that is chosen among constants without a figure beside it."""
    for kind, name, node in calls(solution_of(lab.source.read_text(encoding="utf-8"))):
        if kind != "compare_with":
            continue
        values = [one for one in ast.walk(node.args[1]) if isinstance(one, ast.FormattedValue)]
        shown = [one for one in values if not isinstance(one.value, ast.Constant | ast.IfExp)]
        assert shown or _comes_from_a_name(node.args[1]), f"{lab.name}, {name}: no figure in it"


def _comes_from_a_name(node: ast.expr) -> bool:
    """Whether text is joined from values that were computed in the lines above."""
    return isinstance(node, ast.Call) and any(isinstance(one, ast.Name) for one in node.args)


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_every_task_states_how_exact_its_answer_has_to_be(lab: Lab) -> None:
    assert list(TOLERANCES[lab.number]) == list(graders_of(lab.number))
    text = with_tolerances(exercise_of(lab.source.read_text(encoding="utf-8")))
    for task in graders_of(lab.number):
        before = text[: re.search(rf'^check\(\s*{lab.number},\s*"{task}"', text, re.MULTILINE).start()]  # type: ignore[union-attr]
        comment = " ".join(
            line.removeprefix("# ") for line in before.splitlines()[-4:] if line.startswith("#")
        )
        assert comment.endswith(f"Tolerance of this check: {tolerance_of(lab.number, task)}."), task


def off_by(answer: Any, relative: float, absolute: float) -> Any:
    """The answer with each of its numbers off by a share of it, plus a constant."""

    def moved(found: Any) -> Any:
        if isinstance(found, list | tuple):
            return type(found)(moved(one) for one in found)
        if isinstance(found, torch.Tensor):
            return found + relative * found.abs() + absolute
        return found + max(relative * abs(float(found)), absolute)

    return lambda *given: moved(answer(*given))


@pytest.mark.parametrize(
    ("number", "task", "stated"),
    [
        (number, task, stated)
        for number, tasks in TOLERANCES.items()
        for task, stated in tasks.items()
        if stated in (NUMBERS, TENSORS) and callable(answers_of(number)[task][0])
    ],
)
def test_the_stated_tolerance_is_the_checks(number: int, task: str, stated: str) -> None:
    right = answers_of(number)[task][0]
    numbers = stated == NUMBERS
    relative, absolute = (RELATIVE, ABSOLUTE) if numbers else (TENSOR_RELATIVE, TENSOR_ABSOLUTE)
    if task != "no_prompt":  # a state of zeros is told from one that is right by less than the tolerance
        assert grade(number, task, off_by(right, 0.4 * relative, 0.4 * absolute)).passed
    assert not grade(number, task, off_by(right, 4 * relative, 4 * absolute)).passed
