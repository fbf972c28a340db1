"""Imports point to a lower tier or stay within their folder (docs/architecture.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import detour

PACKAGE = Path(detour.__file__).parent

# The order of the folders. Numbers after the point order the folders of one tier among themselves.
TIERS = {
    "errors": 0.0,
    "lazy": 0.0,
    "adapter_methods": 0.05,
    "printing": 0.05,
    "safetensors_header": 0.06,
    "files": 0.1,
    "tensor_files": 0.14,
    "entry_store": 0.15,
    "step_log": 0.15,
    "specs": 0.2,
    "pocket.world": 0.5,
    "adapters": 1.0,
    "diffusion": 1.0,
    "scratch": 1.0,
    "bases": 2.0,
    "data": 2.1,
    "adapter_files": 2.1,
    "generation": 3.0,
    "training": 3.1,
    "evaluation": 3.1,
    "safety": 3.5,
    "verbs": 4.0,
    "recipes": 4.1,
    "pocket.pretrain": 4.5,
    "labs": 4.7,
    "serving": 5.0,
    "studio": 5.0,
    "cli": 5.1,
    "__main__": 6.0,
}


def folder_of(module: str) -> str:
    """``detour.training.loop`` → ``training``; ``detour.pocket.world.style`` → ``pocket.world``."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts[:1] == ["pocket"] else (parts[0] if parts else "")


def imports_of(source: str) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of our own package, lazy ones inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names if name.name.startswith("detour."))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the whole name"
            if node.module == "detour":
                yield from ((node.lineno, f"detour.{name.name}") for name in node.names)
            elif node.module and node.module.startswith("detour."):
                yield node.lineno, node.module


def violations(module: str, source: str) -> list[str]:
    here = folder_of(module)
    found = []
    for line, imported in imports_of(source):
        there = folder_of(imported)
        if there in (here, "", "pocket", "__version__"):
            continue
        if TIERS[there] >= TIERS[here]:
            found.append(f"{module}:{line} imports {imported}: {here} ({TIERS[here]}) may not reach {there}")
    return found


MODULES = sorted(
    (".".join(("detour", *path.relative_to(PACKAGE).with_suffix("").parts)), path)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py" or path.parent != PACKAGE
)


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_point_downwards(module: str, path: Path) -> None:
    if folder_of(module) in ("pocket", "pocket.__init__"):
        return
    assert not violations(module.removesuffix(".__init__"), path.read_text())


def test_an_upward_import_is_found_and_named_with_its_line() -> None:
    found = violations(
        "detour.adapters.delta", "import os\n\ndef f():\n    from detour.training import loop\n"
    )
    assert found == ["detour.adapters.delta:4 imports detour.training: adapters (1.0) may not reach training"]


def test_folders_of_one_tier_keep_their_own_order() -> None:
    assert violations("detour.bases.base", "from detour.adapter_files import kohya\n")
    assert not violations("detour.adapter_files.kohya", "from detour.bases import families\n")
