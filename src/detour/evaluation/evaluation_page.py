"""Content of an evaluation's page: a few important figures, tables of all figures, and charts."""

from collections.abc import Sequence
from dataclasses import dataclass

from detour.evaluation.answer_page import between, marked
from detour.evaluation.checkpoints import CheckpointFigures
from detour.evaluation.compared import Compared
from detour.evaluation.copies import CopyFigures
from detour.evaluation.drift import Drift, Moved
from detour.evaluation.evaluation import Evaluation
from detour.evaluation.judgement import chance_in_words
from detour.evaluation.metric import all_metrics
from detour.evaluation.plots import Curve, Role, bar_chart, line_chart

COLUMNS: tuple[tuple[Role, str], ...] = (
    ("adapter", "adapter"),
    ("base", "base"),
    ("rate_zero", "rate 0"),
    ("shuffled", "shuffled captions"),
    ("no_prior", "no class pictures"),
    ("ceiling", "true pictures"),
)
"""Sides in the order of the table's columns."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One figure in large letters, with the figure that it is compared with."""

    value: str
    name: str
    control: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of every side; the cell of a side without it is empty."""

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Figures that answer one question, with a column for each side that has any of them."""

    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]


def tiles_of(evaluation: Evaluation) -> list[Tile]:
    """The most important figures; those that were not measured are left out."""
    found = []
    if evaluation.answers is not None:
        found += [
            Tile(
                value=f"{way.share:.0%}",
                name=f"of the way from the base's pictures to {whose}",
                control=between(way).strip(" ()") or "no limits: too few pictures, or too short a way",
            )
            for whose, way in (
                ("yours", evaluation.answers.way),
                (
                    "the subject's",
                    None if evaluation.answers.subject is None else evaluation.answers.subject.taken,
                ),
            )
            if way is not None
        ]
    if evaluation.prompt_keeping:
        found.append(_prompts_tile(evaluation))
    drift = None if evaluation.drift is None else evaluation.drift.without_trigger
    if drift is not None and (share := drift.judge.share) is not None:
        found.append(
            Tile(
                value=f"{share:.1f}×",
                name="as far as another seed of the base: drift on unrelated prompts",
                control=f"{drift.judge.adapter:.3f} against {drift.judge.other_seeds:.3f} (1 − cosine)",
            )
        )
    if evaluation.diversity and (spread := evaluation.diversity.within_prompt):
        found.append(
            Tile(
                value=f"{spread.kept():.1f}×",
                name="the variety within a prompt that it should have",
                control=f"{spread.pixels.adapter:.1f} of 255, base {spread.pixels.base:.1f}",
            )
        )
    if copies := evaluation.copies:
        found.append(
            Tile(
                value=f"{copies.share.adapter:.0%}",
                name="of the pictures are copies",
                control=f"base {copies.share.base:.0%}, of {copies.originals} training pictures",
            )
        )
    return found


def _prompts_tile(evaluation: Evaluation) -> Tile:
    keeping = evaluation.prompt_keeping
    assert keeping is not None
    parts = {
        name: part for name, part in (keeping.parts or {}).items() if name == marked(name, evaluation.answers)
    }
    if not parts:
        score = keeping.clip_score
        return Tile(value=f"{score.adapter:.1f}", name="CLIP score", control=f"base {score.base:.1f} of 100")
    name, part = min(parts.items(), key=lambda item: item[1].share.adapter - item[1].share.base)
    share = part.share
    ceiling = "" if share.ceiling is None else f", true pictures {share.ceiling:.0%}"
    return Tile(
        value=f"{share.adapter:.0%}",
        name=f"of the pictures keep the {name}",
        control=f"base {share.base:.0%}{ceiling}",
    )


def tables_of(evaluation: Evaluation) -> list[Table]:
    """Every figure with its controls; those that were not measured are left out."""
    tables = [
        _fidelity(evaluation),
        _prompts(evaluation),
        *_drift(evaluation),
        _diversity(evaluation),
        _copies("Copies of training pictures", evaluation.copies),
        _copies("Copies of training pictures, asked with their captions", evaluation.recited),
        _copies("Copies of pictures that must not be reproduced", evaluation.reproduced),
        _further(evaluation),
    ]
    return [table for table in tables if table is not None and table.rows]


def _further(evaluation: Evaluation) -> Table | None:
    known = [one for one in all_metrics() if one.name in evaluation.metrics]
    rows = [(one.name, evaluation.metrics[one.name], f"{{:{one.form}}}") for one in known]
    return _table("Further figures", " ".join(one.note for one in known), rows) if rows else None


def _fidelity(evaluation: Evaluation) -> Table | None:
    figures = evaluation.fidelity
    if figures is None:
        return None
    rows: list[tuple[str, Compared, str]] = [
        ("distance to the references (squared MMD; less is nearer)", figures.style_distance, "{:.4f}"),
        ("the same on the scale of CMMD", figures.cmmd, "{:.3f}"),
        ("similarity to the references (cosine; more is nearer)", figures.similarity, "{:.3f}"),
        ("p that a side and the references are alike", figures.told_apart_p, "{:.3f}"),
    ]
    if figures.frechet is not None:
        rows.append(("Fréchet distance", figures.frechet, "{:.2f}"))
    return _table(
        "Fidelity",
        f"Against {figures.references} reference pictures. That the adapter came nearer to them than the base: "
        f"{chance_in_words(figures.nearer_p)}. The distance is biased: sets of few pictures lie further apart, true "
        f"pictures too, so compare columns and not runs. {figures.frechet_left_out or ''}",
        rows,
    )


def _prompts(evaluation: Evaluation) -> Table | None:
    keeping = evaluation.prompt_keeping
    if keeping is None:
        return None
    rows: list[tuple[str, Compared, str]] = [("CLIP score (cosine × 100)", keeping.clip_score, "{:.2f}")]
    rows += [
        (f"{marked(name, evaluation.answers)} as asked for", part.share, "{:.0%}")
        for name, part in (keeping.parts or {}).items()
    ]
    change = keeping.clip_change
    interval = "" if change.low is None else f", between {change.low:+.2f} and {change.high:+.2f} with 95 %"
    return _table(
        "Prompts kept",
        f"{keeping.prompts} prompts × {keeping.seeds} seeds, read before the style's common offset is removed. "
        f"The CLIP score changed by {change.mean:+.2f}{interval}.",
        rows,
    )


def _drift(evaluation: Evaluation) -> list[Table]:
    if evaluation.drift is None:
        return []
    found = [_drift_table("Drift on unrelated prompts", evaluation.drift.without_trigger)]
    if evaluation.drift.with_trigger is not None:
        found.append(_drift_table("The same prompts with the trigger", evaluation.drift.with_trigger))
    return found


def _drift_table(title: str, drift: Drift) -> Table:
    def moved(figure: Moved) -> Compared:
        return Compared(
            adapter=figure.adapter, base=0.0, rate_zero=figure.rate_zero, shuffled=figure.shuffled,
            no_prior=figure.no_prior,
        )  # fmt: skip

    rows: list[tuple[str, Compared, str]] = [
        ("moved from the base (1 − cosine)", moved(drift.judge), "{:.3f}"),
        ("moved from the base (pixels, of 255)", moved(drift.pixels), "{:.1f}"),
        ("CLIP score (cosine × 100)", drift.clip_score, "{:.2f}"),
    ]
    rows += [(f"{name} as asked for", part.share, "{:.0%}") for name, part in (drift.parts or {}).items()]
    others = drift.judge.other_seeds
    control = "" if others is None else f" Another seed of the base moves by {others:.3f} (1 − cosine)."
    return _table(title, f"{drift.prompts} prompts × {drift.seeds} seeds.{control}", rows)


def _diversity(evaluation: Evaluation) -> Table | None:
    figures = evaluation.diversity
    if figures is None:
        return None
    rows: list[tuple[str, Compared, str]] = []
    for name, spread in (
        ("of one prompt", figures.within_prompt),
        ("across prompts", figures.across_prompts),
    ):
        if spread is not None:
            rows.append((f"pictures {name} differ by (1 − cosine)", spread.judge, "{:.3f}"))
            rows.append((f"pictures {name} differ by (pixels, of 255)", spread.pixels, "{:.1f}"))
    return _table("Variety", f"{figures.prompts} prompts × {figures.seeds} seeds; means over pairs.", rows)


def _copies(title: str, figures: CopyFigures | None) -> Table | None:
    if figures is None:
        return None
    rows: list[tuple[str, Compared, str]] = [
        ("pictures that are copies", figures.share, "{:.0%}"),
        ("median distance to the nearest original", figures.nearest, "{:.3f}"),
    ]
    cut = "" if figures.judge_cut is None else f" {figures.judge_cut.sentence()}"
    return _table(
        title,
        f"{figures.originals} originals. A copy is nearer than {figures.scale.threshold:.3f}: "
        f"{figures.scale.sentence()}{cut}",
        rows,
    )


def _table(title: str, note: str, rows: Sequence[tuple[str, Compared, str]]) -> Table:
    """Table with the columns that at least one row fills."""
    filled = [
        (role, name)
        for role, name in COLUMNS
        if any(getattr(figure, role) is not None for _, figure, _ in rows)
    ]

    def cell(figure: Compared, role: Role, form: str) -> str:
        value = getattr(figure, role)
        return "–" if value is None else form.format(value)

    return Table(
        title=title,
        note=note.strip(),
        heads=tuple(name for _, name in filled),
        rows=tuple(
            Row(name=name, cells=tuple(cell(figure, role, form) for role, _ in filled))
            for name, figure, form in rows
        ),
    )


def fidelity_chart(evaluation: Evaluation) -> str:
    """Chart of the distance to the references on every side."""
    if evaluation.fidelity is None:
        return ""
    return bar_chart(
        [("", _bars(evaluation.fidelity.style_distance))],
        title="Distance to the reference pictures",
        x_label="distance to the references (squared MMD; shorter is nearer)",
        percent=False,
    )


def prompts_chart(evaluation: Evaluation) -> str:
    """Chart of the share of pictures that show each part of their prompt, on every side."""
    if evaluation.prompt_keeping is None or not evaluation.prompt_keeping.parts:
        return ""
    parts = evaluation.prompt_keeping.parts.items()
    rows = [
        (marked(name, evaluation.answers).replace(" ", "\n", 1), _bars(part.share)) for name, part in parts
    ]
    return bar_chart(
        rows,
        title="Parts of the prompts that are kept",
        x_label="share of pictures that show what was asked for",
        percent=True,
    )


def _bars(figure: Compared) -> list[tuple[Role, str, float]]:
    found: list[tuple[Role, str, float]] = []
    for role, name in (COLUMNS[1], COLUMNS[0], *COLUMNS[2:]):
        value = getattr(figure, role)
        if value is not None:
            found.append((role, name, value))
    return found


def checkpoint_charts(figures: CheckpointFigures) -> list[str]:
    """Charts of fidelity and of the held-out loss over the checkpoints, with the chosen step marked."""
    steps = figures.checkpoints
    distance: list[Curve] = []
    scored = [(one.step, one.style_distance) for one in steps if one.style_distance is not None]
    if scored:
        distance = [
            Curve(name="adapter", role="adapter", points=[(s, d.adapter) for s, d in scored], dots=True),
            Curve(name="base", role="base", points=[(s, d.base) for s, d in scored]),
        ]
        if all(d.ceiling is not None for _, d in scored):
            true = [(float(s), float(d.ceiling or 0.0)) for s, d in scored]
            distance.append(Curve(name="true pictures", role="ceiling", points=true))
    loss = [(one.step, one.held_out_loss) for one in steps if one.held_out_loss is not None]
    charts = [
        line_chart(
            distance,
            title="Distance to the reference pictures over the checkpoints",
            x_label="training step (dotted: the one to ship)",
            y_label="squared MMD",
            marked=figures.chosen_step,
        ),
        line_chart(
            [Curve(name="pictures kept out", role="validation", points=loss, dots=True)],
            title="Loss on pictures kept out over the checkpoints",
            x_label="training step (dotted: the one to ship)",
            y_label="loss (mean squared error)",
            marked=figures.chosen_step,
        ),
    ]
    return [chart for chart in charts if chart]
