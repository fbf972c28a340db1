"""What is wrong with the input is said before anything heavy is imported, and work is announced."""

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.startup import slips
from click.testing import CliRunner

from detour.cli.main import cli, run
from detour.cli.results import Rows, block_lines, said_before
from detour.errors import BaseError, ConfigError
from detour.specs import load_run_spec

HEAVY = ("torch", "diffusers", "transformers", "peft")


def test_plain_slips_are_said_without_anything_heavy(tmp_path: Path) -> None:
    """All of the benchmark's commands in one process: after the last one, nothing heavy is there."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from benchmarks.startup import slips\n"
        "from detour.cli.main import run\n"
        f"for name, arguments in slips(Path({str(tmp_path)!r})).items():\n"
        "    try: run(arguments)\n"
        "    except SystemExit as end: print(end.code, name, end=';')\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    said = done.stderr.splitlines()
    assert len(said) == 12
    assert all(line.startswith("error: ") for line in said)
    assert done.stdout.rstrip().endswith(";[]")
    codes = {int(part.split()[0]) for part in done.stdout.split(";")[:-1]}
    assert codes <= {2, 3, 4, 5}


def test_every_slip_of_the_benchmark_is_one(tmp_path: Path) -> None:
    assert len(slips(tmp_path)) >= 10


def test_evaluate_speaks_before_it_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        run(["evaluate", str(tmp_path / "empty")])
    assert capsys.readouterr().err.startswith("starting: ")


def test_the_same_words_whether_a_base_is_looked_for_early_or_late() -> None:
    from detour.bases.base import open_base
    from detour.bases.names import check_base_name

    for look in (open_base, check_base_name):
        with pytest.raises(BaseError, match=r"'pokcet' is no file.*Did you mean 'pocket'\?"):
            look("pokcet")


@pytest.mark.parametrize(
    ("name", "setting"), [("pissa", "adapter.init=pissa"), ("rsLoRA", "adapter.rslora=true")]
)
def test_methods_that_are_settings_here_are_told_how(name: str, setting: str) -> None:
    result = CliRunner().invoke(cli, ["train", "photos", "--method", name])
    assert result.exit_code == 2
    assert f"'{name}' is plain LoRA with a setting: --set {setting}." in result.output
    with pytest.raises(ConfigError, match=f"is plain LoRA with a setting: --set {setting}"):
        load_run_spec(flags={"adapter.method": name})


@pytest.mark.parametrize("seed", ["-1", str(2**63), "99999999999999999999999"])
@pytest.mark.parametrize("command", [["pocket", "draw", "x"], ["demo"], ["generate", "a house"]])
def test_a_seed_that_no_generator_takes_is_refused(command: list[str], seed: str) -> None:
    result = CliRunner().invoke(cli, [*command, "--seed", seed])
    assert result.exit_code == 2
    assert f"{seed} is not between 0 and 2^63 - 1." in result.output


def test_numbers_that_no_library_takes_are_refused() -> None:
    result = CliRunner().invoke(cli, ["train", "x", "--processes", "9" * 23])
    assert result.exit_code == 2
    for key, value in (("train.steps", 2**31), ("seed", 2**63), ("train.batch", 10**23)):
        with pytest.raises(ConfigError, match=key):
            load_run_spec(flags={key: value})


def test_convert_takes_its_output_once(tmp_path: Path) -> None:
    for words in ([], [str(tmp_path / "a"), "--out", str(tmp_path / "b")]):
        result = CliRunner().invoke(cli, ["convert", "in.safetensors", *words, "--to", "peft"])
        assert result.exit_code == 2
        assert "Name the output" in result.output


WIDE = Rows(
    "Settings",
    [
        ("card", "left"),
        ("training takes", "right"),
        ("changes", "left"),
        *((f"figure {i}", "right") for i in range(9)),
    ],
    [("24 GB", "21.3 GiB", "--set train.gradient_checkpointing=true --set train.batch=1", *["0.123"] * 9)],
)


def test_a_table_that_is_too_wide_becomes_blocks_with_nothing_cut() -> None:
    lines = block_lines(WIDE, 80)
    assert max(map(len, lines)) <= 80
    assert "24 GB" in lines
    text = " ".join(" ".join(lines).split())
    for cell in ("21.3 GiB", "--set train.gradient_checkpointing=true", "--set train.batch=1", "figure 8"):
        assert cell in text
    assert not any(line.strip() == "" for line in lines[2:])


def test_only_a_table_that_does_not_fit_becomes_blocks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from detour.cli.results import print_table

    monkeypatch.setenv("COLUMNS", "80")
    print_table(WIDE)
    print_table(Rows("", [("run", "left"), ("step", "right")], [("demo", "120/120")]))
    shown = capsys.readouterr().out
    assert "\n24 GB\n  training takes  21.3 GiB\n" in shown
    assert ["demo", "120/120"] in [line.split() for line in shown.splitlines()]
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown


def test_what_is_said_once_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETOUR_CACHE", str(tmp_path))
    assert [said_before("a note"), said_before("a note"), said_before("another")] == [False, True, False]


def test_that_a_base_has_no_safety_checker_is_said_by_the_first_picture_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from detour.cli.results import show_generate_result
    from detour.verbs.draw.call_notes import NO_CHECKER
    from detour.verbs.draw.pictures import GenerateResult

    monkeypatch.setenv("DETOUR_CACHE", str(tmp_path))
    notes = (f"base 'x' {NO_CHECKER}; the pictures were not checked.", "2 of 90 words were cut.")
    for first in (True, False):
        result = GenerateResult(files=(), safety="absent", seconds=1.0, notes=notes)
        show_generate_result(result, as_json=False)
        said = capsys.readouterr().out
        assert (NO_CHECKER in said) == first
        assert "2 of 90 words were cut" in said


def test_a_wish_to_stop_and_findings_are_no_errors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from detour.errors import DetourError, Interrupted, RequirementNotMet, Terminated, Unwell

    for error, code, beginning in (
        (Interrupted("stopped after step 5 of 9; everything is saved."), 130, "stopped after"),
        (Terminated("stopped after step 5 of 9; everything is saved."), 143, "stopped after"),
        (Unwell("1 serious finding: rate-zero."), 17, "found: 1 serious"),
        (RequirementNotMet("style 0.3 >= 0.5: no"), 14, "requirement not met: style"),
        (DetourError("it broke."), 1, "error: it broke."),
    ):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(cli, "main", fail)
        with pytest.raises(SystemExit) as end:
            run(["runs"])
        assert end.value.code == code
        assert capsys.readouterr().err.startswith(beginning)
