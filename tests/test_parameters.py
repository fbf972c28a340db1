"""A function takes more than eight parameters only where a description would hide more than it shows."""

import ast
from pathlib import Path

import detour

PACKAGE = Path(detour.__file__).parent
MOST = 8

NAMED = {
    "adapter_files/metadata.py:kohya_metadata": "one argument for each fact that a kohya file states",
    "adapters/attach.py:attach_new": "what a caller of PEFT's LoraConfig names too; kept as plain arguments",
    "generation/drawing.py:Drawing.__init__": "the parts of an opened base, handed over once by the engine",
    "generation/engine.py:PictureEngine.__init__": "the parts of an opened base; PictureEngine.load is what is called",
    "serving/dispatch.py:Dispatcher.__init__": "collaborators of the queue, each used by itself",
    "training/material.py:load_material": "the parts of a run plan that are encoded, before the run's folder exists",
    "training/observers.py:Checkpointer.__init__": "collaborators of one observer, each used by itself",
    "training/stored.py:store_latents": "what decides over an entry's key, each part from another place",
    "verbs/safety/recording.py:record_scores": "the engine, the policy and the places of one recording",
}
"""Function → why its parameters are not gathered in a description."""


def test_every_longer_list_of_parameters_is_named_with_its_reason() -> None:
    verbs = {there for _, there in detour.VERBS.values()}
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if place.startswith(("cli/", "labs/")):  # click hands a command one argument for each option
            continue
        for name, node in functions(ast.parse(path.read_text())):
            given = node.args
            names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            if len([one for one in names if one not in ("self", "cls")]) > MOST and name not in verbs:
                found.add(f"{place}:{name}")
    assert found == set(NAMED)


def functions(tree: ast.AST, inside: str = "") -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Functions and methods of a module with the names of their classes in front."""
    every = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            every.append((inside + node.name, node))
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            every += functions(node, f"{inside}{node.name}." if isinstance(node, ast.ClassDef) else inside)
    return every
