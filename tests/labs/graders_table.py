"""``python -m tests.labs.graders_table docs/labs/graders.md``: what every grader accepts and catches, counted."""

import importlib
import sys
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from detour.files import write_text
from detour.labs.grading import grade
from detour.labs.index import LABS, Lab
from tests.labs.answers import AlsoRight, Answers
from tests.labs.equivalents import EQUIVALENT
from tests.labs.wrong_answers import generated

RENDERED = Path(__file__).parents[2] / "docs" / "labs"


def answers_of(number: int) -> Answers:
    """What the graders of a lab are tried with: one right answer a task, and planted mistakes."""
    answers: Answers = importlib.import_module(f"tests.labs.answers_lab{number:02d}").ANSWERS
    return answers


def also_right(number: int) -> AlsoRight:
    """Right answers that are written differently."""
    answers: AlsoRight = importlib.import_module(f"tests.labs.answers_lab{number:02d}").ALSO_RIGHT
    return answers


@dataclass
class Tried:
    """What came of every answer to one task."""

    accepted: int = 0
    refused: list[str] = field(default_factory=list)
    planted: int = 0
    caught: int = 0
    passed: list[str] = field(default_factory=list)
    """Wrong answers that passed: what was changed."""
    harmless: list[str] = field(default_factory=list)
    """Changes that are no mistakes and passed, as :mod:`tests.labs.equivalents` says."""


@cache
def tried(number: int) -> dict[str, Tried]:
    """Task → what came of its answers, for one lab."""
    found = {}
    for task, (answer, wrong) in answers_of(number).items():
        one = found[task] = Tried()
        for index, right in enumerate([answer, *also_right(number)[task]]):
            grades = grade(number, task, right)
            one.accepted += grades.passed
            if not grades.passed:
                one.refused.append(f"right answer {index}: {grades.wrong}")
        for index, (mistake, _) in enumerate(wrong):
            one.planted += 1
            if grade(number, task, mistake).passed:
                one.passed.append(f"planted mistake {index}")
        harmless = EQUIVALENT.get((number, task), {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what wrong code warns of is not what is tested
            for words, mistake in generated(number, task, answer):
                if not grade(number, task, mistake).passed:
                    one.caught += 1
                elif words in harmless:
                    one.harmless.append(words)
                else:
                    one.passed.append(words)
    return found


def page() -> str:
    """The table as Markdown."""
    lines = [
        "# What the checks accept and catch",
        "",
        "Every check of the labs is tried in the test suite: with right answers that are written differently (another",
        "formula, type, order or rounding), with planted mistakes that have to be met with their own hint, and with",
        "wrong answers that are generated from the solution: one operator, constant, argument, factor or call changed",
        "at a time, or the sign, size, dtype or order of what is returned. All wrong ones are caught; a change that",
        "makes no mistake is listed with its cause in `tests/labs/equivalents.py`. Regenerate this page with",
        "`python -m tests.labs.graders_table docs/labs/graders.md`.",
        "",
        "| lab | task | right ones accepted | planted mistakes caught | generated wrong ones caught | harmless |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    sums = [0, 0, 0, 0]
    for lab in LABS:
        for task, one in tried(lab.number).items():
            counts = [one.accepted, one.planted, one.caught, len(one.harmless)]
            sums = [before + count for before, count in zip(sums, counts, strict=True)]
            words = " | ".join(map(str, counts))
            lines.append(f"| {_named(lab)} | `{task}` | {words} |")
    lines.append("| | together | " + " | ".join(map(str, sums)) + " |")
    return "\n".join(lines) + "\n"


def _named(lab: Lab) -> str:
    """Number of a lab, as a link where its page was rendered."""
    page_there = (RENDERED / f"{lab.name}.html").is_file()
    return f"[{lab.number}]({lab.name}.html)" if page_there else f"{lab.number}"


if __name__ == "__main__":
    write_text(Path(sys.argv[1]), page())
