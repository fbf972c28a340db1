"""``docs/cli.md``, written from the real command line, and the rules in ``docs/doctor.md``, from the real rules.

``python -m detour.cli.reference docs/cli.md docs/doctor.md``, the second one only where it is named.
"""

import sys
from copy import copy
from pathlib import Path

import click

from detour.cli.main import COMMANDS, cli
from detour.files import write_text

HEADER = """# Command reference

Generated from the program itself by `make docs`; a test fails when it is stale.
"""


def page() -> str:
    """The whole reference as Markdown."""
    parts = [HEADER, section(cli, "detour")]
    root = click.Context(cli, info_name="detour")
    for name in COMMANDS:
        command = cli.get_command(root, name)
        assert command is not None
        parts.append(section(command, f"detour {name}"))
        if isinstance(command, click.Group):
            parts += [section(inner, f"detour {name} {key}") for key, inner in command.commands.items()]
    return "\n".join(parts)


def section(command: click.Command, title: str) -> str:
    """One command's ``--help``, at a fixed width so that the page is the same everywhere."""
    # The names that commands inherit from the group. click keeps the option that a command was first asked for, which
    # may have been outside the group: a copy has none yet.
    names = cli.context_settings["help_option_names"]
    command = copy(command)
    command._help_option = None
    context = click.Context(
        command, info_name=title, terminal_width=100, max_content_width=100, help_option_names=names
    )
    return f"## {title}\n\n```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    write_text(Path(sys.argv[1]), page())
    for rules in map(Path, sys.argv[2:]):
        from detour.verbs.doctor.table import with_table

        write_text(rules, with_table(rules.read_text(encoding="utf-8")))
