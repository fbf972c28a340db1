"""A docstring's first line says what a thing is or does without pointing to something that is written elsewhere."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import detour

PACKAGE = Path(detour.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

POINTING = re.compile(
    r"(?:As|Of|That|Those|These|It|Its|They|With which|Such|Likewise|See|Inside,|Everything, indented"
    r"|The same (?:for|of|with|without|in|at|interface|change|kind|run|requests?|pictures?)"
    r"|All of them|Said|Whose|Who|Also|Nothing|Drawn|Between|Beside|Below|Above|Under|From|To"
    r"|Without|In which|In the order|For (?:each|the|whom|what|docs))\b"
)
"""First words of half a sentence whose other half is the name, or stands in another place."""

MIN_WORDS = 3


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring of functions, classes, and of attributes and constants."""
    for node in ast.walk(tree):
        body = getattr(node, "body", [])
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            yield body[0].lineno, ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef | ast.Module):
            for named, after in itertools.pairwise(body):
                said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                if said and isinstance(named, ast.AnnAssign | ast.Assign):
                    yield after.lineno, str(after.value.value).strip()


def fault(text: str) -> str | None:
    """What is wrong with a docstring's first line; ``None`` for a good one."""
    first, _, rest = text.partition("\n")
    if POINTING.match(first):
        return "points to something else"
    if len(re.findall(r"[\w`'’]+", first)) < MIN_WORDS:
        return "has too few words"
    if (not rest or rest.startswith("\n")) and not first.endswith((".", "?", "!", ":", "…")):
        return "does not end"
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_docstring_is_understood_by_itself(path: Path) -> None:
    found = [
        f"{path.name}:{line}: '{text[:60]}' {wrong}"
        for line, text in docstrings(ast.parse(path.read_text()))
        if (wrong := fault(text))
    ]
    assert found == []


@pytest.mark.parametrize(
    "riddle",
    [
        "As many of those.",
        "Of the study; the others follow.",
        "That share.",
        "Between walk and jump, over all levels.",
        "Whose weights become the adapter.",
        "The same for a convolution.",
    ],
)
def test_a_riddle_is_found(riddle: str) -> None:
    assert fault(riddle)
    assert fault("Number of prompts that are drawn for each variant.") is None
