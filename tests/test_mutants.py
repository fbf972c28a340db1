"""The lists of mutants fit the source, and their runner tells a change that is noticed from one that is not."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import run
from tests.mutants.mutant import Mutant, alternating, read_mutants

FILE = "src/detour/training/rates.py"


def mutant(name: str, **changed: object) -> Mutant:
    given: dict[str, object] = {
        "name": name,
        "file": FILE,
        "before": 'if kind == "constant":',
        "after": 'if kind == "linear":',
        "why": "a constant rate would fall",
        "tests": ("tests/training/test_rates.py",),
    }
    return Mutant(**{**given, **changed})  # type: ignore[arg-type]


def test_every_mutant_changes_one_place_of_the_source_as_it_is_and_names_tests_that_are_there() -> None:
    problems = [problem for one in read_mutants() for problem in one.problems()]
    assert not problems, "\n".join(problems)


def test_few_mutants_are_said_to_survive() -> None:
    mutants = read_mutants()
    assert sum(bool(one.survives) for one in mutants) <= 0.05 * len(mutants)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"before": "no such text"}, "stands 0 times"),
        ({"before": "peak"}, "not once"),
        ({"after": 'if kind == "constant":'}, "'after' is 'before'"),
        ({"after": "if kind =="}, "invalid syntax"),
        ({"file": "src/detour/nowhere.py"}, "there is no src/detour/nowhere.py"),
        ({"tests": ("tests/nowhere.py",)}, "no test tests/nowhere.py"),
        ({"tests": ("tests/training/test_rates.py::test_nothing",)}, "no test .*test_nothing"),
    ],
)
def test_a_mutant_that_does_not_fit_says_why(changed: dict[str, object], words: str) -> None:
    (problem,) = mutant("x", **changed).problems()
    assert re.search(words, problem)


def test_an_entry_with_a_word_too_few_or_too_many_is_named(tmp_path: Path) -> None:
    entry = '[[mutant]]\nname = "a"\nfile = "f"\nbefore = "b"\nafter = "c"\ntests = ["t"]\n'
    (tmp_path / "a.toml").write_text(entry)
    with pytest.raises(ValueError, match=r"a\.toml: .*why"):
        read_mutants([tmp_path / "a.toml"])
    (tmp_path / "a.toml").write_text(entry + 'why = "w"\nreason = "r"\n')
    with pytest.raises(ValueError, match=r"a\.toml: .*reason"):
        read_mutants([tmp_path / "a.toml"])
    (tmp_path / "a.toml").write_text((entry + 'why = "w"\n') * 2)
    with pytest.raises(ValueError, match="come twice: a"):
        read_mutants([tmp_path / "a.toml"])


def test_files_take_turns() -> None:
    mutants = [mutant(f"{file}{number}", file=file) for file in "aab" for number in range(2)]
    names = [one.file for one in alternating(mutants)]
    assert names == ["a", "b", "a", "b", "a", "a"]


@pytest.mark.slow
def test_what_is_noticed_what_is_not_and_what_never_ends_are_told_apart(tmp_path: Path) -> None:
    """In a process of its own: the runner forks, and must do so before this project is imported."""
    changes = {
        "noticed": ('if kind == "constant":', 'if kind == "linear":'),
        "unnoticed": ("Rate of update", "Rate of an update"),
        "endless": ("if step < warmup:", "while step < warmup:\n        pass\n    if False:"),
    }
    lists, results = tmp_path / "lists", tmp_path / "results.jsonl"
    lists.mkdir()
    (lists / "a.toml").write_text(
        "".join(
            f"[[mutant]]\nname = '{name}'\nfile = '{FILE}'\nbefore = '''{before}'''\nafter = '''{after}'''\n"
            "why = 'w'\ntests = ['tests/training/test_rates.py']\n"
            for name, (before, after) in changes.items()
        )
    )
    script = (
        "import sys; from pathlib import Path; from tests.mutants import mutant, run\n"
        f"mutant.LISTS, run.RESULTS, run.HEAVY = Path({str(lists)!r}), Path({str(results)!r}), ('torch', 'pytest')\n"
        "sys.exit(run.main(['--jobs', '1', '--timeout-s', '15', *sys.argv[1:]]))"
    )

    def tried(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=run.ROOT)

    found = tried()
    assert found.returncode == 1, found.stdout + found.stderr
    assert re.search(r"killed .* noticed  tests/training/test_rates\.py::test_", found.stdout)
    assert "survived: unnoticed" in found.stdout
    assert "timed out: endless" in found.stdout
    assert "1 of 3 killed" in found.stdout
    again = tried("--names", "noticed")
    assert again.returncode == 0
    assert "1 mutants, 1 of them known from before" in again.stdout
    entries = [json.loads(line) for line in results.read_text().splitlines()]
    assert {entry["result"]["name"] for entry in entries} == set(changes)
    assert sum(entry["confirmed"] for entry in entries) == 3
