"""Options that several commands share."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from detour.cli.main import cli

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
