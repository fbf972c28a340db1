"""Answers that stand in a notebook as plain values: they are graded before anything runs."""

import ast
from typing import Any, NamedTuple

from detour.labs.grading import Grade, grade, graders_of
from detour.labs.index import lab_of


class Refused(NamedTuple):
    """An answer that cannot pass, whatever the notebook computes."""

    task: str
    grade: Grade


def refused_literal(notebook: Any, number: int) -> Refused | None:
    """The first answer of a notebook that is a plain value, was filled in, and does not pass.

    Sentences, counts and line numbers need nothing that the notebook computes. So a sentence that is too short is said
    at once, and not after the training that stands above it. What was left as it was handed out is not looked at.

    Args:
        notebook: a learner's.
        number: of its lab.
    """
    from detour.labs.sources import notebook_of

    handed_out = _literals(notebook_of(lab_of(number), "exercise"), number)
    for task, value in _literals(notebook, number).items():
        if task in graders_of(number) and handed_out.get(task) != value:
            found = grade(number, task, value)
            if not found.passed:
                return Refused(task, found)
    return None


def _literals(notebook: Any, number: int) -> dict[str, Any]:
    """Task → its answer, of all tasks whose answer is a plain value in the cell of its check."""
    found: dict[str, Any] = {}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        try:
            body = ast.parse(cell.source).body
        except SyntaxError:
            continue
        values: dict[str, Any] = {}
        for node in body:
            if (
                isinstance(node, ast.Assign)
                and len(node.targets) == 1
                and isinstance(node.targets[0], ast.Name)
            ):
                values.pop(node.targets[0].id, None)
                try:
                    values[node.targets[0].id] = ast.literal_eval(node.value)
                except (ValueError, TypeError):
                    continue
            task, name = _checked(node, number)
            if task is not None and name in values:
                found[task] = values[name]
    return found


def _checked(node: ast.stmt, number: int) -> tuple[str | None, str]:
    """Task and name of the answer of ``check(number, "task", name)``; ``None`` for anything else."""
    match node:
        case ast.Expr(
            value=ast.Call(
                func=ast.Name(id="check"),
                args=[ast.Constant(value=lab), ast.Constant(value=str(task)), ast.Name(id=name)],
            )
        ) if lab == number:
            return task, name
    return None, ""
