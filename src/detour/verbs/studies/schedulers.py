"""Samplers over step counts: what a step buys, and the fewest that are good enough."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detour.errors import ConfigError
from detour.generation.schedulers import FLOW_SAMPLERS, pick_sampler
from detour.specs.generation import SchedulerName
from detour.specs.studies import StudySpec
from detour.verbs.progress import ProgressFn, silent
from detour.verbs.studies.engine import CellStore, Experiment, Measure, Measured, Variant, run_cells
from detour.verbs.studies.figures import Panel, Series
from detour.verbs.studies.result import StudyResult, with_withheld, write_study
from detour.verbs.studies.screened import CellPictures, ScreenedPictures
from detour.verbs.studies.studio import Studio
from detour.verbs.studies.table import Row, Table, tabulate

SAMPLERS: tuple[SchedulerName, ...] = ("ddpm", "ddim", "pndm", "euler", "dpm++")

REFERENCE = "reference"
REFERENCE_SAMPLER: SchedulerName = "dpm++"
REFERENCE_STEPS = 200

CLIP_MARGIN = 0.02
"""Good enough: the CLIP score falls behind the reference's by less than this, with the scatter counted in."""

SAME_PICTURE = 0.25
"""Largest distance to the reference that counts as the same picture, as a share of the distance to another seed's."""


def study_schedulers(
    spec: StudySpec,
    *,
    out: Path,
    steps: Sequence[int] = (10, 20, 30, 50),
    samplers: Sequence[SchedulerName] | None = None,
    reference_steps: int = REFERENCE_STEPS,
    budget_s: float | None = None,
    force: bool = False,
    progress: ProgressFn = silent,
) -> StudyResult:
    """Draw the same prompts and seeds with each sampler at each number of steps.

    Args:
        spec: prompts, seeds, base; with an adapter, it is switched on in all cells.
        out: folder of the experiment; gone on with where it stands.
        steps: numbers of steps.
        samplers: by name; ``None``: all that can draw with the base.
        reference_steps: of DPM++ 2M, which every picture is compared with.
        budget_s: seconds a picture; the finding then names what draws best within it.
        force: begin again where the folder holds other settings.
        progress: told after each cell.

    Raises:
        ConfigError: nothing to compare, or the folder holds something else.
        BaseError, AdapterError: they cannot be opened or do not fit.
    """
    if not steps or samplers == () or min(steps) < 1:
        raise ConfigError("name at least one sampler and one number of steps, e.g. --steps 10,20.")
    studio = Studio.open(spec)
    if samplers is None:
        samplers = [name for name in SAMPLERS if name in FLOW_SAMPLERS or not studio.base.is_flow]
    samplers = [pick_sampler(name, studio.base.scheduler_config()) for name in samplers]
    reference = Variant(
        name=REFERENCE,
        settings={"sampler": REFERENCE_SAMPLER, "steps": reference_steps},
        cost=float(reference_steps),
    )
    variants = [
        Variant(
            name=f"{_file_name(sampler)}-{count}",
            settings={"sampler": sampler, "steps": count},
            cost=float(count),
        )
        for sampler in samplers
        for count in sorted(set(steps))
    ]
    experiment = Experiment(
        name="schedulers",
        variants=[reference, *variants],
        seeds=studio.seeds,
        settings=studio.settings(reference=dict(reference.settings)),
    )
    store = run_cells(
        experiment,
        lambda store: _measure(studio, store, [reference, *variants]),
        out=out,
        force=force,
        progress=progress,
    )
    table = tabulate(experiment, store.of(experiment), reference=REFERENCE)
    shown = [_picture_row(store, table, sampler, studio) for sampler in samplers]
    result = write_study(
        out,
        table,
        finding_of(table, budget_s=budget_s),
        title=f"Samplers on {studio.base.identity}: {len(studio.prompts)} prompts × {len(studio.seeds)} seeds",
        panels=_panels(table, samplers, sorted(set(steps))),
        sheet=shown,
        columns=[
            *(f"{count} steps" for count in sorted(set(steps))),
            f"{REFERENCE_SAMPLER}, {reference_steps} steps",
        ],
    )
    return with_withheld(result, store.of(experiment), policy=studio.screening.version)


def _file_name(sampler: str) -> str:
    return sampler.replace("++", "pp")


def _measure(studio: Studio, store: CellStore, variants: Sequence[Variant]) -> Measure:
    seconds, _ = 0.0, studio.engine  # loaded here: its time is none of a picture's

    def draw(variant: Variant, seed: int) -> ScreenedPictures:
        nonlocal seconds
        how = studio.spec.picture.model_copy(
            update={"scheduler": variant.settings["sampler"], "steps": variant.settings["steps"]}
        )
        began = time.monotonic()
        drawn = studio.draw(seed, how, adapters=studio.adapters)
        seconds = (time.monotonic() - began) / len(drawn)
        return studio.screened(seed, drawn)

    cells = CellPictures(store=store, variants=variants, draw_cell=draw)

    def measure(variant: Variant, seed: int) -> Measured:
        pictures = cells.draw(variant, seed)
        samples = studio.scores(pictures) | {"seconds": [seconds]}
        if variant.name != REFERENCE:
            samples |= studio.distances(pictures, cells.of(REFERENCE, seed))
        elif (REFERENCE, seed - 1) in store:
            apart = studio.distances(pictures, cells.of(REFERENCE, seed - 1))
            samples |= {f"another_seed_{name}": values for name, values in apart.items()}
        return cells.measured(variant, seed, samples, pictures)

    return measure


def good_enough(row: Row) -> bool:
    """Whether the CLIP score is surely no more than :data:`CLIP_MARGIN` behind the reference's."""
    gap = row.figures["clip"].gap
    return gap is not None and gap.low is not None and gap.low >= -CLIP_MARGIN


def finding_of(table: Table, *, budget_s: float | None) -> str:
    """What the table says: the fewest steps of each sampler, and what fits the budget."""
    rows = [row for row in table.rows if row.variant != table.reference]
    fewest: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: int(row.settings["steps"])):
        if good_enough(row):
            fewest.setdefault(str(row.settings["sampler"]), int(row.settings["steps"]))
    apart = table.row(table.reference).figures.get("another_seed_judge_distance")
    same: dict[str, int] = {}
    if apart is not None:
        for row in sorted(rows, key=lambda row: int(row.settings["steps"])):
            if row.figures["judge_distance"].mean <= SAME_PICTURE * apart.mean:
                same.setdefault(str(row.settings["sampler"]), int(row.settings["steps"]))
    sentences = []
    if fewest:
        least = min(fewest.values())
        names = ", ".join(f"{name} {count}" for name, count in sorted(fewest.items(), key=lambda one: one[1]))
        sentences.append(
            "Fewest steps at which prompts are kept as well as in "
            f"{table.row(table.reference).settings['steps']} steps (CLIP score at most {CLIP_MARGIN:g} lower): "
            f"{names}; so {least} are enough."
        )
    else:
        sentences.append(
            f"No number of steps that was tried keeps prompts surely as well as the reference (within {CLIP_MARGIN:g} "
            "of its CLIP score): try more steps, or more prompts and seeds."
        )
    if apart is not None:
        missed = sorted({str(row.settings["sampler"]) for row in rows} - set(same))
        names = ", ".join(f"{name} {count}" for name, count in sorted(same.items(), key=lambda one: one[1]))
        ends = f"never, up to {max(int(row.settings['steps']) for row in rows)} steps: {', '.join(missed)}"
        parts = [part for part in (names, ends if missed else "") if part]
        sentences.append(f"The reference's own picture is drawn from these steps on: {'; '.join(parts)}.")
    if budget_s is not None:
        sentences.append(_within(rows, budget_s))
    return " ".join(sentences)


def _within(rows: Sequence[Row], budget_s: float) -> str:
    fitting = [row for row in rows if row.figures["seconds"].mean <= budget_s]
    if not fitting:
        quickest = min(rows, key=lambda row: row.figures["seconds"].mean)
        return (
            f"Nothing fits {budget_s:g} s a picture; the quickest, {_spoken(quickest)}, took "
            f"{quickest.figures['seconds'].mean:.2f} s."
        )
    best = min(fitting, key=lambda row: row.figures["judge_distance"].mean)
    return (
        f"Within {budget_s:g} s a picture, {_spoken(best)} comes nearest to the reference "
        f"({best.figures['seconds'].mean:.2f} s)."
    )


def _spoken(row: Row) -> str:
    return f"{row.settings['sampler']} with {row.settings['steps']} steps"


def _panels(table: Table, samplers: Sequence[str], steps: Sequence[int]) -> list[Panel]:
    reference = table.row(table.reference).figures
    apart = {name: reference.get(f"another_seed_{name}") for name in ("judge_distance", "pixels")}

    def lines(figure: str) -> list[Series]:
        return [
            Series(
                name=sampler,
                points=[
                    (int(row.settings["steps"]), row.figures[figure])
                    for row in table.rows
                    if row.settings["sampler"] == sampler and row.variant != table.reference
                ],
            )
            for sampler in samplers
        ]

    def panel(figure: str, title: str, y_label: str, *levels: tuple[str, float], log: str = "x") -> Panel:
        return Panel(
            title=title,
            x_label="steps",
            y_label=y_label,
            series=lines(figure),
            levels=levels,
            ticks=steps,
            log=log,
        )

    other = {name: [("another seed", figure.mean)] if figure else [] for name, figure in apart.items()}
    panels = [
        panel("clip", "Prompts kept", "CLIP score (cosine)", ("reference", reference["clip"].mean)),
        panel(
            "judge_distance", "Distance to the reference", "1 − cosine of CLIP features",
            *other["judge_distance"], log="xy",
        ),
        panel("pixels", "Distance to the reference", "pixels (0 to 255)", *other["pixels"], log="xy"),
        panel("seconds", "Time", "seconds a picture", log="xy"),
    ]  # fmt: skip
    if "object" in reference:
        panels.insert(
            1, panel("object", "Right object", "share of pictures", ("reference", reference["object"].mean))
        )
    return panels


def _picture_row(store: CellStore, table: Table, sampler: str, studio: Studio) -> tuple[str, np.ndarray]:
    """The first prompt at the first seed, at each number of steps, and the reference."""
    seed = table.seeds[0]
    names = [
        row.variant for row in table.rows if row.settings["sampler"] == sampler and row.variant != REFERENCE
    ]
    pictures = [store.pictures(name, seed)[0] for name in (*names, REFERENCE)]
    return f"{sampler}: {studio.prompts[0]}", np.stack(pictures)
