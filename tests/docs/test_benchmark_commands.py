"""Every `python -m benchmarks…` that a page, a docstring or the Makefile quotes is one that its parser takes."""

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT, command_lines, name_of, pages

BENCHMARKS = ROOT / "benchmarks"
LESSONS = ROOT / "src" / "detour" / "labs" / "lessons"
TYPES = {"int": int, "float": float, "Path": Path}


def source_of(module: str) -> Path:
    """The file that ``python -m MODULE`` runs."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


class Parser(argparse.ArgumentParser):
    """A parser that raises what it has to say, in place of ending the process."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ValueError(message)


@cache
def parser_of(path: Path) -> Parser:
    """The parser that a benchmark makes, read from its source: importing the module would load torch.

    Choices that are computed, and types other than those of :data:`TYPES`, are not held.

    Raises:
        ValueError: the file is not run by ``python -m``.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body):
        raise ValueError(f"{path.name} does nothing when it is run")
    parser = Parser()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".add_argument"):
            kept: dict[str, Any] = {}
            for keyword in node.keywords:
                if keyword.arg == "type":
                    kept["type"] = TYPES[ast.unparse(keyword.value)]
                elif keyword.arg in ("action", "nargs", "choices", "required", "dest"):
                    try:
                        kept[keyword.arg] = ast.literal_eval(keyword.value)
                    except ValueError:
                        assert keyword.arg == "choices", ast.unparse(node)
            parser.add_argument(*(ast.literal_eval(one) for one in node.args), **kept)
    return parser


def words_of(command: str) -> list[str]:
    """Words of a quoted command, with the first of several alternatives and without what is optional."""
    words = shlex.split(re.sub(r"\[[^\]]*\]", "", command), comments=True)
    return [word.partition("|")[0] for word in words if word != "…"]


def quoted_in(lines: Iterator[str] | list[str]) -> Iterator[list[str]]:
    """Words of each command of a benchmark among lines, also where ``python -m`` or the package is left out."""
    for line in lines:
        if found := re.match(r"(?:python -m )?(benchmarks(?:\.\w+)*)(?: .*|$)", line):
            whole = line.removeprefix("python -m ")
            if whole != line or len(whole.split()) > 1:  # a name alone is no command
                yield words_of(whole)
        elif (found := re.match(r"(\w+) --\w", line)) and source_of(f"benchmarks.{found[1]}").exists():
            yield words_of(f"benchmarks.{line}")


def texts() -> Iterator[tuple[str, Iterator[str] | list[str]]]:
    """Name and quoted lines of every page, benchmark and lesson, and of the Makefile."""
    for page in pages():
        yield name_of(page), command_lines(page)
    for path in [*BENCHMARKS.rglob("*.py"), *LESSONS.glob("*.py")]:
        source = path.read_text(encoding="utf-8")
        yield name_of(path), [" ".join(one.split()) for one in re.findall(r"`(python -m [^`]+)`", source)]
    yield "Makefile", re.findall(r"-m (benchmarks.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))


def fault(words: list[str]) -> str | None:
    """What a benchmark would say against a command; ``None`` where it takes it, and for its name alone."""
    path = source_of(words[0])
    if not path.exists():
        return f"there is no {name_of(path)}"
    try:
        parser = parser_of(path)
        if words[1:]:
            parser.parse_args(words[1:])
    except ValueError as error:
        return str(error)
    return None


def test_every_quoted_command_of_a_benchmark_is_taken() -> None:
    found = [(where, words) for where, lines in texts() for words in quoted_in(lines)]
    assert len(found) > 60
    wrong = [f"{where}: {shlex.join(words)}: {why}" for where, words in found if (why := fault(words))]
    assert wrong == []


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("python -m benchmarks --rounds 3 --dtypes fp32 bf16", None),
        ("python -m benchmarks.methods train|time|table", None),
        ("benchmarks.mark --pictures 12", None),
        ("mark --pictures 12", None),
        ("python -m benchmarks --round-trips 3", "unrecognized arguments: --round-trips 3"),
        ("python -m benchmarks.verdicts --exam --spoiled fog", "argument --spoiled: invalid choice: 'fog'"),
        ("python -m benchmarks --rounds few", "argument --rounds: invalid int value: 'few'"),
        ("python -m benchmarks.methods prove", "argument what: invalid choice: 'prove'"),
        ("python -m benchmarks.serve_overload --seconds 600", "the following arguments are required: --work"),
        ("python -m benchmarks.shapes", "shapes.py does nothing when it is run"),
        ("python -m benchmarks.nothing --rounds 1", "there is no benchmarks/nothing.py"),
    ],
)
def test_a_command_that_a_benchmark_refuses_is_found(command: str, why: str | None) -> None:
    (words,) = quoted_in([command])
    said = fault(words)
    assert said is None if why is None else said is not None and said.startswith(why)
