import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detour.errors import ConfigError, StorageError
from detour.verbs.progress import Progress, silent
from detour.verbs.studies.engine import (
    Cell,
    CellStore,
    Experiment,
    Measure,
    Measured,
    Variant,
    run_cells,
)
from detour.verbs.studies.table import leaders, spoken_leaders, tabulate

VARIANTS = (
    Variant(name="plain", settings={"rank": 1}),
    Variant(name="good", settings={"rank": 4}, cost=3.0),
    Variant(name="same", settings={"rank": 8}, cost=2.0),
)
GAIN = {"plain": 0.0, "good": 1.0, "same": 0.0}


def experiment(seeds: tuple[int, ...] = (0, 1, 2), **settings: object) -> Experiment:
    return Experiment(name="toy", variants=VARIANTS, seeds=seeds, settings={"steps": 3, **settings})


def counted(asked: list[tuple[str, int]], stop_after: int = 99) -> Callable[[CellStore], Measure]:
    """Noisy figures that hang on (variant, seed) alone; stops as Ctrl-C does."""

    def measure(variant: Variant, seed: int) -> Measured:
        if len(asked) >= stop_after:
            raise KeyboardInterrupt
        asked.append((variant.name, seed))
        shared, own = np.random.default_rng(seed), np.random.default_rng([seed, len(variant.name)])
        values = shared.normal(size=4) * 10 + own.normal(size=4) * 0.1 + GAIN[variant.name]
        pictures = own.integers(0, 256, size=(2, 4, 6, 3), dtype=np.uint8)
        return Measured(samples={"score": list(values)}, pictures=pictures)

    return lambda _: measure


def test_each_cell_is_measured_once_seed_by_seed(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []
    store = run_cells(experiment(), counted(asked), out=tmp_path / "x", progress=silent)
    assert asked == [(variant.name, seed) for seed in (0, 1, 2) for variant in VARIANTS]
    assert len(store.of(experiment())) == 9

    def never(_: CellStore) -> Measure:
        raise AssertionError("nothing is left to measure, so no model may be loaded")

    run_cells(experiment(), never, out=tmp_path / "x", progress=silent)


def test_a_stopped_experiment_goes_on_to_the_same_cells(tmp_path: Path) -> None:
    whole = run_cells(experiment(), counted([]), out=tmp_path / "whole", progress=silent)
    asked: list[tuple[str, int]] = []
    with pytest.raises(KeyboardInterrupt):
        run_cells(experiment(), counted(asked, stop_after=4), out=tmp_path / "cut", progress=silent)
    with (tmp_path / "cut" / "cells.jsonl").open("ab") as stream:
        stream.write(b'{"variant": "same", "se')  # what a kill leaves
    again: list[tuple[str, int]] = []
    store = run_cells(experiment(), counted(again), out=tmp_path / "cut", progress=silent)
    assert len(again) == 5
    assert not set(again) & set(asked)
    for mine, other in zip(store.of(experiment()), whole.of(experiment()), strict=True):
        assert mine.model_dump(exclude={"seconds"}) == other.model_dump(exclude={"seconds"})
    assert np.array_equal(store.pictures("good", 1), whole.pictures("good", 1))


def test_more_seeds_are_added_and_other_settings_are_never_mixed(tmp_path: Path) -> None:
    out = tmp_path / "x"
    run_cells(experiment((0,)), counted([]), out=out, progress=silent)
    asked: list[tuple[str, int]] = []
    run_cells(experiment((0, 1)), counted(asked), out=out, progress=silent)
    assert {seed for _, seed in asked} == {1}
    with pytest.raises(ConfigError, match="holds an experiment with steps = 3, not 4"):
        run_cells(experiment(steps=4), counted([]), out=out, progress=silent)
    forced: list[tuple[str, int]] = []
    run_cells(experiment((0,), steps=4), counted(forced), out=out, force=True, progress=silent)
    assert len(forced) == 3


def test_pictures_come_back_without_loss(tmp_path: Path) -> None:
    store = run_cells(experiment((0,)), counted([]), out=tmp_path / "x", progress=silent)
    expected = counted([])(store)(VARIANTS[1], 0).pictures
    assert expected is not None
    assert np.array_equal(store.pictures("good", 0), expected)


def test_a_folder_of_other_things_and_a_damaged_line_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="holds other things"):
        run_cells(experiment(), counted([]), out=tmp_path, progress=silent)
    out = tmp_path / "x"
    run_cells(experiment((0,)), counted([]), out=out, progress=silent)
    lines = (out / "cells.jsonl").read_text().splitlines()
    (out / "cells.jsonl").write_text("\n".join(["{}", *lines]) + "\n")
    with pytest.raises(StorageError, match="a line is damaged"):
        run_cells(experiment((0,)), counted([]), out=out, progress=silent)


def test_progress_counts_cells_and_tells_the_time_left(tmp_path: Path) -> None:
    reports: list[Progress] = []
    run_cells(experiment((0, 1)), counted([]), out=tmp_path / "x", progress=reports.append)
    assert [report.done for report in reports] == list(range(7))
    assert {report.total for report in reports} == {6}
    assert reports[0].seconds_left is None
    assert reports[-1].seconds_left == 0
    assert all(report.seconds_left is not None and report.seconds_left >= 0 for report in reports[1:])


def test_a_gain_is_told_and_noise_is_not(tmp_path: Path) -> None:
    store = run_cells(experiment(), counted([]), out=tmp_path / "x", progress=silent)
    table = tabulate(experiment(), store.of(experiment()), reference="plain")
    gaps = {row.variant: row.figures["score"].gap for row in table.rows}
    assert gaps["plain"] is None
    assert gaps["good"] is not None
    assert gaps["good"].significant
    assert gaps["good"].mean == pytest.approx(1.0, abs=0.2)
    assert gaps["same"] is not None
    assert not gaps["same"].significant
    assert table.row("good").figures["score"].samples == 12


def test_samples_are_held_beside_those_of_their_own_seed_where_a_run_diverged() -> None:
    def cell(variant: str, seed: int, *samples: float) -> Cell:
        return Cell(
            variant=variant, seed=seed, samples={"score": samples} if samples else {"lost": (1.0,)}, seconds=1
        )

    cells = [
        *(cell("plain", seed, score) for seed, score in ((1, 10.0), (2, 20.0), (3, 30.0))),
        cell("plain", 0),
        *(cell("good", seed, score) for seed, score in ((0, 1.0), (1, 11.0), (2, 21.0))),
        cell("good", 3),
    ]
    figure = tabulate(experiment((0, 1, 2, 3)), cells, reference="plain").row("good").figures["score"]
    assert figure.gap is not None
    assert figure.gap.mean == 1.0  # of seeds 1 and 2; in their order the samples are 9 apart
    assert figure.samples == 3


def test_leaders_are_those_that_noise_does_not_put_behind(tmp_path: Path) -> None:
    store = run_cells(experiment(), counted([]), out=tmp_path / "x", progress=silent)
    cells, names = store.of(experiment()), [variant.name for variant in VARIANTS]
    assert leaders(experiment(), cells, names, "score") == ["good"]
    lowest = leaders(experiment(), cells, names, "score", highest=False)
    assert set(lowest) == {"plain", "same"}
    means = tabulate(experiment(), cells, reference="plain")
    assert means.row(lowest[0]).figures["score"].mean <= means.row(lowest[1]).figures["score"].mean
    assert spoken_leaders(["good"]) == "good"
    assert spoken_leaders(lowest).endswith("(not told apart from noise)")


def test_table_is_written_for_programs_and_for_spreadsheets(tmp_path: Path) -> None:
    store = run_cells(experiment((0,)), counted([]), out=tmp_path / "x", progress=silent)
    table = tabulate(experiment((0,)), store.of(experiment((0,))), reference="plain")
    table.write(tmp_path)
    assert json.loads((tmp_path / "table.json").read_text())["rows"][1]["settings"] == {"rank": 4}
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert [row["rank"] for row in rows] == ["1", "4", "8"]
    assert float(rows[1]["score_mean"]) == pytest.approx(table.row("good").figures["score"].mean)
    assert rows[0]["score_gap"] == ""
