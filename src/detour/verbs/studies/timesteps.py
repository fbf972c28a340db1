"""Where along the schedule an adapter acts: what it does to predictions, and to pictures when it is on for a part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detour.bases.latents import encode_pictures, to_pixels
from detour.diffusion.process import Process, RectifiedFlow
from detour.diffusion.randomness import noise_for
from detour.errors import ConfigError
from detour.generation.engine import AdapterInUse
from detour.generation.strength import StepWeight
from detour.specs.studies import StudySpec
from detour.verbs.progress import ProgressFn, silent
from detour.verbs.studies.engine import CellStore, Experiment, Measure, Measured, Variant, run_cells
from detour.verbs.studies.figures import Panel, Series
from detour.verbs.studies.result import StudyResult, with_withheld, write_study
from detour.verbs.studies.screened import CellPictures, ScreenedPictures
from detour.verbs.studies.studio import Studio
from detour.verbs.studies.table import Table, leaders, spoken_leaders, tabulate

BASE, FULL = "base", "full"
THIRDS = ("early", "middle", "late")
PREDICTIONS = "predictions"

WINDOWS: dict[str, tuple[StepWeight, ...]] = {
    BASE: ((0.0, 0.0),),
    FULL: ((0.0, 1.0),),
    "only-early": ((0.0, 1.0), (1 / 3, 0.0)),
    "only-middle": ((0.0, 0.0), (1 / 3, 1.0), (2 / 3, 0.0)),
    "only-late": ((0.0, 0.0), (2 / 3, 1.0)),
    "without-early": ((0.0, 0.0), (1 / 3, 1.0)),
    "without-middle": ((0.0, 1.0), (1 / 3, 0.0), (2 / 3, 1.0)),
    "without-late": ((0.0, 1.0), (2 / 3, 0.0)),
}
"""When the adapter is on; early steps are the noisy ones."""


def study_timesteps(
    spec: StudySpec,
    *,
    out: Path,
    num_timesteps: int = 12,
    force: bool = False,
    progress: ProgressFn = silent,
) -> StudyResult:
    """Draw with the adapter on in early, middle or late steps alone, then ask what it does to predictions.

    The predictions are asked on the base's own pictures with noise of each timestep added, as in training, so that both
    sides see the same input; they stand in ``predictions/`` as an experiment of their own.

    Args:
        spec: prompts, seeds, base, and the adapter.
        out: folder of the experiment; gone on with where it stands.
        num_timesteps: at which predictions are compared, evenly spread over the schedule.
        force: begin again where the folder holds other settings.
        progress: told after each cell.

    Raises:
        ConfigError: no adapter, or the folder holds something else.
        BaseError, AdapterError: they cannot be opened or do not fit.
    """
    if spec.lora is None:
        raise ConfigError("no adapter: name the file that is studied.")
    if spec.picture.steps < len(THIRDS) or num_timesteps < 2:
        raise ConfigError("early, middle and late need three steps, and a curve two timesteps. Ask for more.")
    studio = Studio.open(spec)
    variants = [
        Variant(
            name=name, settings={"steps": "; ".join(f"{share:.2f}={factor:g}" for share, factor in window)}
        )
        for name, window in WINDOWS.items()
    ]
    windows = Experiment(name="timesteps", variants=variants, seeds=studio.seeds, settings=studio.settings())
    store = run_cells(
        windows,
        lambda store: _draw(studio, _cells(studio, store, variants)),
        out=out,
        force=force,
        progress=progress,
    )
    table = tabulate(windows, store.of(windows), reference=FULL)
    curve = _predictions(
        studio, _cells(studio, store, variants), num_timesteps, out=out, force=force, progress=progress
    )
    assert studio.adapter is not None
    seed = studio.seeds[0]
    result = write_study(
        out,
        table,
        finding_of(table, _strongest(windows, store), curve),
        title=f"{studio.adapter.use.name} on {studio.base.identity}, along the schedule: "
        f"{len(studio.prompts)} prompts × {len(studio.seeds)} seeds",
        panels=_panels(table, curve),
        panels_in_row=2,
        sheet=[
            (prompt, np.stack([store.pictures(name, seed)[index] for name in WINDOWS]))
            for index, prompt in enumerate(studio.prompts[:4])
        ],
        columns=[name.replace("-", " ") for name in WINDOWS],
    )
    return with_withheld(result, store.of(windows), policy=studio.screening.version)


def _cells(studio: Studio, store: CellStore, variants: Sequence[Variant]) -> CellPictures:
    def draw(variant: Variant, seed: int) -> ScreenedPictures:
        # The text encoder's part of an adapter acts through the prompt, which is read once before the first step.
        used = () if variant.name == BASE else studio.adapters
        weights = WINDOWS[variant.name] if used else ()
        drawn = studio.draw(seed, studio.spec.picture, adapters=used, step_weights=weights)
        return studio.screened(seed, drawn)

    return CellPictures(store=store, variants=variants, draw_cell=draw)


def _draw(studio: Studio, cells: CellPictures) -> Measure:
    def measure(variant: Variant, seed: int) -> Measured:
        pictures = cells.draw(variant, seed)
        samples = studio.scores(pictures)
        if variant.name != BASE:
            plain = cells.of(BASE, seed)
            full = pictures if variant.name == FULL else cells.of(FULL, seed)
            samples["move"] = studio.share_of_move(pictures, plain, full)
            samples["pixels"] = studio.distances(pictures, plain)["pixels"]
        return cells.measured(variant, seed, samples, pictures)

    return measure


def _predictions(
    studio: Studio, drawn: CellPictures, num_timesteps: int, *, out: Path, force: bool, progress: ProgressFn
) -> Table:
    process = studio.base.process()
    stops = [process.at(share) for share in torch.linspace(0, 1, num_timesteps + 2)[1:-1].tolist()]
    if not isinstance(process, RectifiedFlow):
        stops = torch.linspace(0, process.length - 1, num_timesteps + 2)[1:-1].round().long().tolist()
    experiment = Experiment(
        name=PREDICTIONS,
        variants=[Variant(name=f"t{process.name_of(stop)}", settings={"timestep": stop}) for stop in stops],
        seeds=studio.seeds,
        settings=studio.settings(),
    )
    store = run_cells(
        experiment,
        lambda _: _compare(studio, drawn, process),
        out=out / PREDICTIONS,
        force=force,
        progress=progress,
    )
    table = tabulate(experiment, store.of(experiment), reference=f"t{process.name_of(stops[0])}")
    table.write(out / PREDICTIONS)
    return table


def _compare(studio: Studio, drawn: CellPictures, process: Process) -> Measure:
    engine = studio.engine

    def measure(variant: Variant, seed: int) -> Measured:
        at = float(variant.settings["timestep"])
        number = round(float(process.model_time(process.times([at]))[0]))
        clean, _ = encode_pictures(engine.vae, to_pixels(drawn.of(BASE, seed)))
        noise = torch.stack(
            [noise_for(seed, number, i, clean.shape[1:], purpose="probe") for i in range(len(clean))]
        )
        times = process.times([at] * len(clean))
        noisy = process.mix(clean.cpu(), noise, times)
        sides = []
        for used in ((), studio.adapters):
            answers = [
                _ask(studio, noisy[start : start + studio.spec.batch], at, start, used)
                for start in range(0, len(noisy), studio.spec.batch)
            ]
            sides.append(torch.cat(answers))
        guesses = [process.clean(side, noisy, times) for side in sides]
        return Measured(
            samples={
                "prediction": _relative(sides[1] - sides[0], sides[0]),
                "clean_guess": _relative(guesses[1] - guesses[0], clean.cpu()),
            }
        )

    return measure


@torch.no_grad()
def _ask(
    studio: Studio, noisy: Tensor, timestep: float, first: int, adapters: Sequence[AdapterInUse]
) -> Tensor:
    """The network's answer to the prompts with the adapters, without guidance, on the CPU in fp32."""
    engine = studio.engine
    text = engine.encode(studio.prompts[first : first + len(noisy)], adapters=adapters)
    return engine.predict(noisy, timestep, text, adapters=adapters).cpu()


def _relative(moves: Tensor, beside: Tensor) -> list[float]:
    sizes: list[float] = (moves.flatten(1).norm(dim=1) / beside.flatten(1).norm(dim=1)).tolist()
    return sizes


def _strongest(windows: Experiment, store: CellStore) -> dict[str, list[str]]:
    """``only`` and ``without`` → the thirds of which none is surely weaker than the strongest."""
    cells, strongest = store.of(windows), {}
    for which in ("only", "without"):
        names = [f"{which}-{third}" for third in THIRDS]
        alike = leaders(windows, cells, names, "move", highest=which == "only")
        strongest[which] = [name.removeprefix(f"{which}-") for name in alike]
    return strongest


def finding_of(table: Table, strongest: dict[str, list[str]], curve: Table) -> str:
    """Which third matters, and where predictions differ most."""
    only = {third: table.row(f"only-{third}").figures["move"] for third in THIRDS}
    missed = {third: 1 - table.row(f"without-{third}").figures["move"].mean for third in THIRDS}
    spoken = ", ".join(f"{third} {figure.mean:.0%}" for third, figure in only.items())
    lost = ", ".join(f"{third} {share:.0%}" for third, share in missed.items())

    def peak(figure: str) -> str:
        row = max(curve.rows, key=lambda row: row.figures[figure].mean)
        return f"{row.figures[figure].mean:.2f} at timestep {row.settings['timestep']:.4g}"

    return (
        f"On for a third of the steps, the adapter makes this much of its move in the judge's features: {spoken}; "
        f"switched off for that third, this much is missing: {lost}. Most is done alone "
        f"by: {spoken_leaders(strongest['only'])}; most is missed without: {spoken_leaders(strongest['without'])}. "
        f"The network's prediction differs most, relatively, by {peak('prediction')}, and the clean picture that it "
        f"stands for by {peak('clean_guess')}."
    )


def _panels(table: Table, curve: Table) -> list[Panel]:
    def points(figure: str) -> list[tuple[float | str, Any]]:
        return [(float(row.settings["timestep"]), row.figures[figure]) for row in curve.rows]

    def thirds(figure: str) -> list[Series]:
        return [
            Series(
                name=name, points=[(third, table.row(f"{which}-{third}").figures[figure]) for third in THIRDS]
            )
            for which, name in (("only", "on in this third alone"), ("without", "off in this third alone"))
        ]

    full = table.row(FULL).figures
    return [
        Panel(
            title="What it does to the network's prediction", x_label="timestep (0 is clean)",
            y_label="‖difference‖ / ‖prediction‖", series=[Series(name="", points=points("prediction"))],
        ),
        Panel(
            title="What it does to the clean picture guessed", x_label="timestep (0 is clean)",
            y_label="‖difference‖ / ‖clean latents‖", series=[Series(name="", points=points("clean_guess"))],
        ),
        Panel(
            title="How much of the adapter is left", x_label="steps (early is noisy)",
            y_label="share of its move (CLIP features)", series=thirds("move"), levels=[("whole adapter", 1.0)],
        ),
        Panel(
            title="How far pixels move from the base's", x_label="steps (early is noisy)",
            y_label="mean difference (0 to 255)", series=thirds("pixels"),
            levels=[("whole adapter", full["pixels"].mean)],
        ),
    ]  # fmt: skip
