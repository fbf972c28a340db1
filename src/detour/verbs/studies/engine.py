"""The engine of every experiment: measures the cells of a grid of variants and seeds, each once.

A finished cell is a line of ``cells.jsonl``, so an experiment that was stopped goes on where it stood, and one that is
asked for more seeds or variants measures those alone. It does not know what a cell is: it may draw four pictures or
train for an hour.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin
from pydantic import BaseModel, ConfigDict, ValidationError

from detour.errors import ConfigError, StorageError
from detour.evaluation.pixels import Pictures
from detour.files import storage_error, write_json, write_with
from detour.training.run_folder import locked
from detour.verbs.progress import Progress, ProgressFn

SETTINGS, CELLS, PICTURES = "settings.json", "cells.jsonl", "cells"

Setting = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A choice of settings that is tried.

    Attributes:
        name: short, unlike the others; part of file names.
        settings: what tells it from the others: columns of the table.
        cost: of a cell, in any unit that all variants share; for the time left.
    """

    name: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    cost: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Settings of an experiment: what is measured, and with what.

    Attributes:
        name: of the experiment.
        variants: the first one is measured first for each seed, and so on.
        seeds: each variant is measured with each of them.
        settings: everything else that a cell depends on, as JSON; cells of other settings are never mixed in.
    """

    name: str
    variants: Sequence[Variant]
    seeds: Sequence[int]
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures of one cell.

    Attributes:
        samples: figure → values that do not depend on each other, the i-th under the same conditions in every
            variant (say, prompt i). What was trained is one sample, however many prompts it was asked: give its mean.
        pictures: uint8 (N, H, W, 3), kept without loss; may be left out.
        withheld: number of each picture that a safety policy withheld → its code; grey in ``pictures``.
    """

    samples: Mapping[str, Sequence[float]]
    pictures: Pictures | None = None
    withheld: Mapping[int, str] = field(default_factory=dict)


class Cell(BaseModel):
    """A finished cell as it stands in ``cells.jsonl``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: str
    seed: int
    samples: dict[str, tuple[float, ...]]
    seconds: float
    """Wall time of the measurement."""
    withheld: dict[int, str] = {}
    """Number of each picture that a safety policy withheld → its code."""


Measure = Callable[[Variant, int], Measured]


class CellStore:
    """The finished cells of one folder."""

    def __init__(self, folder: Path, cells: Sequence[Cell]) -> None:
        self.folder = folder
        self._cells = {(cell.variant, cell.seed): cell for cell in cells}

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._cells

    def of(self, experiment: Experiment) -> list[Cell]:
        """The cells that ``experiment`` asks for, variant by variant."""
        wanted = [(variant.name, seed) for variant in experiment.variants for seed in experiment.seeds]
        return [self._cells[key] for key in wanted if key in self._cells]

    def withheld(self, variant: str, seed: int) -> Mapping[int, str]:
        """Number of each picture of a finished cell that a safety policy withheld → its code."""
        return self._cells[variant, seed].withheld

    def pictures(self, variant: str, seed: int) -> Pictures:
        """uint8 (N, H, W, 3) of a finished cell; grey where a safety policy withheld one."""
        return read_strip(self._strip(variant, seed))

    def add(self, cell: Cell, pictures: Pictures | None) -> None:
        """Keep a finished cell; its pictures reach the disk first, so that its line vouches for them.

        Raises:
            StorageError: disk full or not writable.
        """
        if pictures is not None:
            save_strip(self._strip(cell.variant, cell.seed), pictures)
        path = self.folder / CELLS
        try:
            with path.open("ab") as stream:
                stream.write((cell.model_dump_json() + "\n").encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise storage_error(path, error) from error
        self._cells[cell.variant, cell.seed] = cell

    def _strip(self, variant: str, seed: int) -> Path:
        return self.folder / PICTURES / f"{variant}-s{seed}.png"


def save_strip(path: Path, pictures: Pictures) -> None:
    """Write pictures side by side as one PNG that remembers how many they are."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("pictures", str(len(pictures)))
    image = Image.fromarray(np.concatenate(list(pictures), axis=1))
    write_with(path, lambda temporary: image.save(temporary, format="PNG", pnginfo=chunks))


def read_strip(path: Path) -> Pictures:
    """uint8 (N, H, W, 3) of what :func:`save_strip` wrote."""
    with Image.open(path) as image:
        strip = np.asarray(image.convert("RGB"))
        count = int(image.info["pictures"])
    return np.stack(np.split(strip, count, axis=1))


def run_cells(
    experiment: Experiment,
    prepare: Callable[[CellStore], Measure],
    *,
    out: Path,
    force: bool = False,
    progress: ProgressFn,
) -> CellStore:
    """Measure the cells that are not finished yet, seed by seed, so that a stop leaves whole rows of variants.

    Args:
        experiment: what to measure.
        prepare: makes the measure; called only when there is something to do, because it loads models. Pictures of
            earlier cells are in the store that it is given.
        out: folder of the experiment; one that holds it already is gone on with.
        force: forget the cells of other settings that stand there.
        progress: told after each cell, with the time left.

    Raises:
        ConfigError: ``out`` holds something else, or cells of other settings.
        StorageError: disk full or not writable.
    """
    _claim(out)
    with locked(out):
        store = CellStore(out, _finished(experiment, out, force=force))
        todo = [
            (variant, seed)
            for seed in experiment.seeds
            for variant in experiment.variants
            if (variant.name, seed) not in store
        ]
        total = len(experiment.variants) * len(experiment.seeds)
        stage = f"{experiment.name}: cells"
        progress(Progress(stage=stage, done=total - len(todo), total=total))
        measure = prepare(store) if todo else None
        left, spent, paid = sum(variant.cost for variant, _ in todo), 0.0, 0.0
        for done, (variant, seed) in enumerate(todo, start=total - len(todo) + 1):
            assert measure is not None
            began = time.monotonic()
            measured = measure(variant, seed)
            seconds = time.monotonic() - began
            samples = {name: tuple(map(float, values)) for name, values in measured.samples.items()}
            cell = Cell(
                variant=variant.name,
                seed=seed,
                samples=samples,
                seconds=round(seconds, 3),
                withheld=dict(measured.withheld),
            )
            store.add(cell, measured.pictures)
            left, spent, paid = left - variant.cost, spent + seconds, paid + variant.cost
            progress(
                Progress(
                    stage=stage,
                    done=done,
                    total=total,
                    seconds_left=spent / paid * left,
                    figures=_means(cell),
                )
            )
        return store


def _means(cell: Cell) -> dict[str, float]:
    return {name: float(np.mean(values)) for name, values in list(cell.samples.items())[:3] if values}


def _claim(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / SETTINGS).is_file():
        raise ConfigError(f"{out}: holds other things. Choose another --out for the experiment.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(out, error) from error


def _finished(experiment: Experiment, out: Path, *, force: bool) -> list[Cell]:
    """Cells that stand in the folder and were measured with these settings."""
    settings = json.loads(json.dumps({"experiment": experiment.name, **experiment.settings}))
    place, lines = out / SETTINGS, out / CELLS
    if place.is_file():
        before = _read_settings(place)
        changed = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
        if changed and not force:
            raise ConfigError(
                f"{out}: holds an experiment with {changed[0]} = {before.get(changed[0])!r}, not "
                f"{settings.get(changed[0])!r}. Choose another --out, or pass --force to begin again."
            )
        if changed:
            lines.unlink(missing_ok=True)
    write_json(place, settings)
    return _read_cells(lines)


def _read_settings(place: Path) -> dict[str, Any]:
    try:
        values = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{place}: cannot be read ({error}). Delete the folder, or choose another --out."
        ) from error
    return values if isinstance(values, dict) else {}


def _read_cells(path: Path) -> list[Cell]:
    """The whole lines; what a kill left of the last one is cut off.

    Raises:
        StorageError: a line before the last is damaged.
    """
    if not path.is_file():
        return []
    whole, _, rest = path.read_bytes().rpartition(b"\n")
    if rest:
        with path.open("r+b") as stream:
            stream.truncate(len(whole) + 1 if whole else 0)
    try:
        return [Cell.model_validate_json(line) for line in whole.splitlines() if line.strip()]
    except ValidationError as error:
        raise StorageError(
            f"{path}: a line is damaged ({error.errors()[0]['msg']}). Delete that line."
        ) from error
