"""Wrong answers to every task, generated from the right ones by systematic changes.

A function is changed in its source, as the lesson's solution writes it (another operator, a factor or a clause left
out, a constant off by one, arguments swapped, a method not called), and in what it returns (sign, size, dtype). A value
is changed in each of its parts (sign, off by one, doubled, left out, exchanged).
"""

import ast
import builtins
import copy
import random
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detour.labs.index import lab_of
from detour.labs.sources import solution_of

GIVEN = frozenset(
    {
        "base", "data", "metrics", "candidates", "caption", "parts", "curve", "table", "differences", "moved", "unet",
        "theirs", "rank", "budget_s",
    }
)  # fmt: skip
"""Keys of an answer that the notebook fills in, not the learner."""


@cache
def _lesson(number: int) -> ast.Module:
    return ast.parse(solution_of(lab_of(number).source.read_text(encoding="utf-8")))


def solution_function(number: int, task: str) -> ast.FunctionDef | None:
    """The function that a lesson's solution hands to the check of a task; ``None`` where it hands over a value."""
    functions = {node.name: node for node in _lesson(number).body if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(_lesson(number)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check" and len(node.args) == 3:
            name, answer = node.args[1:]
            if isinstance(name, ast.Constant) and name.value == task and isinstance(answer, ast.Name):
                return functions.get(answer.id)
    return None


def made(number: int, function: ast.FunctionDef) -> Callable[..., Any]:
    """The function, with those of the lesson's imports, constants and functions that it uses."""
    namespace: dict[str, Any] = {}
    for node in _needed(number, function):
        exec(compile(ast.Module([node], []), f"lab{number:02d}", "exec"), namespace)
    exec(
        compile(ast.fix_missing_locations(ast.Module([function], [])), f"lab{number:02d}", "exec"), namespace
    )
    answer: Callable[..., Any] = namespace[function.name]
    return answer


def _needed(number: int, function: ast.FunctionDef) -> list[ast.stmt]:
    """Top-level statements of a lesson that the function depends on, in their order."""
    sources: dict[str, ast.stmt] = {}
    for node in _lesson(number).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            sources |= {(alias.asname or alias.name).split(".")[0]: node for alias in node.names}
        elif isinstance(node, ast.FunctionDef):
            sources[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            sources |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
    wanted, open_nodes = [], [function]
    while open_nodes:
        for name in (one.id for one in ast.walk(open_nodes.pop()) if isinstance(one, ast.Name)):
            found = sources.get(name)
            if found is None or found in wanted or hasattr(builtins, name) or name == function.name:
                continue
            wanted.append(found)
            open_nodes.append(found)  # type: ignore[arg-type]
    return [node for node in _lesson(number).body if node in wanted]


def changed_sources(function: ast.FunctionDef) -> Iterator[tuple[str, ast.FunctionDef]]:
    """(what was changed, the function with that one change)."""
    count = sum(1 for one in ast.walk(function) if isinstance(one, ast.expr | ast.stmt))
    for index in range(count):
        for variant in range(6):
            changer = _Changer(index, variant)
            changed = copy.deepcopy(function)
            changed.body = [changer.visit(node) for node in changed.body]
            changed.body = [node for node in changed.body if node is not None]
            if changer.words and changed.body:
                yield changer.words, ast.fix_missing_locations(changed)


class _Changer(ast.NodeTransformer):
    """Makes variant ``variant`` of the expression or statement with number ``index``, if it has so many."""

    def __init__(self, index: int, variant: int) -> None:
        self.left, self.variant, self.words = index, variant, ""

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.expr | ast.stmt) and not _docstring(node):
            self.left -= 1
            if self.left == -1:
                options = list(_statements(node) if isinstance(node, ast.stmt) else _expressions(node))
                if self.variant < len(options):
                    new = options[self.variant]
                    after = "nothing" if new is None else ast.unparse(ast.fix_missing_locations(new))
                    self.words = f"{ast.unparse(node)} -> {after}"
                    return new
        return self.generic_visit(node)


def _docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _statements(node: ast.stmt) -> Iterator[ast.stmt | None]:
    if isinstance(node, ast.Expr | ast.If):
        yield None
    if isinstance(node, ast.If):
        yield from node.body


OTHER = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div}
COMPARED = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
METHODS = {"mean": "sum", "sum": "mean", "min": "max", "max": "min", "any": "all", "all": "any"}
DROPPED = frozenset(
    {
        "sqrt",
        "abs",
        "mean",
        "sum",
        "square",
        "norm",
        "clamp",
        "round",
        "flip",
        "float",
        "permute",
        "view",
        "astype",
    }
)


def _expressions(node: ast.expr) -> Iterator[ast.expr]:
    """Other expressions in place of one: an operator, a part alone, a constant, a call that is left out."""
    if isinstance(node, ast.BinOp):
        if type(node.op) in OTHER:
            yield ast.BinOp(node.left, OTHER[type(node.op)](), node.right)
        yield node.left
        yield node.right
        if not isinstance(node.op, ast.Add | ast.Mult):
            yield ast.BinOp(node.right, node.op, node.left)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        for op in COMPARED.get(type(node.ops[0]), ()):
            yield ast.Compare(node.left, [op()], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        yield from node.values
    elif isinstance(node, ast.Constant):
        if node.value is None:
            yield ast.UnaryOp(ast.USub(), ast.Constant(1))
        elif node.value == "":
            yield ast.Constant(" ")
        elif isinstance(node.value, int | float) and not isinstance(node.value, bool):
            yield ast.Constant(node.value + 1)
            yield ast.Constant(node.value - 1)
            if node.value:
                yield ast.Constant(0)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Attribute) and node.attr == "T":
        yield node.value
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.ListComp | ast.GeneratorExp) and node.generators[0].ifs:
        plain = copy.deepcopy(node)
        plain.generators[0].ifs = []
        yield plain
    elif isinstance(node, ast.Tuple) and len(node.elts) == 2 and isinstance(node.ctx, ast.Load):
        yield ast.Tuple(node.elts[::-1], node.ctx)
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(node.test, node.orelse, node.body)


def _calls(node: ast.Call) -> Iterator[ast.expr]:
    function = node.func
    if isinstance(function, ast.Attribute):
        if function.attr in DROPPED:
            on_module = isinstance(function.value, ast.Name) and function.value.id in ("np", "torch")
            yield node.args[0] if on_module else function.value
        if function.attr == "copy_":
            yield ast.Call(ast.Attribute(function.value, "add_", ast.Load()), node.args, [])
            yield ast.Call(ast.Attribute(node.args[0], "copy_", ast.Load()), [function.value], [])
        if function.attr in METHODS:
            yield ast.Call(
                ast.Attribute(function.value, METHODS[function.attr], ast.Load()), node.args, node.keywords
            )
    elif isinstance(function, ast.Name):
        if function.id == "float" and isinstance(node.args[0], ast.Constant):  # float("inf")
            yield ast.UnaryOp(ast.USub(), ast.Constant(1))
        if function.id in METHODS:
            yield ast.Call(ast.Name(METHODS[function.id], ast.Load()), node.args, node.keywords)
        if function.id == "abs":
            yield node.args[0]
    if len(node.args) >= 2 and not any(isinstance(one, ast.Starred) for one in node.args):
        yield ast.Call(function, [node.args[1], node.args[0], *node.args[2:]], node.keywords)


def changed_results(answer: Callable[..., Any], sample: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """(what is done to the result, the function that does it), for results of the kind of ``sample``."""

    def then(change: Callable[[Any], Any]) -> Callable[..., Any]:
        return lambda *given, **named: change(answer(*given, **named))

    if isinstance(sample, bool | np.bool_):
        yield "the opposite", then(lambda found: not found)
        yield "always True", then(lambda found: True)
        yield "always False", then(lambda found: False)
        yield "in words", then(lambda found: "yes" if found else "")
        yield "as a list", then(lambda found: [0] if found else [])
    elif isinstance(sample, int | float | np.number) or (
        isinstance(sample, Tensor) and sample.is_floating_point()
    ):
        yield "the other sign", then(lambda found: -found)
        yield "doubled", then(lambda found: 2 * found)
        yield "one more", then(lambda found: found + 1)
        yield "a hundredth more", then(lambda found: found * 1.01)
        yield "constant", then(lambda found: found * 0)
        yield "as text", then(str)
    if isinstance(sample, Tensor) and sample.is_floating_point() and sample.ndim:
        yield "in half precision", then(lambda found: found.half())
        yield "a row less", then(lambda found: found[:-1])
        yield "one number", then(lambda found: found.mean())
    if isinstance(sample, np.ndarray):
        yield "one more", then(lambda found: found + 1)
        yield "inverted", then(lambda found: 255 - found)
        yield "as floats", then(lambda found: found / 255)
        yield "channels first", then(lambda found: found.transpose(0, 3, 1, 2))
        yield "upside down", then(lambda found: found[:, ::-1])
        yield "channels exchanged", then(lambda found: found[..., ::-1])
    if isinstance(sample, list | tuple) and len(sample) > 1:
        yield "exchanged", then(lambda found: found[::-1])
        yield "one too few", then(lambda found: found[:-1])
        yield "the first alone", then(lambda found: found[0])


def changed_values(answer: Any, given: frozenset[str] = GIVEN) -> Iterator[tuple[str, Any]]:
    """(what was changed, the answer with that one change), for answers that are no functions."""
    if isinstance(answer, Mapping):
        mine = [key for key in answer if key not in given]
        for key in mine:
            for words, value in changed_values(answer[key], frozenset()):
                yield f"{key}: {words}", {**answer, key: value}
            yield f"{key}: left out", {**answer, key: None}
        for first, second in pairwise(mine):
            if str(answer[first]) != str(answer[second]):
                yield (
                    f"{first} and {second} exchanged",
                    {**answer, first: answer[second], second: answer[first]},
                )
    elif isinstance(answer, bool):
        yield "the opposite", not answer
    elif isinstance(answer, int | float):
        for words, value in (
            ("the other sign", -answer), ("one more", answer + 1), ("one less", answer - 1), ("doubled", 2 * answer),
            ("half", answer / 2), ("zero", 0 * answer), ("two per cent more", 1.02 * answer), ("as words", "many"),
        ):  # fmt: skip
            if value != answer:
                yield words, value
    elif isinstance(answer, np.ndarray):
        shift = np.roll(answer, 1, axis=1)
        for words, picture in (
            ("two steps brighter", answer + 2), ("inverted", 255 - answer), ("upside down", answer[:, ::-1]),
            ("shifted", shift), ("channels exchanged", answer[..., ::-1]), ("as floats", answer / 255.0),
            ("half as bright", answer // 2), ("one picture less", answer[:-1]), ("black", 0 * answer),
            ("channels first", answer.transpose(0, 3, 1, 2)),
        ):  # fmt: skip
            yield words, picture
    elif isinstance(answer, str):
        yield "empty", ""
        yield "one word", "yes"
        yield "blanks", "   "
    elif isinstance(answer, torch.dtype):
        for other in (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int32, torch.bool):
            yield str(other), other
        yield "its name", "float32"
        yield "python's float", float
    elif isinstance(answer, set | frozenset | list | tuple):
        yield from _changed_collections(answer)


def _changed_collections(answer: Any) -> Iterator[tuple[str, Any]]:
    kind, items = (
        type(answer),
        sorted(answer, key=str) if isinstance(answer, set | frozenset) else list(answer),
    )
    if items:
        yield "empty", kind()
    for item in items[:6]:
        yield f"without {item}", kind(one for one in items if one != item)
    yield "with one of another kind", kind([*items, "something else"])
    if len(items) > 2:
        yield "the first alone", kind(items[:1])
    if isinstance(answer, list | tuple):
        yield "one there twice", kind([*items, items[0]])
        if len(items) > 1 and all(isinstance(one, int) for one in items):
            yield "in another order", kind(items[::-1])
    if all(isinstance(one, int) for one in items):
        yield "each one more", kind(one + 1 for one in items)
        yield "each doubled", kind(2 * one for one in items)


def generated(number: int, task: str, right: Any) -> Iterator[tuple[str, Any]]:
    """(what was changed, the wrong answer) for one task."""
    function = solution_function(number, task)
    if function is None:
        yield from changed_values(right)
        return
    answer = made(number, function)
    for words, source in changed_sources(function):
        yield words, made(number, source)
    sample: list[Any] = []

    def recorded(*given: Any, **named: Any) -> Any:
        sample.append(answer(*given, **named))
        return sample[-1]

    from detour.labs.grading import grade

    assert grade(number, task, recorded).passed, (
        f"lab {number}: the lesson's own solution of '{task}' does not pass"
    )
    yield from changed_results(answer, random.Random(0).choice(sample) if sample else None)
