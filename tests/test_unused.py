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
METHOD = re.compile(r"^((?: +@[^\n]*\n)*) +(?:async )?def (?!__)(\w+)\(", re.MULTILINE)
PLAIN = re.compile(
    r" +@(?:property|staticmethod|classmethod|abstractmethod|[\w.]*(?:cached_property|no_grad|contextmanager)\b)"
)

CALLED_BY_LIBRARIES = {
    "errors.py:_render_traceback_": "IPython, in notebooks",
    "cli/main.py:list_commands": "click, for --help",
    "cli/main.py:format_commands": "click, for --help",
    "recipes/__init__.py:create_module": "importlib",
    "recipes/__init__.py:exec_module": "importlib",
    "serving/running.py:capture_signals": "uvicorn",
}
"""Method → what calls it."""

STAGES = re.compile(r"pocket/pretrain/(?:flow/)?run\.py:run_\w+")
"""Methods that are called by the name of a stage."""


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


def unused_methods(sources: dict[str, str], *, readers: str = "") -> list[str]:
    """Methods and inner functions whose names stand in all sources only where they are defined.

    Of two methods with one name, one that is called keeps the other. What a decorator registers (a route, a
    validator, a command) is left out.

    Args:
        sources: place → source, without those that are written to be read.
        readers: further sources that may call them.
    """
    code = {place: NOT_CODE.sub("", source) for place, source in sources.items()}
    everything = "\n".join([*code.values(), NOT_CODE.sub("", readers)])
    named = Counter(re.findall(r"\w+", everything))
    defined = Counter(re.findall(r"\bdef (\w+)", everything))
    return sorted(
        f"{place}:{name}"
        for place, source in code.items()
        for decorators, name in METHOD.findall(source)
        if named[name] == defined[name] and all(map(PLAIN.match, decorators.splitlines()))
    )


def test_every_function_class_and_method_is_used_outside_of_the_tests() -> None:
    modules = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}
    readers = [path.read_text() for path in BENCHMARKS.rglob("*.py")]
    readers += [source for place, source in modules.items() if place.startswith(TO_BE_READ)]
    sources = {place: source for place, source in modules.items() if not place.startswith(TO_BE_READ)}
    assert unused(sources, readers="\n".join(readers)) == []
    readers += [path.read_text() for path in PACKAGE.rglob("*") if path.suffix in (".html", ".js")]
    lonely = {one for one in unused_methods(sources, readers="\n".join(readers)) if not STAGES.fullmatch(one)}
    assert lonely == set(CALLED_BY_LIBRARIES)


def test_a_method_that_nothing_calls_is_unused_whatever_overrides_it() -> None:
    base = (
        "class A:\n    def lonely(self):\n        pass\n\n    @property\n    def used(self):\n        pass\n"
    )
    over = "class B(A):\n    @property\n    def lonely(self):\n        pass\n\nB().used\n"
    route = "def routes():\n    @routes.get('/')\n    def page():\n        pass\n"
    assert unused_methods({"a.py": base, "b.py": over, "c.py": route}) == ["a.py:lonely", "b.py:lonely"]
    assert unused_methods({"a.py": base, "b.py": over}, readers="a.lonely()") == []


def test_what_only_its_docstring_names_is_unused() -> None:
    lonely = 'def lonely():\n    """What lonely does."""  # lonely\n\n\ndef used():\n    pass\n\n\nused()\n'
    command = "@click.command\ndef command():\n    pass\n"
    assert unused({"a.py": lonely, "b.py": command}) == ["a.py:lonely"]
    assert unused({"a.py": lonely}, readers="lonely()") == []
