"""Guidance scales: how well prompts are kept, and what it costs in colour, variety and artefacts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detour.bases.latents import decode_latents, encode_pictures, to_pixels
from detour.errors import ConfigError
from detour.evaluation.pixels import Pictures
from detour.specs.studies import StudySpec
from detour.verbs.progress import ProgressFn, silent
from detour.verbs.studies.engine import CellStore, Experiment, Measure, Measured, Variant, run_cells
from detour.verbs.studies.figures import Panel, Series
from detour.verbs.studies.result import StudyResult, with_withheld, write_study
from detour.verbs.studies.screened import CellPictures, ScreenedPictures
from detour.verbs.studies.studio import Studio, colours_of
from detour.verbs.studies.table import Row, Table, tabulate

SCALES = (1.0, 3.0, 5.0, 7.5, 12.0, 20.0)

TRUE = "true"
"""The control: pictures that the embedded base's world draws itself."""


def study_guidance(
    spec: StudySpec,
    *,
    out: Path,
    scales: Sequence[float] = SCALES,
    force: bool = False,
    progress: ProgressFn = silent,
) -> StudyResult:
    """Draw the same prompts and seeds at each guidance scale.

    Args:
        spec: prompts, seeds, base; with an adapter, it is switched on in all cells.
        out: folder of the experiment; gone on with where it stands.
        scales: at least two; 1 switches guidance off.
        force: begin again where the folder holds other settings.
        progress: told after each cell.

    Raises:
        ConfigError: nothing to compare, or the folder holds something else.
        BaseError, AdapterError: they cannot be opened or do not fit.
    """
    scales = sorted(set(scales))
    if len(scales) < 2 or scales[0] < 0:
        raise ConfigError("name at least two guidance scales of 0 or more, e.g. --scales 1,3,7.5.")
    studio = Studio.open(spec)
    # Guidance of 1 needs one pass of the UNet instead of two.
    variants = [
        Variant(name=f"cfg-{scale:g}", settings={"scale": scale}, cost=1.0 if scale <= 1 else 2.0)
        for scale in scales
    ]
    if studio.facts:
        variants.append(Variant(name=TRUE, settings={"scale": "true pictures"}, cost=0.1))
    experiment = Experiment(
        name="guidance", variants=variants, seeds=studio.seeds, settings=studio.settings()
    )
    store = run_cells(
        experiment, lambda store: _measure(studio, store, variants), out=out, force=force, progress=progress
    )
    table = tabulate(experiment, store.of(experiment), reference=variants[0].name)
    shown = range(min(4, len(studio.prompts)))
    seed = studio.seeds[0]
    result = write_study(
        out,
        table,
        finding_of(table),
        title=f"Guidance on {studio.base.identity}: {len(studio.prompts)} prompts × {len(studio.seeds)} seeds",
        panels=_panels(table),
        sheet=[
            (studio.prompts[index], np.stack([store.pictures(one.name, seed)[index] for one in variants]))
            for index in shown
        ],
        columns=[
            f"guidance {one.settings['scale']:g}" if one.name != TRUE else "true picture" for one in variants
        ],
    )
    return with_withheld(result, store.of(experiment), policy=studio.screening.version)


def _measure(studio: Studio, store: CellStore, variants: Sequence[Variant]) -> Measure:
    engine = studio.engine

    def draw(variant: Variant, seed: int) -> ScreenedPictures:
        if variant.name == TRUE:
            return ScreenedPictures(pictures=studio.true_pictures(seed), withheld={})
        how = studio.spec.picture.model_copy(update={"guidance_scale": variant.settings["scale"]})
        return studio.screened(seed, studio.draw(seed, how, adapters=studio.adapters))

    cells = CellPictures(store=store, variants=variants, draw_cell=draw)

    def measure(variant: Variant, seed: int) -> Measured:
        pictures = cells.draw(variant, seed)
        samples = studio.scores(pictures) | colours_of(pictures)
        samples["round_trip"] = round_trip(engine.vae, pictures)
        if (variant.name, seed - 1) in store:
            apart = studio.distances(pictures, cells.of(variant.name, seed - 1))
            samples["variety"] = apart["judge_distance"]
        return cells.measured(variant, seed, samples, pictures)

    return measure


def round_trip(vae: object, pictures: Pictures) -> list[float]:
    """Mean absolute error (0 to 255) of each picture after the VAE has encoded and decoded it.

    A VAE gives back badly what is beyond its range: artefacts of any kind, but fine true detail too. So it is read
    beside the error of true pictures; a blurred picture is below it.
    """
    mean, _ = encode_pictures(vae, to_pixels(pictures))
    back = decode_latents(vae, mean)
    errors: list[float] = (
        np.abs(back.astype(np.int16) - pictures.astype(np.int16)).mean(axis=(1, 2, 3)).tolist()
    )
    return errors


def _drawn(table: Table) -> list[Row]:
    return [row for row in table.rows if row.variant != TRUE]


def finding_of(table: Table) -> str:
    """What the table says: the scale with the best score, and from where on the price is told from noise."""
    rows = _drawn(table)
    best = max(rows, key=lambda row: row.figures["clip"].mean)
    plain = rows[0]
    better = [
        row
        for row in rows[1:]
        if (gap := row.figures["clip"].gap) is not None and gap.significant and gap.mean > 0
    ]
    sentences = [
        f"Prompts are kept best at guidance {_scale(best)} (CLIP score {best.figures['clip'].mean:.3f}, against "
        f"{plain.figures['clip'].mean:.3f} at {_scale(plain)}"
        + (
            f"; the gain is more than noise from {_scale(better[0])} on)."
            if better
            else "; no scale's gain is more than noise)."
        )
    ]
    sentences.append(
        f"Against guidance {_scale(plain)}: " + "; ".join(_price(table, name) for name in PRICES) + "."
    )
    if "variety" in plain.figures:
        sentences.append(
            f"Two seeds of one prompt lie {plain.figures['variety'].mean:.3f} apart at {_scale(plain)} and "
            f"{rows[-1].figures['variety'].mean:.3f} at {_scale(rows[-1])}."
        )
    return " ".join(sentences)


PRICES = {
    "saturation": "saturation",
    "clipped": "the clipped share",
    "contrast": "contrast",
    "round_trip": "the error of the VAE's round trip",
}


def _price(table: Table, figure: str) -> str:
    """Sentence on the scale above which a figure is surely higher, its largest value, and where it passes true
    pictures'.
    """
    rows = _drawn(table)
    low = rows[0].figures[figure].mean
    higher = [
        row
        for row in rows[1:]
        if (gap := row.figures[figure].gap) is not None and gap.significant and gap.mean > 0
    ]
    if not higher:
        return f"{PRICES[figure]} does not rise beyond noise"
    top = max(higher, key=lambda row: row.figures[figure].mean)
    words = (
        f"{PRICES[figure]} is higher from {_scale(higher[0])} on, at most at {_scale(top)} "
        f"({top.figures[figure].mean:.3g} for {low:.3g}"
    )
    true = next((row.figures[figure].mean for row in table.rows if row.variant == TRUE), None)
    if true is None:
        return words + ")"
    beyond = [row for row in higher if row.figures[figure].mean > true]
    passed = f"passed from {_scale(beyond[0])} on" if beyond else "never passed"
    return f"{words}; true pictures have {true:.3g}, {passed})"


def _scale(row: Row) -> str:
    return f"{row.settings['scale']:g}"


def _panels(table: Table) -> list[Panel]:
    rows = _drawn(table)
    true = next((row for row in table.rows if row.variant == TRUE), None)
    wanted = {
        "clip": ("Prompts kept", "CLIP score (cosine)"),
        "object": ("Right object", "share of pictures"),
        "saturation": ("Saturation", "mean of HSV's S"),
        "clipped": ("Clipped", "share of channel values at an end"),
        "round_trip": ("Artefacts and detail", "VAE round-trip error (0 to 255)"),
        "variety": ("Variety of two seeds", "1 − cosine of CLIP features"),
    }
    ticks = [float(row.settings["scale"]) for row in rows]
    return [
        Panel(
            title=title, x_label="guidance scale", y_label=y_label, ticks=ticks,
            series=[Series(name="drawn", points=[(float(row.settings["scale"]), row.figures[name]) for row in rows])],
            levels=[("true pictures", true.figures[name].mean)] if true and name in true.figures else [],
        )
        for name, (title, y_label) in wanted.items()
        if name in rows[0].figures
    ]  # fmt: skip
