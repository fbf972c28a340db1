"""``detour labs``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from detour.cli.options import OUT_FOLDER, force_option, json_option

if TYPE_CHECKING:
    from detour.labs.execution import Executed


@click.group("labs", short_help="Open lessons as notebooks, run them, and check your answers.")
def command() -> None:
    """Lessons as notebooks: they run offline on the embedded base, and check your answers.

    \b
    detour labs open 9
    detour labs check labs/lab09.ipynb
    """


@command.command("list")
@json_option
def list_labs(*, as_json: bool) -> None:
    """List the labs."""
    from dataclasses import asdict

    from detour.cli.results import print_json, print_table, table_of
    from detour.labs.index import LABS

    if as_json:
        print_json([asdict(lab) for lab in LABS])
        return
    rows = [(str(lab.number), lab.title, lab.about.replace("`", "")) for lab in LABS]
    print_table(table_of("", [("lab", "right"), ("title", "left"), ("about", "left")], rows))


@command.command("open")
@click.argument("number", type=int)
@click.option(
    "--out", type=OUT_FOLDER, default=Path("labs"), show_default=True,
    help="Folder that the notebook is written into.",
)  # fmt: skip
@click.option("--solution", is_flag=True, help="With the answers.")
@click.option("--base", help="Written into the notebook in place of pocket.")
@click.option(
    "--judge", help="CLIP model that scores pictures, where the base brings none: a folder or a hub id."
)
@force_option
def open_lab(
    *, number: int, out: Path, solution: bool, base: str | None, judge: str | None, force: bool
) -> None:
    """Write the notebook of lab NUMBER, to open in Jupyter or an editor."""
    from detour.labs.workspace import hand_out

    path = hand_out(number, out=out, solution=solution, base=base, judge=judge, force=force)
    click.echo(f"{path}\nOpen it in Jupyter or an editor. Then: detour labs check {path}")


@command.command("run")
@click.argument("number", type=int)
@click.option("--base", help="In place of pocket.")
@click.option(
    "--judge", help="CLIP model that scores pictures, where the base brings none: a folder or a hub id."
)
@json_option
def run_lab(*, number: int, base: str | None, judge: str | None, as_json: bool) -> None:
    """Run the solution of lab NUMBER, and say what it took."""
    from detour.labs.workspace import run_solution_of

    show(run_solution_of(number, base=base, judge=judge), as_json=as_json)


@command.command("hint")
@click.argument("number", type=int)
@click.argument("task", required=False)
@click.option(
    "--step", type=click.IntRange(1, 3), default=1, show_default=True,
    help="1 the direction, 2 the formula, 3 the code.",
)  # fmt: skip
@json_option
def show_hint(*, number: int, task: str | None, step: int, as_json: bool) -> None:
    """Show a hint to TASK of lab NUMBER, in three steps; without TASK, name the lab's tasks."""
    from detour.cli.results import print_json
    from detour.labs.hints import HINTS, STEPS, asked_by, hint_of
    from detour.labs.index import lab_of

    lab = lab_of(number)
    if task is None:
        asked = {name: asked_by(lab, name) for name in HINTS[number]}
        if as_json:
            print_json(list(asked))
        else:
            click.echo("\n".join(f"{name}: {text}" if text else name for name, text in asked.items()))
            click.echo(f"A hint to one of them: detour labs hint {number} TASK")
        return
    words = hint_of(lab, task, step)
    if as_json:
        print_json({"lab": number, "task": task, "step": step, "kind": STEPS[step - 1], "hint": words})
        return
    click.echo(f"Lab {number}, {task}: the {STEPS[step - 1]}\n{words}")
    if step < len(STEPS):
        click.echo(f"Not enough? detour labs hint {number} {task} --step {step + 1} shows the {STEPS[step]}.")


@command.command("check")
@click.argument("notebook", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def check_notebook(*, notebook: Path, as_json: bool) -> None:
    """Run NOTEBOOK up to its first open task, and say which tasks are passed. The file stays as it is."""
    from detour.labs.workspace import check_file

    show(check_file(notebook), as_json=as_json)


def show(executed: "Executed", *, as_json: bool) -> None:
    """What came of a notebook; raises where it is not done, for the exit code."""
    from detour.errors import DetourError, TaskOpen

    if as_json:
        from detour.cli.results import echo_json

        echo_json(executed.to_json())
    else:
        for task, passed in executed.results.items():
            click.echo(f"{'passed' if passed else 'open  '}  {task}")
        click.echo(executed.cost)
        if executed.feedback:
            click.echo(executed.feedback)
    if executed.done:
        return
    if executed.error in (None, TaskOpen.__name__):
        raise TaskOpen(executed.message or f"lab {executed.lab}: tasks are open.")
    raise DetourError(f"a cell stopped with {executed.error}: {executed.message}")
