"""Results of recipes as people read them on a terminal, or as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detour.printable import printable, printable_json

if TYPE_CHECKING:
    from rich.table import Table

    from detour.evaluation.proof import Proof
    from detour.recipes.generate_pictures import GenerateResult
    from detour.recipes.list_runs import RunSummary
    from detour.recipes.push_run import PushResult
    from detour.recipes.run_demo import DemoResult
    from detour.recipes.train_adapter import TrainResult


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    echo_json(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def echo_json(document: str) -> None:
    """A JSON document on stdout; signs that would steer the terminal are escaped, which JSON reads as the same."""
    click.echo(printable_json(document))


def print_table(table: "Table") -> None:
    """A rich table on stdout, as wide as the terminal (100 columns in a pipe)."""
    import shutil

    from rich.console import Console

    Console(width=max(shutil.get_terminal_size((100, 24)).columns, 80)).print(table)


def table_of(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> "Table":
    """A plain table; a column is (heading, ``left`` or ``right``)."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for heading, justify in columns:
        table.add_column(
            heading, justify="right" if justify == "right" else "left", no_wrap=justify == "right"
        )
    for row in rows:
        table.add_row(*(escape(printable(cell, keep="\n")) for cell in row))
    return table


def bytes_text(count: int) -> str:
    """``3.2 MB``, decimal units as file managers show them."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


VERDICTS = {
    "learned": "LEARNED: something measured got better, and nothing measured got worse",
    "no_effect": "NO EFFECT: pictures with and without the adapter are the same",
    "forgot_prompts": "FORGOT PROMPTS: the adapter has an effect, but prompts are no longer kept",
    "overfit": "OVERFIT: better on the training pictures, worse on those kept out",
    "copies": "COPIES: pictures repeat the training pictures",
    "collapsed": "COLLAPSED: different prompts give nearly the same picture",
    "inconclusive": "INCONCLUSIVE: an effect, but no proof that it is the one that was asked for",
}


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
        click.echo(
            f"style distance  {style.base:.4f} without, {style.adapter:.4f} with "
            f"(true pictures of the style: {style.ceiling:.4f}); {held_out.prompts} held-out prompts"
        )
    if held_out.prompt_accuracy is not None:
        sides = held_out.prompt_accuracy
        rows = [
            (
                part,
                *(f"{getattr(side, part):.0%}" for side in (sides.base, sides.adapter, sides.ceiling)),
            )
            for part in ("object", "colour", "place")
        ]
        heads = [("prompt kept", "left"), ("base", "right"), ("adapter", "right"), ("true pictures", "right")]
        print_table(table_of("", heads, rows))
    click.secho(VERDICTS[proof.verdict], bold=True)
    for reason in proof.reasons:
        click.echo(f"  {reason}")
    click.echo(f"look at {run / 'report.html'}")


def show_demo_result(result: "DemoResult", *, as_json: bool) -> None:
    """``detour demo``: the proof, then where to look."""
    from detour.cli.progress import duration_text

    if as_json:
        print_json(
            {
                "folder": str(result.folder),
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
        f'  try          detour generate "a red house in the desert" --lora {result.adapter_file} --compare'
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
    """``detour generate``: the files, and how far the adapters moved them."""
    if as_json:
        echo_json(result.to_json())
        return
    for file in result.files:
        click.echo(str(file.path))
    if result.mean_abs_diff is not None:
        click.echo(f"with against without: {result.mean_abs_diff:.2f} of 255 on average")
    for note in result.notes:
        click.echo(f"note: {note}")


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
