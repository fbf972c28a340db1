"""The published record of the exam: one line of JSON for each trained run, kept with the project.

Trained cases take a minute each and are not kept with the project, so the record is what later calls add to. A line
names the rules by which it was judged; lines of other rules are not counted together.
"""

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.verdicts.material import Case
from benchmarks.verdicts.scoring import Line
from detour.errors import DetourError
from detour.files import read_text, write_text

EVALUATION = Path(__file__).parents[2] / "src" / "detour" / "evaluation"
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Examined:
    """One trained run of the exam and what was said of it.

    Attributes:
        goal: ``style`` or ``subject``.
        look: technique or character.
        condition: how the run was made.
        seed: of its data and its training.
        verdict: from captions alone.
        with_words: verdict where the judge knows the base's words.
        way: share of the way of a style, ``None`` where none was measured.
        rules: digest of the rules, :func:`rules_digest`.
        date: of the judgement.
    """

    goal: str
    look: str
    condition: str
    seed: int
    verdict: str
    with_words: str
    way: float | None
    rules: str
    date: str

    @property
    def case(self) -> Case:
        """The planted case that was judged."""
        return Case("style" if self.goal == "style" else "subject", self.look, self.condition, self.seed)

    def line(self, *, vocabulary: bool) -> Line:
        """The run as it is counted."""
        return Line(self.case, self.with_words if vocabulary else self.verdict)


def read_record(path: Path) -> dict[str, Examined]:
    """Runs of the record by the name of their case; none where there is no file."""
    if not path.exists():
        return {}
    rows = [
        Examined(**json.loads(one))
        for one in read_text(path, max_bytes=MAX_BYTES, error=RecordError).splitlines()
    ]
    return {row.case.name: row for row in rows}


class RecordError(DetourError):
    """The record cannot be read."""


def write_record(path: Path, rows: Mapping[str, Examined]) -> None:
    """Write the record, ordered by name, in place of the one that is there."""
    write_text(path, "".join(json.dumps(asdict(rows[name])) + "\n" for name in sorted(rows)))


def judged(lines: Sequence[Line], with_words: Sequence[Line], *, date: str) -> dict[str, Examined]:
    """Rows of runs that were judged both ways, by the rules as they are."""
    rules, rows = rules_digest(), {}
    others = {one.case.name: one for one in with_words}  # more runs may have come while the first were judged
    for line in lines:
        assert line.judgement is not None
        case, way, other = line.case, line.judgement.way, others[line.case.name]
        rows[case.name] = Examined(
            goal=case.goal, look=case.look, condition=case.condition, seed=case.seed, verdict=line.verdict,
            with_words=other.verdict, way=None if way is None else round(way.share, 3), rules=rules, date=date,
        )  # fmt: skip
    return rows


def changes(before: Mapping[str, Examined], after: Mapping[str, Examined]) -> Iterator[str]:
    """What is new or other in the record, a sentence for each run whose verdict changed and one for all new ones."""
    new = [name for name in after if name not in before]
    if new:
        yield f"{len(new)} runs are new"
    for name in sorted(set(before) & set(after)):
        old, now = before[name], after[name]
        for what, was, is_now in (
            ("captions alone", old.verdict, now.verdict),
            ("with the base's words", old.with_words, now.with_words),
        ):
            if was != is_now:
                yield f"{name}, {what}: {was} became {is_now}"


def rules_digest() -> str:
    """Eight hexadecimal digits that change when the code of the rules does, and not when its comments do."""
    digest = hashlib.sha256()
    for name in sorted(_imported_by("judgement", set())):
        tree = ast.parse((EVALUATION / f"{name}.py").read_text(encoding="utf-8"))
        digest.update(f"{name}\n{ast.dump(_without_docstrings(tree))}\n".encode())
    return digest.hexdigest()[:8]


def _imported_by(name: str, found: set[str]) -> set[str]:
    """Modules of the evaluation that a module needs, itself among them."""
    if name in found or not (EVALUATION / f"{name}.py").exists():
        return found
    found.add(name)
    for node in ast.walk(ast.parse((EVALUATION / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("detour.evaluation"):
            rest = (node.module or "").removeprefix("detour.evaluation").lstrip(".")
            for needed in [rest] if rest else [one.name for one in node.names]:
                _imported_by(needed, found)
    return found


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
            ]
    return tree
