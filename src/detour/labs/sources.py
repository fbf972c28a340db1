"""A lesson's one source, and the two notebooks that are made of it."""

import json
import re
import textwrap
from typing import Any, Literal

from detour.errors import ConfigError, MissingExtra
from detour.labs.index import Lab
from detour.labs.tolerances import tolerance_of

Kind = Literal["exercise", "solution"]

COMMENT = 110
"""Columns of a comment that is written into a notebook."""
BEGIN, END, PLACEHOLDER = "# BEGIN SOLUTION", "# END SOLUTION", "# PLACEHOLDER:"
JUDGE_OF = re.compile(r"judge_of\((?:[^()]|\([^()]*\))*\)")
BASE_NAME = re.compile(r'^BASE = "([^"]+)"', re.MULTILINE)
BASE_LINE = re.compile(r'^BASE = ".*"$', re.MULTILINE)
PREDICTION = re.compile(r'^predict\(("[^"]+"), ".*"\)$', re.MULTILINE)
CHECK = re.compile(r'^check\(\s*(\d+),\s*"(\w+)"', re.MULTILINE)


def notebook_of(lab: Lab, kind: Kind, *, base: str | None = None, judge: str | None = None) -> Any:
    """The notebook (``nbformat``) of a lesson; same source, same bytes.

    Args:
        lab: whose source is read.
        kind: with the answers, or with places for them.
        base: written into the line ``BASE = …``.
        judge: hub id or folder of a CLIP model, written in place of the base's own judge.

    Raises:
        MissingExtra: jupytext is not installed.
        ConfigError: the source's marks do not fit together.
    """
    jupytext = _jupytext()
    text = lab.source.read_text(encoding="utf-8")
    text = exercise_of(text) if kind == "exercise" else solution_of(text)
    if base is not None:
        text = with_base(text, base)
    if judge is not None:
        text = JUDGE_OF.sub(lambda _: json.dumps(judge, ensure_ascii=False), text)
    notebook = jupytext.reads(with_tolerances(text), fmt="py:percent")
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
        "detour": {"lab": lab.number, "kind": kind},
    }
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"  # nbformat's own are random
    return notebook


def _jupytext() -> Any:
    try:
        import jupytext
    except ModuleNotFoundError as error:
        raise MissingExtra("labs need jupytext and nbclient: pip install 'detour-lora[labs]'.") from error
    return jupytext


def exercise_of(text: str) -> str:
    """The source with a TODO and placeholders where the answers stand, and empty predictions.

    Comment lines right behind ``BEGIN SOLUTION`` say what is to do; ``PLACEHOLDER:`` lines are handed out.

    Raises:
        ConfigError: a mark without its partner, or an answer without words or placeholder.
    """
    lines: list[str] = []
    for answer, block in _blocks(text):
        if not answer:
            lines += block
            continue
        indent = block[0][: len(block[0]) - len(block[0].lstrip())]
        words = _words(block)
        placeholders = [line.split(PLACEHOLDER, 1)[1][1:].rstrip() for line in block if PLACEHOLDER in line]
        if not words or not placeholders:
            raise ConfigError(
                f"{block[0].strip()}: an answer needs a comment that says what to do, and a placeholder."
            )
        lines.append(f"{indent}# TODO: {words[0]}")
        lines += [f"{indent}# {line}" for line in words[1:]]
        lines += [indent + line for line in placeholders]
    return PREDICTION.sub(r'predict(\1, "")', "\n".join(lines) + "\n")


def solution_of(text: str) -> str:
    """The source without its marks.

    Raises:
        ConfigError: a mark without its partner.
    """
    kept: list[str] = []
    for answer, block in _blocks(text):
        kept += [line for line in block[1:-1] if PLACEHOLDER not in line] if answer else block
    return "\n".join(kept) + "\n"


def with_tolerances(text: str) -> str:
    """The source with a comment above every check that says how exact the answer has to be."""

    def stated(found: re.Match[str]) -> str:
        words = f"Tolerance of this check: {tolerance_of(int(found[1]), found[2])}."
        return (
            "\n".join(textwrap.wrap(words, COMMENT, initial_indent="# ", subsequent_indent="# "))
            + f"\n{found[0]}"
        )

    return CHECK.sub(stated, text)


def needs_judge(lab: Lab) -> bool:
    """Whether a lesson has a judge look at pictures."""
    return JUDGE_OF.search(lab.source.read_text(encoding="utf-8")) is not None


def base_of(lab: Lab) -> str:
    """Name of the base that a lesson opens where nobody names another one.

    Raises:
        ConfigError: the lesson has no line ``BASE = "…"``.
    """
    found = BASE_NAME.search(lab.source.read_text(encoding="utf-8"))
    if found is None:
        raise ConfigError(f'{lab.name} has no line BASE = "…".')
    return found[1]


def named_base(notebook: Any) -> str | None:
    """Base that a learner's notebook names in its line ``BASE = …``; ``None`` where it has no such line."""
    cells = (BASE_NAME.search(cell.source) for cell in notebook.cells if cell.cell_type == "code")
    return next((found[1] for found in cells if found is not None), None)


def with_base(text: str, base: str) -> str:
    """The source with another base in its one line.

    Raises:
        ConfigError: there is not exactly one such line.
    """
    changed, count = BASE_LINE.subn(lambda _: f"BASE = {json.dumps(base, ensure_ascii=False)}", text)
    if count != 1:
        raise ConfigError(f'a lesson has one line BASE = "…"; {count} were found.')
    return changed


def _words(block: list[str]) -> list[str]:
    """What the comment lines behind the opening mark say."""
    words = []
    for line in block[1:]:
        bare = line.strip()
        if not bare.startswith("#") or bare.startswith(PLACEHOLDER):
            break
        words.append(bare.removeprefix("#").strip())
    return words


def _blocks(text: str) -> list[tuple[bool, list[str]]]:
    """(whether it is an answer, its lines with the marks), in order."""
    blocks: list[tuple[bool, list[str]]] = [(False, [])]
    for number, line in enumerate(text.splitlines(), start=1):
        mark, inside = line.strip(), blocks[-1][0]
        if (mark == BEGIN and inside) or (mark == END and not inside):
            raise ConfigError(f"line {number}: '{mark}' without its partner.")
        if mark == BEGIN:
            blocks.append((True, []))
        blocks[-1][1].append(line)
        if mark == END:
            blocks.append((False, []))
    if blocks[-1][0]:
        raise ConfigError(f"'{BEGIN}' without '{END}'.")
    return blocks
