"""The command line: quick to answer, one line for each expected error, its reference page never stale."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from detour.cli.main import COMMANDS, cli, run
from detour.cli.reference import page

HEAVY = ("torch", "diffusers", "transformers", "peft", "matplotlib", "pydantic", "numpy")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from detour.cli.main import run\n"
        "try: run(['--help'])\n"
        "except SystemExit: pass\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "heavy: []" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_each_command_says_of_itself(name: str) -> None:
    import click

    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert command.short_help == COMMANDS[name][1]


def test_reference_page_is_what_the_command_line_says() -> None:
    stale = "docs/cli.md is stale: run `make docs`"
    assert (Path(__file__).parents[2] / "docs" / "cli.md").read_text() == page(), stale


def test_an_unknown_command_names_the_nearest() -> None:
    result = CliRunner().invoke(cli, ["trian"])
    assert result.exit_code == 2
    assert "no command 'trian'. Did you mean 'train'?" in result.output


def failing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    with pytest.raises(SystemExit) as stop:
        run(arguments)
    assert isinstance(stop.value.code, int)
    return stop.value.code, capsys.readouterr().err.strip().splitlines()


def test_an_expected_error_is_one_line_with_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = failing(["train", "photos", "--set", "train.step=3"], capsys)
    assert (code, lines) == (2, ["error: unknown key 'train.step'. Did you mean 'train.steps'?"])


def test_training_without_pictures_says_how_to_name_them(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = failing(["train"], capsys)
    assert code == 2
    assert lines[0].startswith("error: no pictures were named. Try: detour train photos/")


def test_a_resumed_run_keeps_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = failing(["train", "--resume", "runs/x", "--rank", "8"], capsys)
    assert code == 2
    assert "'adapter.rank' was given too" in lines[0]


@pytest.mark.parametrize("given", ["bob", "bob=", "=robot"])
def test_a_new_word_without_one_to_start_from_says_how_it_is_written(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(["train", "photos", "--new-word", given])
    assert f"--new-word '{given}' does not say" in capsys.readouterr().err
