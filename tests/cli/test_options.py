"""Options that several commands share."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from detour.cli.main import cli

READ_OR_KEPT = {
    "config", "file", "folder", "notebook", "picture", "place", "resume", "run", "runs", "source", "state", "target",
}  # fmt: skip
"""Parameters whose path is read, or where a run or a server keeps what is its own; ``place`` is the argument OUT."""


def commands(of: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    if isinstance(of, click.Group):
        for part in of.list_commands(click.Context(of)):
            found = of.get_command(click.Context(of), part)
            assert found is not None
            yield from commands(found, f"{name} {part}".strip())
    else:
        yield name, of


def test_the_option_for_a_file_or_folder_to_write_is_called_out_in_every_command() -> None:
    for name, command in commands(cli):
        paths = [one for one in command.params if isinstance(one.type, click.Path) and not one.type.exists]
        words = [word for one in paths if one.name not in READ_OR_KEPT for word in one.opts]
        assert not words or "--out" in words, f"detour {name}: {words}"


FOLDERS = {
    "generate": ["a house"],
    "evaluate": ["run"],
    "prove": ["run"],
    "compare": ["photos"],
    "schedulers": [],
}


@pytest.mark.parametrize("command", ["generate", "evaluate", "prove", "compare", "schedulers"])
@pytest.mark.parametrize("name", ["x.png", "x.PNG", "x.safetensors"])
def test_a_files_name_is_not_taken_for_a_folder(tmp_path: Path, command: str, name: str) -> None:
    with CliRunner().isolated_filesystem(tmp_path):
        told = CliRunner().invoke(cli, [command, *FOLDERS[command], "--out", name])
        assert told.exit_code == 2, told.output
        assert "is the ending of a file. Name a folder." in " ".join(told.output.split())
        assert not list(Path().iterdir())
