"""Packages whose functions are imported when they are first asked for, so that importing a package stays cheap."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def exports_on_demand(
    package: str, table: Mapping[str, tuple[str, str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a package that imports its functions on demand.

    Args:
        package: its dotted name (``__name__`` in its own file).
        table: public name → (dotted name of the module that defines it, its name there).

    Returns:
        the two functions that Python looks up in a module (PEP 562).
    """

    def get_exported(name: str) -> Any:
        if name not in table:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module, there = table[name]
        found = getattr(import_module(module), there)
        setattr(sys.modules[package], name, found)
        return found

    def list_exported() -> list[str]:
        return sorted({*vars(sys.modules[package]), *table})

    return get_exported, list_exported
