"""The lists of mutants fit the source, and their runner tells a change that is noticed from one that is not."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
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


ENTRY = """[[mutant]]
name = "{name}"
file = "{file}"
before = "b"
after = "{after}"
why = "w"
tests = ["tests/{test}.py"]
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A repository with one commit: lists of mutants of the files ``a``, ``b`` and ``c``. Returned: git itself."""
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "LISTS", tmp_path / "lists")
    for name in ("AUTHOR", "COMMITTER"):  # so that a commit's hash is the same in every run
        monkeypatch.setenv(f"GIT_{name}_DATE", "2026-01-01T00:00:00Z")
        monkeypatch.setenv(f"GIT_{name}_NAME", "x")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "x@example.org")

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init", "-b", "main")
    written(tmp_path)
    git("add", ".")
    git("commit", "-m", "one")
    return git


def written(root: Path, *, after: str = "c", more: str = "") -> list[Mutant]:
    """Write lists and sources; returns the mutants. ``after`` is that of the first of ``c``."""
    (root / "lists").mkdir(exist_ok=True)
    text = ""
    for file in "abc":
        (root / file).write_text("b")
        for number in range(4):
            of = after if (file, number) == ("c", 0) else "c"
            text += ENTRY.format(name=f"{file}{number}", file=file, after=of, test=f"test_{file}")
    (root / "lists" / "x.toml").write_text(text + more)
    return read_mutants([root / "lists" / "x.toml"])


def commit(git: Callable[..., None], words: str) -> None:
    git("add", "-A")
    git("commit", "--allow-empty", "-m", words)


def test_a_change_begins_where_it_left_main_and_on_main_at_the_commit_before(
    repository: Callable[..., None], tmp_path: Path
) -> None:
    def named(revision: str) -> str | None:
        return run.git("rev-parse", revision)

    assert run.base_of_change() is None  # one commit is all that is known
    commit(repository, "two")
    assert run.base_of_change() == named("HEAD~1")  # nobody says what main is
    repository("update-ref", "refs/remotes/origin/main", "HEAD")
    assert run.base_of_change() == named("HEAD~1")
    repository("switch", "-c", "work")
    commit(repository, "three")
    commit(repository, "four")
    assert run.base_of_change() == named("main") != named("HEAD~1")
    with pytest.raises(ValueError, match="git knows no revision 'nothing'"):
        run.changed_since("nothing")


def test_what_a_change_concerns_goes_first_and_no_mutant_is_left_out_for_ever(
    repository: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = ENTRY.format(name="new", file="c", after="d", test="test_c")
    mutants = written(tmp_path, after="edited", more=new)
    (tmp_path / "a").write_text("b, changed")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_b.py").write_text("")
    commit(repository, "two")
    ordered = [one.name for one in run.of_change(mutants, "HEAD~1")]
    assert "6 mutants are new or in files that changed" in capsys.readouterr().out
    assert set(ordered[:6]) == {"a0", "a1", "a2", "a3", "c0", "new"}
    assert set(ordered[6:10]) == {"b0", "b1", "b2", "b3"}
    assert set(ordered[10:]) == {"c1", "c2", "c3"}
    assert [one.name for one in run.of_change(mutants, "HEAD~1")] == ordered
    firsts = set()
    for number in range(
        12
    ):  # commits that concern no mutant: which of them are tried first is drawn for each
        commit(repository, f"{number}")
        turn = [one.name for one in run.of_change(mutants, "HEAD~1")]
        assert sorted(turn) == sorted(one.name for one in mutants)
        firsts |= set(turn[:3])
    assert len(firsts) > 8
    assert sorted(one.name for one in run.of_change(mutants, None)) == sorted(one.name for one in mutants)


def test_of_a_change_every_survivor_fails_the_call(capsys: pytest.CaptureFixture[str]) -> None:
    mutants = [mutant(f"{number}") for number in range(40)]
    results = [run.Result(one.name, "killed") for one in mutants[:39]]
    assert run.report(mutants, results, seconds=1.0, wanted=1.0) == 0
    assert "1 of 40 were left out, for time or number" in capsys.readouterr().out
    results.append(run.Result("39", "survived"))
    assert run.report(mutants, results, seconds=1.0, wanted=run.ENOUGH) == 0
    assert run.report(mutants, results, seconds=1.0, wanted=1.0) == 1
    assert "survived: 39" in capsys.readouterr().out


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
