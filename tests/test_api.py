"""``import detour``: verbs on demand, typed, documented, and no name with two meanings."""

import ast
import functools
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import detour

PACKAGE = Path(detour.__file__).parent
SUBJECTS = sorted(path.parent.name for path in (PACKAGE / "verbs").glob("*/__init__.py"))


def test_importing_detour_and_its_subjects_imports_nothing_heavy() -> None:
    code = "import sys, detour\n" + "".join(f"import detour.verbs.{name}\n" for name in SUBJECTS)
    code += (
        "print(sorted({'torch', 'diffusers', 'transformers', 'numpy', 'PIL', 'pydantic'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(detour.VERBS))
def test_a_verb_is_a_documented_and_typed_function(name: str) -> None:
    verb = getattr(detour, name)
    assert inspect.isfunction(verb)
    assert (verb.__doc__ or "").split("\n")[0].endswith(".")
    hints = inspect.signature(verb)
    assert hints.return_annotation is not inspect.Signature.empty
    assert all(one.annotation is not inspect.Parameter.empty for one in hints.parameters.values())


def test_every_exported_type_is_there_and_unknown_names_are_refused() -> None:
    assert all(getattr(detour, name) for name in detour.TYPES)
    assert set(detour.VERBS) <= set(dir(detour))
    with pytest.raises(AttributeError, match="module 'detour' has no attribute 'tarin'"):
        detour.tarin  # noqa: B018


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_subject_exports_verbs_that_detour_exports_too(subject: str) -> None:
    if subject == "doctor":
        expected = {"examine", "examine_request"}
    else:
        expected = {there for package, there in detour.VERBS.values() if package == f"detour.verbs.{subject}"}
    package = import_module(f"detour.verbs.{subject}")
    assert expected <= set(dir(package))


@functools.cache
def sources() -> dict[str, ast.Module]:
    """Module → its syntax tree; reading all of them takes seconds."""
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(("detour", *(parts[:-1] if parts[-1] == "__init__" else parts)))
        trees[name] = ast.parse(path.read_text())
    return trees


def test_no_function_has_the_name_of_its_module() -> None:
    doubled = [
        f"{name}.{node.name}"
        for name, tree in sources().items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name.rpartition(".")[2]
    ]
    assert doubled == []


def test_no_two_modules_import_each_other_not_even_for_annotations() -> None:
    modules = sources()
    edges: dict[str, set[str]] = {name: set() for name in modules}
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if (
                not isinstance(node, ast.ImportFrom)
                or not node.module
                or not node.module.startswith("detour")
            ):
                continue
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                edges[name].add(whole if whole in modules else node.module)
    # The tables of packages that export on demand name what stands below them; nobody imports through them.
    on_demand = {"detour", *(f"detour.verbs.{subject}" for subject in SUBJECTS)}
    edges = {name: set() if name in on_demand else found for name, found in edges.items()}
    assert cycles_of(edges) == []


def cycles_of(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan's strongly connected components, larger than one)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in edges:
        if node not in index:
            visit(node)
    return found


def test_a_cycle_is_found() -> None:
    assert cycles_of({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
