"""What a page of the docs points to: links with their anchors, commands, files. Read as GitHub reads Markdown."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import click

from detour.cli.main import cli

ROOT = Path(__file__).parents[2]

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:[^`\n]|\n(?!\n))+)`")  # may go on in the next line
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def pages() -> list[Path]:
    """Every Markdown page that a reader may come to."""
    return sorted(
        [
            ROOT / "README.md",
            ROOT / "CHANGELOG.md",
            ROOT / "benchmarks" / "README.md",
            *(ROOT / "docs").rglob("*.md"),
            *(ROOT / "src").rglob("*.md"),
        ]
    )


def name_of(page: Path) -> str:
    """As it is named from the root, for test ids and messages."""
    return page.relative_to(ROOT).as_posix()


def anchor_of(heading: str) -> str:
    """The anchor that GitHub gives a heading: lower case, no punctuation, hyphens for blanks."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


@cache
def anchors(page: Path) -> frozenset[str]:
    """All anchors of a page; a heading that comes again gets a number."""
    found: dict[str, int] = {}
    result = set(re.findall(r'\b(?:id|name)="([^"]+)"', page.read_text(encoding="utf-8")))
    if page.suffix == ".md":
        for heading in HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
            anchor = anchor_of(heading)
            times = found.get(anchor, 0)
            result.add(f"{anchor}-{times}" if times else anchor)
            found[anchor] = times + 1
    return frozenset(result)


def prose_of(page: Path) -> str:
    """Text of a Markdown page without what stands in code."""
    return INLINE.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))


def links(page: Path) -> list[str]:
    """Targets of all links and pictures; what stands in code is no link."""
    if page.suffix == ".html":
        return re.findall(r'\b(?:href|src)="([^"]+)"', page.read_text(encoding="utf-8"))
    return LINK.findall(prose_of(page))


def dead(page: Path, target: str) -> str | None:
    """Why a link of the page leads nowhere; None for one that resolves, and for those to other sites."""
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        return None
    path, _, anchor = unquote(target).partition("#")
    place = (page.parent / path).resolve() if path else page
    if not place.exists():
        return f"{name_of(page)}: no file for '{target}'"
    if anchor and not {anchor, target.partition("#")[2]} & anchors(place):  # browsers try both spellings
        return f"{name_of(page)}: '{target}' names a heading that is not there"
    return None


def command_lines(page: Path) -> Iterator[str]:
    """Every `detour …`, `python -m …` and `make …` that a reader could type, from fences and from the text."""
    text = page.read_text(encoding="utf-8")
    for fence in FENCE.findall(text):
        lines = fence.split("\n")[1:-1]
        yield from "\n".join(lines).replace("\\\n", " ").splitlines()
    yield from (" ".join(code.split()) for code in INLINE.findall(FENCE.sub("", text)))


@dataclass(frozen=True)
class Wrong(Exception):
    """A quoted command that the command line does not take."""

    why: str


def parse(line: str) -> None:
    """Walk a quoted `detour …` through the real commands; files need not be there.

    A command's name alone is taken as its name.

    Raises:
        Wrong: a command, option or value that is not known, or one that is missing.
    """
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="detour")
    try:
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            name, words = words[0], words[1:]
            inner = command.get_command(context, name)
            if inner is None:
                raise Wrong(f"no command '{name}'")
            context = click.Context(inner, info_name=name, parent=context)
            command = inner
        if not words:
            return
        given, rest, _ = command.make_parser(context).parse_args(list(words))
        if rest:
            raise Wrong(f"left over: {rest}")
        if given.keys() & {"help", "version"}:
            return
        for parameter in command.params:
            value = given.get(parameter.name)
            if value in (None, ()) or repr(value) == "Sentinel.UNSET":
                if parameter.required:
                    raise Wrong(f"{parameter.name} is missing")
            elif not isinstance(parameter.type, click.Path):
                parameter.type_cast_value(context, value)
    except click.UsageError as error:
        raise Wrong(error.format_message()) from error
