"""A mutant: one small change to the source that some test must notice. The lists are the ``.toml`` files here."""

import ast
import functools
import itertools
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

ROOT = Path(__file__).parents[2]
LISTS = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change.

    Attributes:
        name: unique, a few words with hyphens.
        file: that is changed, relative to the root.
        before: text that stands exactly once in the file.
        after: what stands in its place.
        why: what would go wrong for a user.
        tests: pytest's names of the narrowest tests that should fail.
        survives: why no test can notice it; empty where one must.
    """

    name: str
    file: str
    before: str
    after: str
    why: str
    tests: tuple[str, ...]
    survives: str = ""

    def __post_init__(self) -> None:
        lacking = [f.name for f in fields(self) if f.name != "survives" and not getattr(self, f.name)]
        if lacking and lacking != ["after"]:  # a deletion has no ``after``
            raise ValueError(f"mutant '{self.name}': without {', '.join(lacking)}")

    def mutated(self, source: str) -> str:
        """The file's text with the change.

        Raises:
            ValueError: ``before`` does not stand exactly once in ``source``, or the change is none.
        """
        if (count := source.count(self.before)) != 1:
            raise ValueError(
                f"mutant '{self.name}': its 'before' stands {count} times in {self.file}, not once. "
                "The source was changed: bring the mutant up to date."
            )
        if self.before == self.after:
            raise ValueError(f"mutant '{self.name}': 'after' is 'before'")
        return source.replace(self.before, self.after)

    def problems(self, root: Path = ROOT) -> list[str]:
        """What makes this mutant not applicable to the tree at ``root``, a sentence each."""
        path = root / self.file
        if not path.is_file():
            return [f"mutant '{self.name}': there is no {self.file}"]
        try:
            compile(self.mutated(path.read_text(encoding="utf-8")), self.file, "exec")
        except (ValueError, SyntaxError) as error:
            return [f"{error}"]
        return [
            f"mutant '{self.name}': there is no test {test}"
            for test in self.tests
            if not _is_test(root, test)
        ]


def read_mutants(paths: Iterable[Path] | None = None) -> list[Mutant]:
    """The mutants of all lists, in their order.

    Raises:
        ValueError: a key that is not known or lacks, or a name that comes twice.
    """
    found: list[Mutant] = []
    for path in sorted(LISTS.glob("*.toml")) if paths is None else paths:
        for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("mutant", []):
            try:
                found.append(Mutant(**{**entry, "tests": tuple(entry.get("tests", ()))}))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path.name}: {error}") from error
    names = [mutant.name for mutant in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"names that come twice: {', '.join(twice)}")
    return found


def alternating(mutants: Sequence[Mutant]) -> list[Mutant]:
    """One mutant of each file, then a second of each, and so on: a cut after any of them is fair to all files."""
    by_file: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        by_file.setdefault(mutant.file, []).append(mutant)
    rounds = itertools.zip_longest(*by_file.values())
    return [mutant for one_round in rounds for mutant in one_round if mutant is not None]


def _is_test(root: Path, name: str) -> bool:
    """Whether a test of this name is written in the file; what parametrises it is not looked at."""
    file, _, function = name.partition("::")
    path = root / file
    if not function or not path.is_file():
        return path.is_file()
    return function.partition("[")[0].rpartition("::")[2] in _functions_of(path)


@functools.cache
def _functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
