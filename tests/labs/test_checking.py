from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from detour.cli.main import cli
from detour.errors import ConfigError, TaskOpen
from detour.labs.checking import Checks
from detour.labs.predictions import compare_with, predict
from detour.labs.showing import show
from detour.labs.workspace import check_file, hand_out, run_solution_of
from tests.labs.answers_lab09 import ANSWERS
from tests.tiny_base import make_tiny_sd2, make_tiny_sdxl
from tests.tiny_flow import make_tiny_sd3


def test_a_wrong_answer_says_what_why_and_a_hint_and_stops_there(capsys: pytest.CaptureFixture[str]) -> None:
    check = Checks()
    with pytest.raises(TaskOpen, match="lab 9, 'variance' is open") as stop:
        check(9, "variance", lambda _alpha, _clean: 1.0)
    said = capsys.readouterr().out
    assert all(part in said for part in ("What is wrong:", "Why:", "Hint:"))
    assert stop.value._render_traceback_() == [str(stop.value)]


def test_a_lab_is_finished_only_when_every_task_is_passed(capsys: pytest.CaptureFixture[str]) -> None:
    check = Checks()
    tasks = list(ANSWERS)
    for task in tasks[:-1]:
        check(9, task, ANSWERS[task][0])
    with pytest.raises(TaskOpen, match=f"1 of {len(tasks)} tasks are open: {tasks[-1]}"):
        check.finish(9)
    check(9, tasks[-1], ANSWERS[tasks[-1]][0])
    check.finish(9)
    assert "Lab 9 is done" in capsys.readouterr().out


def test_an_answer_that_gets_worse_is_open_again() -> None:
    check = Checks()
    check(9, "variance", ANSWERS["variance"][0])
    assert check.results(9)["variance"]
    with pytest.raises(TaskOpen):
        check(9, "variance", None)
    assert not check.results(9)["variance"]


def test_a_prediction_is_shown_beside_the_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    predict("share", "half of it")
    compare_with("share", "0.5 %")
    assert "You expected: half of it\nMeasured:     0.5 %" in capsys.readouterr().out
    predict("empty", " ")
    compare_with("empty", 3)
    assert capsys.readouterr().out.count("nothing written yet") == 2


def test_a_picture_needs_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="say in a sentence"):
        show(np.zeros((4, 4, 3), np.uint8), alt=" ")


def test_a_notebook_with_answers_is_not_written_over(tmp_path: Path) -> None:
    pytest.importorskip("jupytext")
    path = hand_out(9, out=tmp_path)
    assert path.name == "lab09.ipynb"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="with your answers perhaps"):
        hand_out(9, out=tmp_path)
    assert hand_out(9, out=tmp_path, solution=True).name == "lab09-solution.ipynb"
    assert path.read_text() == "mine"
    hand_out(9, out=tmp_path, base="some/hub-id", force=True)
    assert 'BASE = \\"some/hub-id\\"' in path.read_text()


def test_a_relative_folder_is_written_as_an_absolute_path(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.chdir(tiny_base.parent)
    notebook = nbformat.read(hand_out(9, out=tmp_path, base=tiny_base.name), as_version=4)
    [line] = [
        line for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("BASE =")
    ]
    assert line == f'BASE = "{tiny_base.resolve()}"'


def test_a_missing_judge_is_noticed_before_anything_runs(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jupytext")
    monkeypatch.setattr("detour.evaluation.judge_choice._fetched_before", lambda: False)
    for verb in (
        lambda: hand_out(3, out=tmp_path, base=str(tiny_base)),
        lambda: run_solution_of(3, base=str(tiny_base)),
    ):
        with pytest.raises(
            ConfigError, match=r"lab 3 scores pictures.*pass --judge FOLDER.*Labs 1, 2, 5, 6, 7, 9, 11"
        ):
            verb()
    path = hand_out(12, out=tmp_path, base=str(tiny_base), judge="some/clip")
    text = path.read_text()
    assert "judge_of(" not in text
    assert 'judge=str(\\"some/clip\\")' in text


def test_a_base_of_another_family_is_refused_by_name_and_with_the_cause(
    tmp_path: Path, tiny_base: Path
) -> None:
    nbformat = pytest.importorskip("nbformat")
    flow = make_tiny_sd3(tmp_path / "flow")
    for verb in (
        lambda: hand_out(4, out=tmp_path, base=str(flow), judge="some/clip"),
        lambda: run_solution_of(4, base=str(flow), judge="some/clip"),
    ):
        with pytest.raises(
            ConfigError, match=r"lab 4 .*flow' \(Stable Diffusion 3\): .* transformer .*labs 1, 2, 3, 9, 18"
        ):
            verb()
    with pytest.raises(ConfigError, match=r"lab 18 .*\(Stable Diffusion 1\.x\): .* UNet .*labs 1, 2, 3"):
        run_solution_of(18, base=str(tiny_base))
    wide = make_tiny_sdxl(tmp_path / "wide")
    with pytest.raises(
        ConfigError, match=r"lab 2 .*\(Stable Diffusion XL\): it calls the UNet by hand .*labs 1, 3"
    ):
        hand_out(2, out=tmp_path, base=str(wide))
    velocity = make_tiny_sd2(tmp_path / "velocity")
    for number in (7, 10, 11):
        with pytest.raises(
            ConfigError, match=rf"lab {number} .*\(Stable Diffusion 2\.x\): it takes .* for noise"
        ):
            hand_out(number, out=tmp_path, base=str(velocity), judge="some/clip")
    assert not list(tmp_path.glob("*.ipynb")), "nothing is handed out that cannot run"
    path = hand_out(6, out=tmp_path, base=str(tiny_base))
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace(str(tiny_base.resolve()), str(flow))
    nbformat.write(notebook, path)
    with pytest.raises(ConfigError, match=r"lab 6 does not run on '.*flow'"):
        check_file(path)


def test_a_file_that_is_no_notebook_of_ours_is_refused(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    path = tmp_path / "other.ipynb"
    with pytest.raises(ConfigError, match="not there"):
        check_file(path)
    path.write_text("not a notebook")
    with pytest.raises(ConfigError, match="no notebook"):
        check_file(path)
    nbformat.write(nbformat.v4.new_notebook(), path)
    result = CliRunner().invoke(cli, ["labs", "check", str(path)])
    assert "none of the labs" in str(result.exception)


def filled_in(number: int, placeholder: str, answer: str) -> Any:
    """The exercise of a lab with one answer filled in."""
    from detour.labs.index import lab_of
    from detour.labs.sources import notebook_of

    notebook = notebook_of(lab_of(number), "exercise")
    [cell] = [cell for cell in notebook.cells if placeholder in cell.source]
    cell.source = cell.source.replace(placeholder, answer)
    return notebook


SEEN = 'seen = {"at 1 and 1": "", "lower weights": "", "the prediction": ""}'
SHORT = SEEN.replace('""', '"it works"', 3)


@pytest.mark.parametrize(
    ("number", "placeholder", "answer", "task", "word"),
    [
        (4, SEEN, SHORT, "seen", "a word or two about"),
        (4, "rank_of_sum = None", "rank_of_sum = 16", "rank_of_sum", "multiply the ranks"),
        (11, "line numbers\nfaulty_lines = None", "\nfaulty_lines = {1, 2, 3, 4, 5}", "faulty_lines", "line"),
    ],
)
def test_an_answer_that_needs_no_run_is_refused_before_anything_runs(
    number: int,
    placeholder: str,
    answer: str,
    task: str,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setattr("detour.labs.workspace.execute", lambda _notebook: pytest.fail("it ran"))
    path = tmp_path / "mine.ipynb"
    nbformat.write(filled_in(number, placeholder, answer), path)
    found = check_file(path)
    assert not found.done
    assert f"'{task}' is open, and nothing was run" in str(found.message)
    assert word in found.feedback


def test_what_was_handed_out_and_what_is_computed_is_left_to_the_run() -> None:
    from detour.labs.index import LABS
    from detour.labs.literals import refused_literal
    from detour.labs.sources import notebook_of

    for lab in LABS:
        for kind in ("exercise", "solution"):
            assert refused_literal(notebook_of(lab, kind), lab.number) is None, f"{lab.name}, {kind}"


def test_the_list_names_every_lab() -> None:
    result = CliRunner().invoke(cli, ["labs", "list"])
    assert result.exit_code == 0
    assert "Noise and back" in result.output
    assert all(f" {number} " in result.output for number in (1, 12, 16, 17))
