"""Whether a base is one of the package's own is a fact that it carries, never a guess from its name."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

import detour
from detour.adapters.adapter import DENOISERS
from detour.bases.base import open_base
from detour.bases.embedded import EMBEDDED, embedded_of_identity
from detour.bases.families import FAMILIES
from detour.errors import BaseError
from detour.training.goals import GOALS
from tests.tiny_base import make_tiny_base

PACKAGE = Path(detour.__file__).parent


def test_the_embedded_base_says_what_it_is() -> None:
    base = open_base("pocket")
    assert base.embedded is EMBEDDED["pocket"]
    assert embedded_of_identity(base.identity) is EMBEDDED["pocket"]


def test_pocket_flow_is_one_of_the_packages_own() -> None:
    known = EMBEDDED["pocket-flow"]
    assert embedded_of_identity("pocket-flow-v2") is known
    assert known.folder.parent == EMBEDDED["pocket"].folder.parent
    assert all((one.defaults, goal) in GOALS for one in EMBEDDED.values() for goal in ("style", "subject"))


@pytest.mark.parametrize("is_folder_there", [True, False])
def test_missing_weights_are_told_with_what_to_do(
    is_folder_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights_flow"
    if is_folder_there:
        folder.mkdir()
    monkeypatch.setitem(EMBEDDED, "pocket-flow", replace(EMBEDDED["pocket-flow"], folder=folder))  # type: ignore[arg-type]
    with pytest.raises(
        BaseError, match=r"'pocket-flow': its weights are missing .*weights_flow.*Install detour"
    ):
        open_base("pocket-flow")


@pytest.mark.parametrize("name", ["pocketmonsters-sd15", "pocket", "pocket-v1"])
def test_a_folder_with_a_name_like_it_is_not_taken_for_it(name: str, tmp_path: Path) -> None:
    base = open_base(str(make_tiny_base(tmp_path / name)))
    assert base.embedded is None


def test_an_identity_that_begins_like_it_is_another_base() -> None:
    assert embedded_of_identity("pocketmonsters-sd15") is None
    assert embedded_of_identity("") is None


def test_no_code_decides_by_how_a_name_of_a_base_begins() -> None:
    """``x.startswith("pocket")`` and ``name == "pocket"`` are how nine places guessed before."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        if (
            "labs" in path.parts or path.parent.name == "cli"
        ):  # lessons name the base to change; the CLI its command
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if is_call and node.func.attr == "startswith":  # type: ignore[attr-defined]
                found += [f"{path}:{node.lineno}" for arg in node.args if _names_pocket(arg)]  # type: ignore[attr-defined]
            if isinstance(node, ast.Compare):
                found += [
                    f"{path}:{node.lineno}" for side in (node.left, *node.comparators) if _names_pocket(side)
                ]
    assert not found


def _names_pocket(node: ast.AST) -> bool:
    """Whether a side of a comparison is ``"pocket"`` or ``"pocket-flow"``, or a collection with one of them."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(_names_pocket(one) for one in node.elts)
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and bool(re.match("pocket", node.value))
    )


def test_outside_of_bases_and_files_no_code_compares_the_name_of_a_family_or_of_the_networks_folder() -> None:
    """``family.name == "sd3"`` and ``part == "unet"`` are facts of a family: ``has_unet``, ``highest_rate``."""
    names = {*FAMILIES, *DENOISERS}
    found = []
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE)
        if (
            place.parts[0] in ("bases", "adapter_files", "labs", "scratch", "pocket")
            or "peers" in place.parts
        ):
            continue  # peers: what other trainers call their scripts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            found += [f"{path}:{node.lineno}" for side in sides if _names_one_of(side, names)]  # type: ignore[attr-defined]
    assert not found


def _names_one_of(node: ast.AST, names: set[str]) -> bool:
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(_names_one_of(one, names) for one in node.elts)
    return isinstance(node, ast.Constant) and node.value in names


@pytest.mark.parametrize(
    "code", ['name == "pocket-flow"', 'name in ("pocket", "pocket-flow")', 'name.startswith("pocket")']
)
def test_a_decision_by_name_is_seen(code: str) -> None:
    node = ast.parse(code, mode="eval").body
    sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else node.args  # type: ignore[attr-defined]
    assert any(_names_pocket(side) for side in sides)


@pytest.mark.parametrize("name", list(EMBEDDED))
def test_no_settings_of_a_packaged_base_name_a_folder_of_the_machine_that_made_it(name: str) -> None:
    files = list(EMBEDDED[name].folder.rglob("*.json"))
    assert files
    assert not [file for file in files if "_name_or_path" in file.read_text(encoding="utf-8")]
