"""The stranger's walk of docs/architecture.md names files and functions that are there, and are called on the way."""

import re
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from click.testing import CliRunner

import detour
from detour.cli.main import cli
from detour.verbs.train.run import train_adapter
from tests.verbs.photos import make_photos, quick_spec

PACKAGE = Path(detour.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"

Steps = dict[str, set[str]]


def walk(title: str) -> Steps:
    """File → functions that the numbered lines below a heading name."""
    section = PAGE.read_text().split(f"### {title}\n")[1].split("\n##")[0]
    found: Steps = {}
    for line in re.findall(r"^\d+\. (.+)$", section, flags=re.MULTILINE):
        file, _, said = line.partition(": ")
        names = re.findall(r"`((?:\w+\.)?\w+)`", said)
        functions = {name for name in names if name.rpartition(".")[2].islower()}
        found[file.strip("`")] = {name for name in functions if not name.startswith("detour.")}
    return found


def defined(file: str, name: str) -> bool:
    """Whether the file defines a function or method of that name."""
    owner, _, function = name.rpartition(".")
    text = (PACKAGE / file).read_text()
    return f"def {function}(" in text and (not owner or f"class {owner}" in text)


def test_a_walk_passes_fewer_than_twenty_files_and_a_function_of_each() -> None:
    for title in ("One picture, from its folder to the loss", "One prompt, from the command line to a PNG"):
        steps = walk(title)
        assert 10 < len(steps) < 20
        for file, names in steps.items():
            assert names, f"{file}: no function is named"
            assert all(defined(file, name) for name in names), f"{file}: {names}"


class Called:
    """Remembers which functions of the package are called while it is open, on all threads."""

    def __init__(self) -> None:
        self.functions: set[tuple[str, str]] = set()

    def __enter__(self) -> "Called":
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            file = Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix()
            self.functions.add((file, frame.f_code.co_qualname))

    def missing(self, steps: Steps) -> list[str]:
        """Named functions that were not called."""
        return [
            f"{file}: {name}"
            for file, names in steps.items()
            for name in sorted(names)
            if (file, name) not in self.functions
        ]


def test_every_function_of_the_walks_is_called(tiny_base: Path, tmp_path: Path) -> None:
    spec = quick_spec(tiny_base, make_photos(tmp_path / "photos", 2), train__steps=1, validate__every=0)
    with Called() as called:
        adapter = train_adapter(spec, runs=tmp_path / "runs", prove=False).adapter_file
    assert called.missing(walk("One picture, from its folder to the loss")) == []
    asked = ["generate", "a (red:1.3) cup", "--base", str(tiny_base), "--lora", str(adapter), "--steps", "1"]
    with Called() as called:
        shown = CliRunner().invoke(cli, [*asked, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert shown.exit_code == 0
    assert called.missing(walk("One prompt, from the command line to a PNG")) == []


def test_a_function_that_is_not_called_is_named() -> None:
    with Called() as called:
        defined("data/folder.py", "read_dataset")
    assert called.missing({"data/folder.py": {"read_dataset"}}) == ["data/folder.py: read_dataset"]
