"""What no part of the package calls is no part of it: reference implementations stand in tests/."""

import re
from collections import Counter
from pathlib import Path

import detour

PACKAGE = Path(detour.__file__).parent
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

TO_BE_READ = ("scratch/", "labs/lessons/")
"""Code that is written to be read: people call it, and tests compare it with libraries."""

NOT_CODE = re.compile(r'^\s*"""[\s\S]*?"""|(?:^\s*|  )# [^\n]*', re.MULTILINE)
DEFINED = re.compile(r"^(?:async )?(?:def|class) ([a-zA-Z]\w*)", re.MULTILINE)
DECORATED = re.compile(r"^@.*?^(?:async )?(?:def|class) ([a-zA-Z]\w*)", re.MULTILINE | re.DOTALL)


def unused(sources: dict[str, str], *, readers: str = "") -> list[str]:
    """Functions and classes of the top level that are named once in all sources: where they are defined.

    Args:
        sources: place → source, without those that are written to be read.
        readers: further sources that may call them.
    """
    code = {place: NOT_CODE.sub("", source) for place, source in sources.items()}
    named = Counter(re.findall(r"\w+", "\n".join([*code.values(), NOT_CODE.sub("", readers)])))
    return sorted(
        f"{place}:{name}"
        for place, source in code.items()
        for name in set(DEFINED.findall(source)) - set(DECORATED.findall(source))
        if named[name] < 2
    )


def test_every_function_and_class_is_used_outside_of_the_tests() -> None:
    modules = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}
    readers = [path.read_text() for path in BENCHMARKS.rglob("*.py")]
    readers += [source for place, source in modules.items() if place.startswith(TO_BE_READ)]
    sources = {place: source for place, source in modules.items() if not place.startswith(TO_BE_READ)}
    assert unused(sources, readers="\n".join(readers)) == []


def test_what_only_its_docstring_names_is_unused() -> None:
    lonely = 'def lonely():\n    """What lonely does."""  # lonely\n\n\ndef used():\n    pass\n\n\nused()\n'
    command = "@click.command\ndef command():\n    pass\n"
    assert unused({"a.py": lonely, "b.py": command}) == ["a.py:lonely"]
    assert unused({"a.py": lonely}, readers="lonely()") == []
