"""Three hints for every task, of which the third is what the solution writes."""

import re

import pytest
from click.testing import CliRunner

from detour.cli.main import cli
from detour.errors import ConfigError
from detour.labs.grading import grade, graders_of
from detour.labs.hints import HINTS, code_of, hint_of
from detour.labs.index import LABS, Lab, lab_of
from tests.labs.graders_table import answers_of


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_every_task_has_three_different_hints_and_the_last_is_the_solutions_code(lab: Lab) -> None:
    assert list(HINTS[lab.number]) == list(graders_of(lab.number))
    source = re.sub(r"\s+", "", lab.source.read_text(encoding="utf-8"))
    for task in HINTS[lab.number]:
        steps = [hint_of(lab, task, step) for step in (1, 2, 3)]
        assert len(set(steps)) == 3
        assert all(re.sub(r"\s+", "", line) in source for line in steps[2].splitlines())
        assert "PLACEHOLDER" not in steps[2]


def test_the_code_is_that_of_the_task_and_not_of_its_neighbour() -> None:
    assert "alpha_bar * clean_variance + 1 - alpha_bar" in code_of(lab_of(9), "variance")
    assert "clean_variance" not in code_of(lab_of(9), "clean_guess")


def test_the_command_shows_one_step_and_names_the_next() -> None:
    first = CliRunner().invoke(cli, ["labs", "hint", "9", "variance"])
    assert first.exit_code == 0
    assert "the direction" in first.output
    assert "--step 2 shows the formula" in first.output
    last = CliRunner().invoke(cli, ["labs", "hint", "9", "variance", "--step", "3"])
    assert "return alpha_bar * clean_variance + 1 - alpha_bar" in last.output
    assert "--step" not in last.output
    listed = CliRunner().invoke(cli, ["labs", "hint", "9"])
    lines = listed.output.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == list(graders_of(9))
    assert any(line.startswith("variance: ") for line in lines)
    assert lines[-1].endswith("detour labs hint 9 TASK")


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_no_feedback_on_a_wrong_answer_holds_the_solution(lab: Lab) -> None:
    for task, (_, mistaken) in answers_of(lab.number).items():
        code = [line.strip().removeprefix("return ") for line in code_of(lab, task).splitlines()]
        code = [re.sub(r"\s+", "", line) for line in code if len(line) > 24 and not line.startswith("#")]
        for answer in [one for one, _ in mistaken] + [lambda *_: 12345.0]:
            found = grade(lab.number, task, answer)
            said = re.sub(r"\s+", "", f"{found.wrong} {found.why} {found.hint}")
            assert not [line for line in code if line in said], (task, said)


def test_a_task_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"lab 9 has no task 'leap'\. It has: one_pixel"):
        hint_of(lab_of(9), "leap", 1)
