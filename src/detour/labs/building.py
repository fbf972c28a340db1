"""``python -m detour.labs.building``: make every notebook, run every solution, and see every exercise fail its check.

``make labs`` and CI run this, two labs at a time; with ``--render`` the solutions become pages under docs/labs, and
labs run one after the other, because the pages say what each took.
"""

import ast
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import click

from detour.errors import DetourError, TaskOpen
from detour.files import write_text
from detour.labs.execution import Executed, Run, kernel
from detour.labs.index import LABS, Lab, lab_of
from detour.labs.sources import base_of, notebook_of

BUILD = Path("build/labs")
RENDERED = Path("docs/labs")

AT_A_TIME = min(2, os.cpu_count() or 1)
"""Labs that run side by side, each in a kernel of one thread; a lab takes up to a gigabyte of memory."""

COMMAND = (sys.executable, "-m", "detour.labs.building")
"""What builds the one lab whose number follows."""


@click.command()
@click.argument("numbers", nargs=-1, type=int)
@click.option(
    "--render", type=click.Path(path_type=Path, file_okay=False), help="Write pages into this folder."
)
@click.option(
    "--kept",
    is_flag=True,
    help="Render what ran before, where its code is that of the lesson; times and memory stay as they were measured.",
)
@click.option(
    "--exercises/--no-exercises", default=True, help="Whether each exercise is seen to fail its check."
)
def main(*, numbers: tuple[int, ...], render: Path | None, kept: bool, exercises: bool) -> None:
    """Build and run all labs, or those whose NUMBERS are given."""
    # Labs are ended by this signal, which a shell has ignored in what it starts in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    labs = [lab_of(number) for number in numbers] or [lab for lab in LABS if lab.source.is_file()]
    try:
        if kept:
            render_kept(labs, render or RENDERED)
        elif render is None and len(labs) > 1 and AT_A_TIME > 1:
            build_apart(labs, exercises=exercises)
        else:
            build(labs, render=render, exercises=exercises)
    except DetourError as error:
        raise click.ClickException(str(error)) from error


def build(labs: Sequence[Lab], *, render: Path | None, exercises: bool) -> None:
    """Run the labs; with ``render`` write their pages and the index.

    Raises:
        DetourError: a solution does not run to its end, or an exercise does not fail its check.
    """
    ran: list[Executed] = []
    for lab in labs:
        with kernel() as run:
            notebook, one = run_solution(lab, run)
            ran.append(one)
            click.echo(f"{lab.name} solution: {one.cost}, {len(one.results)} tasks")
            if render is not None:
                render_into(render, lab, notebook, one)
            if exercises:
                open_task = see_exercise_fail(lab, run)
                click.echo(f"{lab.name} exercise: fails as handed out ({open_task})")
    if len(ran) > 1:
        clock, core = (sum(getattr(one, name) for one in ran) for name in ("seconds", "core_seconds"))
        click.echo(f"{len(ran)} labs, {clock:.0f} s of solutions together ({core:.0f} s of a core)")


def build_apart(labs: Sequence[Lab], *, exercises: bool) -> None:
    """Run each lab in a process of its own, :data:`AT_A_TIME` of them at a time, those that take longest first.

    What a lab says is shown when it has ended. A lab that fails does not stop the others; an interrupt stops all.

    Raises:
        DetourError: labs failed, by name.
    """
    begun = time.monotonic()
    waiting, running, failed = longest_first(labs), list[_Building](), list[str]()
    try:
        while waiting or running:
            while waiting and len(running) < AT_A_TIME:
                running.append(_Building(waiting.pop(0), exercises=exercises))
            time.sleep(0.05)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                click.echo(one.ended(), nl=False)
                if one.process.returncode != 0:
                    failed.append(one.lab.name)
    finally:
        for one in running:
            one.process.send_signal(signal.SIGINT)  # so that it ends its kernel, too
        for one in running:
            one.ended()
    if failed:
        raise DetourError(f"{len(failed)} of {len(labs)} labs failed: {', '.join(sorted(failed))}")
    click.echo(f"{len(labs)} labs in {time.monotonic() - begun:.0f} s, {AT_A_TIME} at a time")


class _Building:
    """One lab that is being built in a process of its own, and what that says."""

    def __init__(self, lab: Lab, *, exercises: bool) -> None:
        self.lab = lab
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        flag = "--exercises" if exercises else "--no-exercises"
        # In a session of its own, so that Ctrl-C comes once, from here: a second one would interrupt the kernel's end.
        self.process = subprocess.Popen(
            [*COMMAND, flag, f"{lab.number}"],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def ended(self) -> str:
        """Everything that it wrote, with errors, once it has ended."""
        self.process.wait()
        with self._output as output:
            output.seek(0)
            return output.read().decode(errors="replace")


def longest_first(labs: Sequence[Lab]) -> list[Lab]:
    """The labs by the time that they took when their pages were made; ones without a page go first."""
    from detour.labs.pages import measured_labs

    measured = measured_labs(RENDERED)
    seconds = {number: one.core_seconds for number, one in measured.items()}
    return sorted(labs, key=lambda lab: -seconds.get(lab.number, float("inf")))


def render_kept(labs: Sequence[Lab], folder: Path) -> None:
    """Write pages from the notebooks that an earlier run left under :data:`BUILD`, with the lesson's text of today.

    Raises:
        DetourError: a lab was not run, or its code has changed since.
    """
    import nbformat

    from detour.labs.pages import measured_labs, page_of, tasks_of, write_measured

    measured = measured_labs(folder)
    for lab in labs:
        path, notebook = BUILD / "solutions" / f"{lab.name}.ipynb", notebook_of(lab, "solution")
        if not path.is_file() or lab.number not in measured:
            raise DetourError(
                f"{path}: not there. Run python -m detour.labs.building --render {folder} {lab.number}"
            )
        ran = nbformat.read(path, as_version=4)
        if _computed(ran) != _computed(notebook):
            raise DetourError(
                f"{lab.name}: its code has changed since it ran. Run python -m detour.labs.building --render {folder} "
                f"{lab.number}"
            )
        outputs = iter([cell.outputs for cell in ran.cells if cell.cell_type == "code"])
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = next(outputs)
        page = page_of(lab, notebook, measured[lab.number], base=base_of(lab), tasks=tasks_of(lab))
        write_text(folder / f"{lab.name}.html", page)
        click.echo(f"{lab.name}: rendered from its last run")
    write_measured(folder, measured)


def _computed(notebook: Any) -> list[str]:
    """The code of each cell, without what changes no result: comments, where names are imported from, ``del``."""
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            tree.body = [
                node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom | ast.Delete)
            ]
            cells.append(ast.unparse(tree))
    return cells


def render_into(folder: Path, lab: Lab, notebook: Any, executed: Executed) -> None:
    """Write one lab's page, and the index of all that were rendered so far.

    Raises:
        DetourError: the page is not as pages have to be.
    """
    from detour.labs.needs import card_need
    from detour.labs.pages import Measured, measured_labs, page_of, tasks_of, write_measured

    write_text(
        folder / f"{lab.name}.html", page_of(lab, notebook, executed, base=base_of(lab), tasks=tasks_of(lab))
    )
    mine = Measured(
        core_seconds=executed.core_seconds,
        peak_bytes=executed.peak_bytes,
        shared=executed.shared,
        need=card_need(lab),
    )
    write_measured(folder, measured_labs(folder) | {lab.number: mine})


def run_solution(lab: Lab, run: Run) -> tuple[Any, Executed]:
    """The executed solution, also written under :data:`BUILD`.

    Raises:
        DetourError: it does not run to its end, a task fails, or a cell writes warnings.
    """
    notebook = notebook_of(lab, "solution")
    executed = run(notebook)
    _write(notebook, BUILD / "solutions" / f"{lab.name}.ipynb")
    if not executed.done:
        raise DetourError(f"{lab.name}: its solution stopped with {executed.error}: {executed.message}")
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise DetourError(f"{lab.name}: a cell of the solution warns: {output['text'].strip()}")
    return notebook, executed


def see_exercise_fail(lab: Lab, run: Run) -> str:
    """What stopped the exercise as it is handed out: its first check.

    Raises:
        DetourError: it ran through, or something else than a check stopped it.
    """
    notebook = notebook_of(lab, "exercise")
    _write(notebook, BUILD / "exercises" / f"{lab.name}.ipynb")
    executed = run(notebook)
    if executed.error != TaskOpen.__name__:
        raise DetourError(
            f"{lab.name}: the exercise as handed out must be stopped by a check; it was stopped by "
            f"{executed.error or 'nothing'}: {executed.message}"
        )
    return str(executed.message).splitlines()[0]


def _write(notebook: Any, path: Path) -> None:
    import nbformat

    write_text(path, nbformat.writes(notebook) + "\n")


if __name__ == "__main__":
    main()
