"""What the build refuses: solutions that stop or warn, exercises that nothing or something else stops."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from detour.cli.labs import show
from detour.errors import DetourError, TaskOpen
from detour.labs import building
from detour.labs.execution import Executed, Run, kernel
from detour.labs.index import lab_of

pytest.importorskip("jupytext")


def executed(error: str | None, *, passed: bool = True, message: str | None = None) -> Executed:
    return Executed(
        lab=9, seconds=1.0, core_seconds=1.0, peak_bytes=1 << 20, results={"jump": passed}, error=error,
        message=message, feedback="",
    )  # fmt: skip


@pytest.fixture
def runs_as(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """What runs notebooks that end as said, without a kernel; what is built goes to a temporary folder."""
    monkeypatch.setattr(building, "BUILD", tmp_path)

    def set_end(end: Executed, *, stderr: str = "") -> Run:
        from nbformat.v4 import new_output

        def execute(notebook: Any) -> Executed:
            if stderr:
                code = next(cell for cell in notebook.cells if cell.cell_type == "code")
                code["outputs"] = [new_output("stream", name="stderr", text=stderr)]
            return end

        return execute

    return set_end


def test_a_solution_that_runs_through_is_kept(runs_as: Any, tmp_path: Path) -> None:
    run = runs_as(executed(None))
    _, one = building.run_solution(lab_of(9), run)
    assert one.done
    assert (tmp_path / "solutions" / "lab09.ipynb").is_file()


@pytest.mark.parametrize(
    "end", [executed("NameError", message="name 'x' is not defined"), executed(None, passed=False)]
)
def test_a_solution_that_stops_or_passes_not_everything_fails_the_build(runs_as: Any, end: Executed) -> None:
    run = runs_as(end)
    with pytest.raises(DetourError, match="lab09: its solution stopped"):
        building.run_solution(lab_of(9), run)


def test_a_solution_that_warns_fails_the_build(runs_as: Any) -> None:
    run = runs_as(executed(None), stderr="UserWarning: careful")
    with pytest.raises(DetourError, match="a cell of the solution warns: UserWarning: careful"):
        building.run_solution(lab_of(9), run)


def test_an_exercise_is_stopped_by_its_first_check(runs_as: Any, tmp_path: Path) -> None:
    run = runs_as(executed("TaskOpen", passed=False, message="lab 9, 'jump' is open\nmore"))
    assert building.see_exercise_fail(lab_of(9), run) == "lab 9, 'jump' is open"
    assert (tmp_path / "exercises" / "lab09.ipynb").is_file()


@pytest.mark.parametrize(("error", "said"), [(None, "by nothing"), ("TypeError", "by TypeError")])
def test_an_exercise_that_crashes_or_runs_through_fails_the_build(
    runs_as: Any, error: str | None, said: str
) -> None:
    run = runs_as(executed(error, message="unsupported operand"))
    with pytest.raises(DetourError, match=said):
        building.see_exercise_fail(lab_of(9), run)


def test_a_notebook_starts_with_nothing_of_the_one_before_in_its_kernel() -> None:
    nbformat = pytest.importorskip("nbformat")
    v4 = nbformat.v4

    def notebook(source: str) -> Any:
        return v4.new_notebook(cells=[v4.new_code_cell(source)], metadata={"detour": {"lab": 9}})

    first = notebook(
        "from detour.labs.checking import check\nanswer = 1\ncheck._results[9] = {'jump': True}\ncheck.results(9)"
    )
    second = notebook(
        "import sys\nprint('answer' in globals(), 'detour.labs.checking' in sys.modules)\nunknown"
    )
    with kernel() as run:
        before, after = run(first), run(second)
    assert before.done is False
    assert before.error is None
    assert before.results["jump"]
    assert second.cells[0].outputs[0].text == "False True\n"
    assert not any(after.results.values())
    assert after.error == "NameError"
    assert 0 < after.core_seconds < before.core_seconds, "what the first one took is not counted again"


CHILD = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
folder, number = Path(sys.argv[1]), sys.argv[3]
try:
    (folder / f"begun-{number}").touch()
    for _ in range(2000):  # 20 seconds at least
        if (folder / "go").exists():
            break
        time.sleep(0.01)
except KeyboardInterrupt:
    (folder / f"ended-{number}").touch()
    raise SystemExit(1)
print(f"lab {number}, flag {sys.argv[2]}")
if number == "9":
    raise SystemExit("Error: lab09: its solution stopped")
print(f"lab {number} is done")
"""


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Labs are processes that wait for a file ``go`` here; the one of lab 9 fails."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    monkeypatch.setattr(building, "COMMAND", (sys.executable, str(script), str(tmp_path)))
    monkeypatch.setattr(building, "AT_A_TIME", 2)
    monkeypatch.setattr(building, "longest_first", lambda labs: list(labs)[::-1])
    return tmp_path


def begun(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("begun-*")}


def test_two_labs_run_at_a_time_and_one_that_fails_stops_no_other(
    children: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, at_first = time.sleep, set[str]()

    def look(seconds: float) -> None:
        real(seconds)
        if len(begun(children)) == 2 and not (children / "go").exists():
            real(0.2)  # a third would begin meanwhile
            at_first.update(begun(children))
            (children / "go").touch()

    monkeypatch.setattr(building.time, "sleep", look)
    with pytest.raises(DetourError, match="1 of 3 labs failed: lab09"):
        building.build_apart([lab_of(1), lab_of(2), lab_of(9)], exercises=False)
    assert at_first == {"begun-9", "begun-2"}
    said = capsys.readouterr().out
    for number in (1, 2):
        assert f"lab {number}, flag --no-exercises\nlab {number} is done\n" in said
    assert "lab 9, flag --no-exercises\nError: lab09: its solution stopped\n" in said


def test_an_interrupt_ends_the_labs_that_run_and_begins_no_other(
    children: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.sleep

    def interrupt(seconds: float) -> None:
        real(seconds)
        if len(begun(children)) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(building.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        building.build_apart([lab_of(1), lab_of(2), lab_of(3)], exercises=True)
    assert {path.name for path in children.glob("ended-*")} == {"ended-3", "ended-2"}
    assert begun(children) == {"begun-3", "begun-2"}


def test_labs_go_by_the_time_that_they_took_and_new_ones_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from detour.labs.pages import Measured, write_measured

    monkeypatch.setattr(building, "RENDERED", tmp_path)
    taken = {1: 5.0, 2: 50.0, 3: 20.0}
    write_measured(
        tmp_path,
        {key: Measured(core_seconds=s, peak_bytes=1, shared=True, need=None) for key, s in taken.items()},
    )
    assert [lab.number for lab in building.longest_first([lab_of(n) for n in (1, 2, 3, 4)])] == [4, 2, 3, 1]


def test_the_command_tells_open_tasks_from_crashes() -> None:
    show(executed(None), as_json=True)
    with pytest.raises(TaskOpen, match="lab 9, 'jump' is open"):
        show(executed("TaskOpen", passed=False, message="lab 9, 'jump' is open"), as_json=True)
    with pytest.raises(TaskOpen, match="tasks are open"):
        show(executed(None, passed=False), as_json=True)
    with pytest.raises(DetourError, match="a cell stopped with KeyError: 'x'"):
        show(executed("KeyError", passed=False, message="'x'"), as_json=True)


def test_what_ran_before_is_rendered_only_while_its_code_is_the_lessons(runs_as: Any, tmp_path: Path) -> None:
    from detour.labs.pages import Measured, write_measured

    nbformat = pytest.importorskip("nbformat")
    run = runs_as(executed(None))
    notebook, _ = building.run_solution(lab_of(9), run)
    docs = tmp_path / "docs"
    with pytest.raises(DetourError, match=r"lab09\.ipynb: not there"):
        building.render_kept([lab_of(9)], docs)
    write_measured(docs, {9: Measured(core_seconds=8.4, peak_bytes=1 << 20, shared=True, need=None)})
    kept = tmp_path / "solutions" / "lab09.ipynb"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="Lab 9 is done")]
    notebook.cells[1].source = "import os\n" + notebook.cells[1].source + "\n# a remark"
    building._write(notebook, kept)
    building.render_kept([lab_of(9)], docs)
    page = (docs / "lab09.html").read_text()
    assert "Lab 9 is done" in page
    assert '<details class="solution">' in page
    notebook.cells[1].source += "\nSEED = 1"
    building._write(notebook, kept)
    with pytest.raises(DetourError, match="lab09: its code has changed since it ran"):
        building.render_kept([lab_of(9)], docs)
