"""Results of verbs as people read them on a terminal, or as JSON."""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detour.printing import printable, printable_json

if TYPE_CHECKING:
    from rich.table import Table

    from detour.evaluation.answers import Answers
    from detour.evaluation.evaluation import Evaluation
    from detour.evaluation.proof import Proof
    from detour.verbs.draw.pictures import GenerateResult
    from detour.verbs.train.demo import DemoResult
    from detour.verbs.train.hub_upload import PushResult
    from detour.verbs.train.run import TrainResult
    from detour.verbs.train.run_list import RunSummary


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    echo_json(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def echo_json(document: str) -> None:
    """A JSON document on stdout; signs that would steer the terminal are escaped, which JSON reads as the same."""
    click.echo(printable_json(document))


@dataclass(frozen=True)
class Rows:
    """A table before it is known how wide the terminal is.

    Attributes:
        title: above it; may be empty.
        columns: (heading, ``left`` or ``right``).
        rows: a cell for each column.
    """

    title: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str]]

    def narrowest(self) -> int:
        """Characters that it takes at least: text may break between words, names and numbers may not."""
        return _together([least for least, _ in self._columns()])

    def widths(self, width: int) -> list[int]:
        """Characters for each column in a table of ``width``: what words need, and the rest where text is longest."""
        columns = self._columns()
        wishes = [natural - least for least, natural in columns]
        spare = max(0, width - self.narrowest())
        share = min(1.0, spare / max(sum(wishes), 1))
        return [least + int(share * wish) for (least, _), wish in zip(columns, wishes, strict=True)]

    def _columns(self) -> list[tuple[int, int]]:
        """(least, natural) number of characters of each column."""
        cells = [
            [heading, *(row[place] for row in self.rows)] for place, (heading, _) in enumerate(self.columns)
        ]
        naturals = [max(len(line) for text in column for line in text.split("\n")) for column in cells]
        return [
            (
                natural
                if justify == "right" or place == 0
                else max(len(word) for text in column for word in text.split() or [""]),
                natural,
            )
            for place, (column, natural, (_, justify)) in enumerate(
                zip(cells, naturals, self.columns, strict=True)
            )
        ]


def _together(widths: Sequence[int]) -> int:
    """Characters of a row whose columns have these widths, with what stands between and around them."""
    return sum(widths) + 3 * (len(widths) - 1) + 2


def terminal_width() -> int:
    """Columns of the terminal, 80 at least; 100 in a pipe."""
    return max(shutil.get_terminal_size((100, 24)).columns, 80)


def print_table(table: Rows) -> None:
    """A table on stdout; where it is wider than the terminal, each row becomes a block of lines."""
    from rich.console import Console

    width = terminal_width()
    if table.narrowest() > width:
        click.echo("\n".join(block_lines(table, width)))
    else:
        Console(width=width).print(_rich(table, width))


def block_lines(table: Rows, width: int) -> list[str]:
    """A table as lines: the first cell of a row alone, below it its other cells with their headings, in full."""
    from textwrap import wrap

    lines = [printable(table.title)] if table.title else []
    heads = [heading for heading, _ in table.columns]
    indent = max((len(heading) for heading in heads[1:]), default=0) + 4
    for row in table.rows:
        lines += ["", printable(row[0]) or "-"]
        for heading, cell in zip(heads[1:], row[1:], strict=True):
            first, *rest = wrap(
                printable(cell, keep="\n"),
                max(width - indent, 20),
                break_long_words=False,
                break_on_hyphens=False,
            ) or [""]
            if first:
                lines += [f"  {heading:<{indent - 2}}{first}", *(" " * indent + line for line in rest)]
    return lines


def _rich(rows: Rows, width: int) -> "Table":
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=printable(rows.title) if rows.title else None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for place, ((heading, justify), wide) in enumerate(zip(rows.columns, rows.widths(width), strict=True)):
        right = justify == "right"
        # Left to itself rich shortens words of one column to give another more room.
        table.add_column(
            heading, justify="right" if right else "left", no_wrap=right or place == 0, width=wide
        )
    for row in rows.rows:
        table.add_row(*(escape(printable(cell, keep="\n")) for cell in row))
    return table


def table_of(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> Rows:
    """A plain table; a column is (heading, ``left`` or ``right``)."""
    return Rows(title, columns, rows)


def bytes_text(count: int) -> str:
    """``3.2 MB``, decimal units as file managers show them."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def show_answers(answers: "Answers | None") -> None:
    """Table of what prompts ask for: lost, kept or unknown; a figure that the judge cannot read is in brackets."""
    from detour.evaluation.answer_page import answer_rows

    def cell(text: str, used: bool) -> str:
        return text if used else f"({text})"

    rows = [
        (row.name, row.answer, *(cell(text, row.used) for text in (row.loss, row.against_base, row.found)))
        for row in answer_rows(answers)
    ]
    if not rows:
        return
    heads = ["what prompts ask for", "answer", "lost", "against the base", "found in: adapter / base / yours"]
    print_table(table_of("", [(head, "left") for head in heads], rows))
    if any(not row.used for row in answer_rows(answers)):
        click.echo("In brackets: the judge cannot read it here, so it does not count.")


def show_verdict(judged: "Proof | Evaluation", sentences: Sequence[str]) -> None:
    """The verdict, its sentences, what cannot be told, and the command that comes next."""
    from detour.evaluation.verdict import HEADLINES

    said = judged.headline or HEADLINES[judged.verdict]
    click.secho(f"{judged.verdict.replace('_', ' ').upper()}: {said}", bold=True)
    for sentence in sentences:
        click.echo(f"  {sentence}")
    if judged.unknown:
        click.echo(f"unknown: {', '.join(judged.unknown)}")
    if judged.next_step:
        click.echo(f"next: {judged.next_step}")


def show_proof(proof: "Proof", *, run: Path, as_json: bool) -> None:
    """``detour prove``: the figures, then the verdict with its reasons."""
    if as_json:
        echo_json(proof.model_dump_json(indent=2, by_alias=True))
        return
    pixels = proof.pixels
    click.echo(
        f"pixels moved    {pixels.mean_abs_diff:.2f} of 255 on average over {pixels.pictures} pictures "
        f"(noise floor {pixels.noise_floor:.2g})"
    )
    if proof.reload.max_abs_diff is not None:
        click.echo(
            f"file read back  differs from the trained model by at most {proof.reload.max_abs_diff} of 255"
        )
    if proof.merge.max_abs_diff is not None:
        click.echo(f"merged          differs from the adapter by at most {proof.merge.max_abs_diff} of 255")
    held_out = proof.held_out
    if held_out.style_distance is not None:
        style = held_out.style_distance
        subject = proof.answers is not None and proof.answers.subject is not None
        click.echo(
            f"{'distance' if subject else 'style distance':<16}{style.base:.4f} without, {style.adapter:.4f} with "
            f"(true pictures: {style.ceiling:.4f}); {held_out.prompts} held-out prompts"
        )
    show_answers(proof.answers)
    show_verdict(proof, proof.reasons)
    click.echo(f"look at {run / 'report.html'}")


def show_demo_result(result: "DemoResult", *, as_json: bool) -> None:
    """``detour demo``: the proof, then where to look."""
    from detour.cli.progress import duration_text

    if as_json:
        print_json(
            {
                "folder": str(result.folder),
                "base": result.base,
                "style": result.style,
                "adapter": str(result.adapter_file),
                "sheet": str(result.sheet),
                "report": str(result.report),
                "seconds": round(result.seconds, 1),
                "proof": json.loads(result.proof.model_dump_json(by_alias=True)),
            }
        )
        return
    click.echo("")
    click.echo(f"{result.style}: a style that the base never saw, learned in {duration_text(result.seconds)}")
    show_proof(result.proof, run=result.folder, as_json=False)
    click.echo(f"  the sheet    {result.sheet}")
    click.echo(f"  the adapter  {result.adapter_file} ({bytes_text(result.adapter_file.stat().st_size)})")
    click.echo(
        f'  try          detour generate "a red house in the desert" --base {result.base} '
        f"--lora {result.adapter_file} --compare"
    )


def show_train_result(result: "TrainResult", *, as_json: bool) -> None:
    """``detour train``: what was trained, where it is, the proof; the notes were shown when they were made."""
    from detour.cli.progress import duration_text

    if as_json:
        echo_json(result.model_dump_json(indent=2, by_alias=True))
        return
    losses = "" if result.val_loss is None else f", validation loss {result.val_loss:.4f}"
    best = "" if result.best_step is None else f", best step {result.best_step} kept"
    click.echo(f"trained {result.steps} steps in {duration_text(result.seconds)}{losses}{best}")
    product = result.adapter_file
    whole = product.is_dir()  # full fine-tuning leaves a base
    files = [path for path in product.rglob("*") if path.is_file()] if whole else [product]
    size = bytes_text(sum(path.stat().st_size for path in files))
    click.echo(f"{'base' if whole else 'adapter'}: {product} ({size})")
    if result.proof is not None:
        show_proof(result.proof, run=result.run_folder, as_json=False)


def show_push_result(result: "PushResult", *, as_json: bool) -> None:
    """``detour push``: where it is, and who sees it."""
    if as_json:
        echo_json(result.model_dump_json(indent=2))
        return
    seen = "private; make it public in its settings there" if result.private else "public"
    click.echo(f"pushed {len(result.files)} files: {result.url} ({seen})")


def show_generate_result(result: "GenerateResult", *, as_json: bool) -> None:
    """``detour generate``: the files, and how far the adapters moved them; a missing safety checker is said once."""
    from detour.verbs.draw.call_notes import NO_CHECKER

    if as_json:
        echo_json(result.to_json())
        return
    for file in result.files:
        click.echo(str(file.path))
    for one in result.withheld:
        click.echo(f"picture {one.number}, '{printable(one.prompt[:60])}' (seed {one.seed}): {one.message}")
    if result.mean_abs_diff is not None:
        click.echo(f"with against without: {result.mean_abs_diff:.2f} of 255 on average")
    for note in result.notes:
        if NO_CHECKER not in note or not said_before(note):
            click.echo(f"note: {note}")


def said_before(note: str) -> bool:
    """Whether this sentence was shown to the user by an earlier command; from now on it was."""
    from hashlib import sha256

    from detour.errors import StorageError
    from detour.files import cache_home, write_text

    mark = cache_home() / "said" / sha256(note.encode()).hexdigest()[:20]
    if mark.exists():
        return True
    with suppress(StorageError):  # where nothing can be kept, it is said again
        write_text(mark, note + "\n")
    return False


def show_runs(runs: Sequence["RunSummary"], *, folder: Path, as_json: bool) -> None:
    """``detour runs``: a line each."""
    if as_json:
        print_json([json.loads(run.model_dump_json()) for run in runs])
        return
    if not runs:
        click.echo(f"no runs in {folder}. Try: detour demo")
        return
    rows = [
        (
            run.name,
            run.state,
            f"{run.step}/{run.steps or '?'}",
            run.verdict or "-",
            run.base,
            run.method,
            "-" if run.val_loss is None else f"{run.val_loss:.4f}",
        )
        for run in runs
    ]
    heads = [("run", "left"), ("state", "left"), ("step", "right"), ("verdict", "left"), ("base", "left")]
    heads += [("method", "left")]
    print_table(table_of("", [*heads, ("validation loss", "right")], rows))
    for run in runs:
        if run.error:
            click.echo(f"{run.name}: {run.error}")
