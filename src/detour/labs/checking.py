"""The function ``check`` that a notebook calls after each task and at its end."""

from typing import Any

from detour.errors import TaskOpen
from detour.labs.grading import Grade, grade, graders_of


class Checks:
    """Grades answers, prints what is wrong with them, and records which tasks are done.

    ``check(9, "jump", jump)`` after a task, ``check.finish(9)`` at the end of the notebook.
    """

    def __init__(self) -> None:
        self._results: dict[int, dict[str, bool]] = {}

    def __call__(self, number: int, task: str, answer: Any) -> None:
        """Print the grade.

        Raises:
            TaskOpen: it is not passed; so "run all" stops here, before cells that need the answer.
            ConfigError: no such lab or task.
        """
        found = grade(number, task, answer)
        self._results.setdefault(number, {})[task] = found.passed
        print(said(number, task, found))
        if not found.passed:
            raise TaskOpen(f"lab {number}, '{task}' is open: change the cell above, then run it again.")

    def finish(self, number: int) -> None:
        """Print that all tasks are done.

        Raises:
            TaskOpen: names the tasks that are not passed.
        """
        results = self.results(number)
        missing = [task for task, passed in results.items() if not passed]
        if missing:
            raise TaskOpen(
                f"lab {number}: {len(missing)} of {len(results)} tasks are open: {', '.join(missing)}. Run their "
                "cells and fix what the checks say."
            )
        print(f"Lab {number} is done: {len(results)} of {len(results)} tasks passed.")

    def forget(self) -> None:
        """Forget which tasks are passed, so that another notebook starts with none."""
        self._results.clear()

    def results(self, number: int) -> dict[str, bool]:
        """Task → whether it is passed, in the order of the lab."""
        done = self._results.get(number, {})
        return {task: done.get(task, False) for task in graders_of(number)}


def said(number: int, task: str, found: Grade) -> str:
    """Text of a grade as the notebook shows it."""
    if found.passed:
        return f"Lab {number}, {task}: passed. {found.praise}".rstrip()
    return f"Lab {number}, {task}: not yet.\n  What is wrong: {found.wrong}\n  Why: {found.why}\n  Hint: {found.hint}"


check = Checks()
