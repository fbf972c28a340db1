"""An evaluation as people read it on a terminal, or as JSON."""

from typing import TYPE_CHECKING

import click

from detour.cli.results import echo_json, print_table, show_answers, show_verdict, table_of

if TYPE_CHECKING:
    from detour.evaluation.compared import Compared
    from detour.evaluation.copies import CopyFigures
    from detour.evaluation.drift import Drift
    from detour.verbs.judge.evaluation_run import EvaluationResult

SIDES = (
    ("base", "base"), ("adapter", "adapter"), ("rate_zero", "rate 0"), ("shuffled", "shuffled"),
    ("no_prior", "no class pictures"), ("ceiling", "true"),
)  # fmt: skip
"""Field of a compared figure → heading."""

Row = tuple[str, "Compared", str]


def show_evaluation(result: "EvaluationResult", *, as_json: bool) -> None:
    """``detour evaluate``: figures beside their controls, then the verdict with its reasons, then the requirements."""
    evaluation = result.evaluation
    if as_json:
        echo_json(evaluation.model_dump_json(indent=2, by_alias=True))
        return
    from detour.evaluation.answer_page import subject_rows

    judged = evaluation.judged
    click.echo(f"{judged.adapter} on {judged.base}, judged by {judged.judge or 'nobody'}")
    seeds = "1 seed" if evaluation.seeds == 1 else f"{evaluation.seeds} seeds"
    click.echo(f"{evaluation.prompts_from} {seeds} each, the same on every side.")
    if rows := _rows(result):
        shown = [
            (field, head) for field, head in SIDES if any(getattr(row[1], field) is not None for row in rows)
        ]
        heads = [("figure", "left"), *((head, "right") for _, head in shown)]
        cells = [
            (name, *(_cell(getattr(figure, field), form) for field, _ in shown))
            for name, figure, form in rows
        ]
        print_table(table_of("", heads, cells))
    pixels = evaluation.pixels
    click.echo(
        f"pixels moved     {pixels.mean_abs_diff:.2f} of 255 over {pixels.pictures} pictures "
        f"(noise floor {pixels.noise_floor:.2g})"
    )
    if evaluation.drift is not None:
        _show_drift("unrelated", evaluation.drift.without_trigger)
        if evaluation.drift.with_trigger is not None:
            _show_drift("with trigger", evaluation.drift.with_trigger)
    _show_copies("copies", "training pictures", evaluation.copies)
    _show_copies("recited", "training pictures, asked with their captions", evaluation.recited)
    _show_copies("reproduced", "reference pictures", evaluation.reproduced)
    for sentence in evaluation.marks.sentences():
        click.echo(f"marks            {sentence}")
    if evaluation.checkpoints is not None:
        compared = evaluation.checkpoints
        click.echo(f"checkpoints      {len(compared.checkpoints)} compared. {compared.reason}")
    show_answers(evaluation.answers)
    for name, value in subject_rows(evaluation.answers):
        click.echo(f"{name}: {value}")
    show_verdict(evaluation, (*evaluation.reasons, *evaluation.notes))
    for one in evaluation.requirements:
        from detour.evaluation.requirements import answer_text

        click.echo(answer_text(one))
    click.echo(f"look at {result.report}; all figures are in {result.folder / 'evaluation.json'}")


def show_figures() -> None:
    """``detour evaluate --figures``: what can be required."""
    from detour.evaluation.requirements import FIGURES

    heads = [("figure", "left"), ("what it is", "left")]
    print_table(table_of("", heads, [(one.name, one.text) for one in FIGURES]))


def _rows(result: "EvaluationResult") -> list[Row]:
    from detour.evaluation.answer_page import marked

    evaluation, rows = result.evaluation, list[Row]()
    if evaluation.fidelity is not None:
        fidelity = evaluation.fidelity
        rows += [
            ("distance to the references (MMD)", fidelity.style_distance, ".4f"),
            ("the same on CMMD's scale", fidelity.cmmd, ".3f"),
            ("similarity to the references", fidelity.similarity, ".3f"),
        ]
        if fidelity.frechet is not None:
            rows.append(("Fréchet distance", fidelity.frechet, ".3f"))
    if evaluation.prompt_keeping is not None:
        kept = evaluation.prompt_keeping
        rows.append(("CLIP score", kept.clip_score, ".2f"))
        rows += [
            (f"{marked(name, evaluation.answers)} as asked for", part.share, ".0%")
            for name, part in (kept.parts or {}).items()
        ]
    if evaluation.diversity is not None:
        for name, spread in (
            ("spread within a prompt", evaluation.diversity.within_prompt),
            ("spread across prompts", evaluation.diversity.across_prompts),
        ):
            if spread is not None:
                rows.append((f"{name} (judge)", spread.judge, ".3f"))
    return rows


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _show_copies(name: str, of: str, copies: "CopyFigures | None") -> None:
    if copies is None:
        return
    share = copies.share
    true = "" if share.ceiling is None else f"; of true pictures {share.ceiling:.0%}"
    click.echo(
        f"{name:<16} {share.adapter:.0%} of the pictures copy one of {copies.originals} {of}; of the base's "
        f"{share.base:.0%}{true} ({copies.scale.sentence().rstrip('.')})"
    )


def _show_drift(name: str, drift: "Drift") -> None:
    moved = drift.judge
    seeds = "" if moved.share is None else f", {moved.share:.0%} of what another seed of the base does"
    controls = "".join(
        f"; {head} {value:.3f}"
        for head, value in (
            ("rate 0", moved.rate_zero),
            ("shuffled", moved.shuffled),
            ("no class pictures", moved.no_prior),
        )
        if value is not None
    )
    click.echo(
        f"{name:<16} {drift.prompts} unrelated prompts moved by {moved.adapter:.3f} (1 - cosine{seeds}{controls}), "
        f"CLIP score {drift.clip_score.base:.1f} to {drift.clip_score.adapter:.1f}"
    )
