"""``docs/api.md``, written from the signatures and docstrings of what ``import detour`` exports.

``python -m detour.cli.api_reference docs/api.md``
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import detour
from detour.cli.api_examples import EXAMPLES
from detour.files import write_text

HEADER = """# Python API

Generated from docstrings by `make docs`; a test fails when it is stale. Every example is run by
`tests/cli/test_api_reference.py`, in the order of `detour/cli/api_examples.py`; they begin with

```python
from pathlib import Path

import detour
```

`import detour` loads no torch; a verb is imported when it is first asked for. Verbs return results and print nothing.
`progress` takes a function of one argument, which is called with what the work reports. Every foreseen failure is a
`detour.DetourError` whose text is one line.
"""

SUBJECTS = {
    "train": "Training",
    "draw": "Drawing",
    "judge": "Judging",
    "adapter_tools": "Adapter files",
    "datasets": "Data sets",
    "explain": "Looking inside",
    "doctor": "Finding faults",
    "studies": "Studies",
    "safety": "Safety",
    "cost": "Cost",
}
"""Folder below ``detour/verbs`` → heading."""

SECTIONS = ("Args", "Returns", "Raises", "Attributes", "Source")


def write_page() -> str:
    """Write the whole page as Markdown."""
    parts = [HEADER]
    for subject, title in SUBJECTS.items():
        parts.append(f"## {title}\n")
        parts += [
            describe_function(name, getattr(detour, name))
            for name, (package, _) in detour.VERBS.items()
            if package == f"detour.verbs.{subject}"
        ]
    parts.append("## Settings, requests and what is opened\n")
    for name in detour.TYPES:
        exported = getattr(detour, name)
        describe = describe_class if inspect.isclass(exported) else describe_function
        parts.append(describe(name, exported))
    return "\n".join(parts)


def describe_function(name: str, function: Callable[..., Any]) -> str:
    """Describe one function: signature, text, arguments, result, errors and example."""
    text, sections = split_docstring(inspect.getdoc(function) or "")
    node = source_tree(function)
    assert isinstance(node, ast.FunctionDef)
    parts = [f"### `detour.{name}`\n", f"```python\n{signature_text(name, function, node)}\n```\n", text]
    parts += listed("Arguments", entries_of(sections.get("Args", "")))
    returned = function.__globals__.get(ast.unparse(node.returns)) if node.returns else None
    if "Returns" in sections:
        parts.append(f"Returns: {plain(sections['Returns'])}\n")
    if inspect.isclass(returned) and returned.__module__.startswith("detour."):
        parts += listed(f"`{returned.__name__}`", attributes_of(returned), first=first_line(returned))
    parts += listed("Errors", entries_of(sections.get("Raises", "")))
    return "\n".join([*parts, example_of(name)])


def describe_class(name: str, described: type) -> str:
    """Describe one class: text, attributes and example."""
    text, _ = split_docstring(inspect.getdoc(described) or "")
    parts = [f"### `detour.{name}`\n", text, *listed("Attributes", attributes_of(described))]
    return "\n".join([*parts, example_of(name)])


def example_of(name: str) -> str:
    """Quote the example of an exported name as a block of Python."""
    return f"Example:\n\n```python\n{EXAMPLES[name].strip()}\n```\n"


def listed(title: str, entries: dict[str, str], *, first: str = "") -> list[str]:
    """Format a titled list, or nothing where there are no entries."""
    if not entries:
        return []
    lines = [f"- `{name}`: {text}" if text else f"- `{name}`" for name, text in entries.items()]
    return [f"{title}: {first}".rstrip() + "\n", "\n".join(lines) + "\n"]


def source_tree(of: Any) -> ast.AST:
    """Parse the source of a function or class into its syntax tree."""
    return ast.parse(textwrap.dedent(inspect.getsource(of))).body[0]


def signature_text(name: str, function: Callable[..., Any], node: ast.FunctionDef) -> str:
    """Format a signature as its source writes it, one argument a line where it is long.

    Args:
        name: that users call it by.
        function: of which defaults that the source names are looked up.
        node: its definition.
    """
    defaults = inspect.signature(function).parameters
    arguments: list[str] = []
    for one in node.args.args:
        arguments.append(one_argument(one, defaults[one.arg].default))
    if node.args.kwonlyargs:
        arguments.append("*")
    arguments += [one_argument(one, defaults[one.arg].default) for one in node.args.kwonlyargs]
    result = ast.unparse(node.returns) if node.returns else "None"
    short = f"detour.{name}({', '.join(arguments)}) -> {result}"
    if len(short) <= 100:
        return short
    inner = "".join(f"    {argument},\n" for argument in arguments)
    return f"detour.{name}(\n{inner}) -> {result}"


def one_argument(node: ast.arg, default: Any) -> str:
    """Format one argument with its annotation and default value."""
    annotation = f": {ast.unparse(node.annotation)}" if node.annotation else ""
    if default is inspect.Parameter.empty:
        return f"{node.arg}{annotation}"
    if isinstance(default, Path):
        shown = f"Path({str(default)!r})"
    elif inspect.isfunction(default):
        shown = default.__name__
    elif isinstance(default, tuple):
        shown = f"({', '.join(repr(getattr(one, 'name', one)) for one in default)})"
    else:
        shown = repr(default)
    return f"{node.arg}{annotation} = {shown}"


def split_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Split a docstring in Google style into its text (as Markdown) and its sections (title → lines)."""
    pieces = re.split(rf"^({'|'.join(SECTIONS)}):[ \n]", text, flags=re.MULTILINE)
    sections = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    return marked(pieces[0].strip()) + "\n", sections


def entries_of(section: str) -> dict[str, str]:
    """Read the entries of a section: name → its text on one line."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in textwrap.dedent(section).strip("\n").splitlines():
        if line and not line.startswith(" "):
            name, _, line = line.partition(":")
            found[name] = []
        if name and line.strip():
            found[name].append(line.strip())
    return {name: marked(" ".join(lines)) for name, lines in found.items()}


def attributes_of(described: type) -> dict[str, str]:
    """Read the public attributes of a class and of those it inherits from detour's own.

    Returns:
        ``name: type = default`` → its docstring, or its entry in the class's section "Attributes".
    """
    found: dict[str, str] = {}
    for one in reversed(described.__mro__):
        if not one.__module__.startswith("detour."):
            continue
        node = source_tree(one)
        assert isinstance(node, ast.ClassDef)
        listed_there = entries_of(split_docstring(inspect.getdoc(one) or "")[1].get("Attributes", ""))
        following = [*node.body[1:], ast.Pass()]
        for line, after in zip(node.body, following, strict=True):
            if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
                continue
            name = line.target.id
            text = listed_there.get(name, "")
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = plain(str(after.value.value))
            found[f"{name}: {ast.unparse(line.annotation)}{default_text(line.value)}"] = text
    return found


def default_text(value: ast.expr | None) -> str:
    """Format the default of an attribute, empty where it has none; a pydantic ``Field`` shows its own."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("Field", "field"):
        inner = next((one.value for one in value.keywords if one.arg in ("default", "default_factory")), None)
        return "" if inner is None else f" = {ast.unparse(inner)}"
    return "" if value is None else f" = {ast.unparse(value)}"


def first_line(described: type) -> str:
    """Read the first line of a class's docstring."""
    return marked((inspect.getdoc(described) or "").split("\n")[0])


def plain(text: str) -> str:
    """Join an indented text into one line of Markdown."""
    return marked(" ".join(text.split()))


def marked(text: str) -> str:
    """Change reStructuredText's inline code and references into Markdown's."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return text.replace("``", "`")


if __name__ == "__main__":
    write_text(Path(sys.argv[1]), write_page())
