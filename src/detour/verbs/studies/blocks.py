"""Which blocks carry an adapter: each switched off alone, and each left on alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detour.adapters.adapter import Adapter
from detour.adapters.blocks import block_of, blocks_in_order
from detour.errors import ConfigError
from detour.generation.engine import AdapterInUse
from detour.specs.studies import StudySpec
from detour.verbs.progress import ProgressFn, silent
from detour.verbs.studies.engine import CellStore, Experiment, Measure, Measured, Variant, run_cells
from detour.verbs.studies.figures import Panel, Series
from detour.verbs.studies.result import StudyResult, with_withheld, write_study
from detour.verbs.studies.screened import CellPictures, ScreenedPictures
from detour.verbs.studies.studio import Studio
from detour.verbs.studies.table import Table, leaders, spoken_leaders, tabulate

BASE, FULL = "base", "full"


def study_blocks(
    spec: StudySpec, *, out: Path, force: bool = False, progress: ProgressFn = silent
) -> StudyResult:
    """Draw the same prompts and seeds with each block of the adapter switched off, and with each alone.

    Args:
        spec: prompts, seeds, base, and the adapter.
        out: folder of the experiment; gone on with where it stands.
        force: begin again where the folder holds other settings.
        progress: told after each cell.

    Raises:
        ConfigError: no adapter, one that lives in a single block, or the folder holds something else.
        BaseError, AdapterError: they cannot be opened or do not fit.
    """
    if spec.lora is None:
        raise ConfigError("no adapter: name the file whose blocks are studied.")
    studio = Studio.open(spec)
    assert studio.adapter is not None
    blocks = blocks_in_order(studio.adapter.adapter.layers)
    if len(blocks) < 2:
        raise ConfigError(
            f"the adapter lives in {blocks[0]} alone: there is nothing to switch off beside it."
        )
    variants = [
        Variant(name=BASE, settings={"block": "", "which": BASE}),
        Variant(name=FULL, settings={"block": "", "which": FULL}),
        *(
            Variant(name=f"without-{block}", settings={"block": block, "which": "without"})
            for block in blocks
        ),
        *(Variant(name=f"only-{block}", settings={"block": block, "which": "only"}) for block in blocks),
    ]
    experiment = Experiment(name="blocks", variants=variants, seeds=studio.seeds, settings=studio.settings())
    store = run_cells(
        experiment, lambda store: _measure(studio, store, variants), out=out, force=force, progress=progress
    )
    table = tabulate(experiment, store.of(experiment), reference=FULL)
    seed = studio.seeds[0]
    shown = range(min(2, len(studio.prompts)))
    result = write_study(
        out,
        table,
        finding_of(table, blocks, _strongest(experiment, store, blocks)),
        title=f"{studio.adapter.use.name} on {studio.base.identity}, block by block: "
        f"{len(studio.prompts)} prompts × {len(studio.seeds)} seeds",
        panels=_panels(table, blocks),
        panels_in_row=2,
        sheet=[
            (
                f"{which}: {studio.prompts[index]}",
                np.stack(
                    [store.pictures(name, seed)[index] for name in (BASE, FULL)]
                    + [store.pictures(f"{which}-{block}", seed)[index] for block in blocks]
                ),
            )
            for index in shown
            for which in ("without", "only")
        ],
        columns=["base", "adapter", *blocks],
    )
    return with_withheld(result, store.of(experiment), policy=studio.screening.version)


def of_blocks(adapter: Adapter, variant: Variant) -> Adapter:
    """The layers that the variant leaves on."""
    which, block = variant.settings["which"], variant.settings["block"]
    if which == FULL:
        return adapter
    kept = {
        key: layer
        for key, layer in adapter.layers.items()
        if which != BASE and (block_of(key) == block) == (which == "only")
    }
    return Adapter(kept, adapter.metadata)


def _measure(studio: Studio, store: CellStore, variants: Sequence[Variant]) -> Measure:
    assert studio.adapter is not None
    chosen = studio.adapter

    def draw(variant: Variant, seed: int) -> ScreenedPictures:
        left = of_blocks(chosen.adapter, variant)
        used = [AdapterInUse(adapter=left, weight=chosen.use.weight)] if left.layers else []
        return studio.screened(seed, studio.draw(seed, studio.spec.picture, adapters=used))

    cells = CellPictures(store=store, variants=variants, draw_cell=draw)

    def measure(variant: Variant, seed: int) -> Measured:
        pictures = cells.draw(variant, seed)
        samples = studio.scores(pictures)
        if variant.name not in (BASE, FULL):
            plain, full = cells.of(BASE, seed), cells.of(FULL, seed)
            samples["move"] = studio.share_of_move(pictures, plain, full)
        elif variant.name == FULL:
            samples["move"] = studio.share_of_move(pictures, cells.of(BASE, seed), pictures)
        if variant.name != BASE:
            samples["pixels"] = studio.distances(pictures, cells.of(BASE, seed))["pixels"]
        return cells.measured(variant, seed, samples, pictures)

    return measure


def _strongest(experiment: Experiment, store: CellStore, blocks: Sequence[str]) -> dict[str, list[str]]:
    """``only`` and ``without`` → the blocks of which none is surely weaker than the strongest."""
    cells, strongest = store.of(experiment), {}
    for which in ("only", "without"):
        names = [f"{which}-{block}" for block in blocks]
        alike = leaders(experiment, cells, names, "move", highest=which == "only")
        strongest[which] = [name.removeprefix(f"{which}-") for name in alike]
    return strongest


def finding_of(table: Table, blocks: Sequence[str], strongest: dict[str, list[str]]) -> str:
    """Which block is missed most, which does most alone, and which are not missed."""
    missed = {block: 1 - table.row(f"without-{block}").figures["move"].mean for block in blocks}
    alone = {block: table.row(f"only-{block}").figures["move"].mean for block in blocks}
    gaps = {block: table.row(f"without-{block}").figures["move"].gap for block in blocks}
    idle = [block for block in blocks if (gap := gaps[block]) is not None and not gap.significant]
    most, best = strongest["without"], strongest["only"]
    sentences = [
        f"Most of the adapter is missed without {spoken_leaders(most)}: {missed[most[0]]:.0%} of its move in the "
        f"judge's features. Most is done alone by {spoken_leaders(best)}: {alone[best[0]]:.0%}."
    ]
    if idle:
        sentences.append(f"Nothing beyond noise is missed without {', '.join(idle)}.")
    sentences.append(
        f"What the blocks do alone adds up to {sum(alone.values()):.0%}, what is missed without each to "
        f"{sum(missed.values()):.0%}: they are 100 % only where blocks do not need each other."
    )
    return " ".join(sentences)


def _panels(table: Table, blocks: Sequence[str]) -> list[Panel]:
    def series(figure: str) -> list[Series]:
        return [
            Series(
                name=name,
                points=[(block, table.row(f"{which}-{block}").figures[figure]) for block in blocks],
            )
            for which, name in (("without", "all but this block"), ("only", "this block alone"))
        ]

    base, full = table.row(BASE).figures, table.row(FULL).figures
    panels = [
        Panel(
            title="How much of the adapter is left", x_label="block", y_label="share of its move (CLIP features)",
            series=series("move"), levels=[("whole adapter", 1.0)],
        ),
        Panel(
            title="How far pixels move from the base's", x_label="block", y_label="mean difference (0 to 255)",
            series=series("pixels"), levels=[("whole adapter", full["pixels"].mean)],
        ),
    ]  # fmt: skip
    for figure, title, y_label in (
        ("clip", "Prompts kept", "CLIP score (cosine)"),
        ("object", "Right object", "share of pictures"),
    ):
        if figure in full:
            levels = [("base", base[figure].mean), ("whole adapter", full[figure].mean)]
            panels.append(
                Panel(title=title, x_label="block", y_label=y_label, series=series(figure), levels=levels)
            )
    return panels
