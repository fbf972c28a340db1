import ast
import re

import pytest

from detour.errors import ConfigError
from detour.labs.index import LABS, Lab, lab_of
from detour.labs.sources import BASE_LINE, base_of, exercise_of, solution_of, with_base

SOURCE = """# %%
BASE = "pocket"
def jump(x):
    # BEGIN SOLUTION
    # Return the jump.
    # Mind the root.
    # PLACEHOLDER: return None
    # one root for both
    return x**0.5
    # END SOLUTION
print(jump(4))
"""

PRESENT = LABS


def test_an_exercise_has_the_words_of_each_task_and_nothing_of_its_answer() -> None:
    exercise = exercise_of(SOURCE)
    assert "    # TODO: Return the jump.\n    # Mind the root.\n    return None\nprint(jump(4))" in exercise
    assert "**0.5" not in exercise
    assert "one root" not in exercise


def test_a_solution_has_the_answer_and_none_of_the_marks() -> None:
    solution = solution_of(SOURCE)
    assert "return x**0.5" in solution
    assert not re.search("SOLUTION|PLACEHOLDER|TODO", solution)
    assert exercise_of(solution) == solution


@pytest.mark.parametrize(
    "broken",
    [
        "# BEGIN SOLUTION\n# Say it.\n# PLACEHOLDER: x = None\nx = 1\n",
        "x = 1\n# END SOLUTION\n",
        "# BEGIN SOLUTION\n# a\n# BEGIN SOLUTION\n# END SOLUTION\n",
        "# BEGIN SOLUTION\n# Say it.\nx = 1\n# END SOLUTION\n",
        "# BEGIN SOLUTION\nx = 1\n# PLACEHOLDER: x = None\n# END SOLUTION\n",
    ],
    ids=["no end", "no begin", "nested", "no placeholder", "no words"],
)
def test_marks_that_do_not_fit_together_are_refused(broken: str) -> None:
    with pytest.raises(ConfigError):
        exercise_of(broken)


def test_another_base_goes_into_its_one_line() -> None:
    assert 'BASE = "owner/other"\n' in with_base(SOURCE, "owner/other")
    with pytest.raises(ConfigError, match="0 were found"):
        with_base("x = 1\n", "other")


def test_the_base_that_a_lesson_opens_is_read_from_its_line() -> None:
    assert base_of(lab_of(9)) == "pocket"
    assert base_of(lab_of(18)) == "pocket-flow"


@pytest.mark.parametrize("lab", PRESENT, ids=lambda lab: lab.name)
def test_a_lesson_has_its_title_one_base_line_and_every_part_of_its_way(lab: Lab) -> None:
    text = lab.source.read_text(encoding="utf-8")
    assert f"# # Lab {lab.number}. {lab.title}\n" in text
    assert len(BASE_LINE.findall(text)) == 1
    exercise = exercise_of(text)
    for part in (
        "What you will see",
        "**Predict** (`",
        "## Reflect",
        "<details>",
        f"check.finish({lab.number})",
        "SEED",
    ):
        assert part in exercise, part


@pytest.mark.parametrize("lab", PRESENT, ids=lambda lab: lab.name)
def test_both_notebooks_of_a_lesson_are_valid_python_and_the_same_every_time(lab: Lab) -> None:
    pytest.importorskip("jupytext")
    from detour.labs.sources import notebook_of

    for kind in ("exercise", "solution"):
        notebook = notebook_of(lab, kind)
        assert notebook == notebook_of(lab, kind)
        assert notebook.metadata["detour"] == {"lab": lab.number, "kind": kind}
        for cell in notebook.cells:
            if cell.cell_type == "code":
                compile(cell.source, lab.name, "exec")


def test_an_unknown_lab_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no lab 20\. There are 1, 2, .*12, 13, 14, 15, 16, 17, 18, 19"):
        lab_of(20)


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_no_cell_deletes_what_another_cell_made(lab: Lab) -> None:
    """So that a cell can be run twice, and after a later one."""
    cells = re.split(r"^# %%.*$", solution_of(lab.source.read_text(encoding="utf-8")), flags=re.MULTILINE)
    for cell in cells:
        tree = ast.parse("\n".join(line for line in cell.splitlines() if not line.startswith("# ")))
        made = {
            name.id
            for name in ast.walk(tree)
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
        }
        gone = {
            name.id for name in ast.walk(tree) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Del)
        }
        assert gone <= made, f"{lab.name}: a cell deletes {sorted(gone - made)}"


@pytest.mark.parametrize("lab", PRESENT, ids=lambda lab: lab.name)
def test_the_first_check_needs_no_training(lab: Lab) -> None:
    """A wrong first answer is heard of at once, and not after a minute of training."""
    source = lab.source.read_text(encoding="utf-8")
    trains = re.search(r"^[^#\n]*\b(train_adapter|fit|backward)\(", source, re.MULTILINE)
    check = re.search(r"^check\(", source, re.MULTILINE)
    assert check is not None
    assert trains is None or check.start() < trains.start()
