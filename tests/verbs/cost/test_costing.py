"""Cost of accepted pictures against sums done by hand, and the simulated queue against the real one."""

import json
import random
from collections import Counter
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from detour.cli.main import cli
from detour.errors import ConfigError
from detour.generation.requests import PictureRequest
from detour.generation.scheduling import Scheduler
from detour.generation.widths import width_for
from detour.specs.generation import PictureSpec
from detour.verbs.cost import estimate_cost
from detour.verbs.cost.measured_work import parse_metrics, work_of
from detour.verbs.cost.simulated_load import AskedPicture, simulate_load
from detour.verbs.cost.unit_costs import UnitCosts, costs_of
from tests.generation.test_scheduling import FakeDrawing
from tests.verbs.cost.test_prices import FILLED

# 100 pictures of 10 steps, 2 rows, area 1 were drawn; 80 accepted (one of them by a person), 15 refused, 5 failed.
METRICS = {
    'pictures_finished_total{state="done"}': 79,
    'pictures_finished_total{state="held"}': 1,
    'pictures_finished_total{state="refused"}': 15,
    'pictures_finished_total{state="failed"}': 5,
    'pictures_decided_total{decision="released"}': 1,
    'work_finished_total{state="done"}': 79 * 20,
    'work_finished_total{state="held"}': 20,
    'work_finished_total{state="released"}': 20,
    'work_finished_total{state="refused"}': 15 * 20,
    'work_finished_total{state="failed"}': 5 * 20,
    'phase_units_total{phase="denoiser"}': 2000,
    'phase_units_total{phase="padding"}': 500,
    'phase_units_total{phase="text"}': 200,
    'phase_units_total{phase="decode"}': 100,
    'phase_units_total{phase="write"}': 100,
    'phase_units_total{phase="other"}': 1000,
    'phase_seconds_total{phase="denoiser",clock="wall"}': 40,
    'phase_seconds_total{phase="padding",clock="wall"}': 10,
    'phase_seconds_total{phase="text",clock="wall"}': 2,
    'phase_seconds_total{phase="decode",clock="wall"}': 3,
    'phase_seconds_total{phase="safety",clock="wall"}': 1,
    'phase_seconds_total{phase="write",clock="wall"}': 0.5,
    'phase_seconds_total{phase="other",clock="wall"}': 1.5,
    'passes_total{width="4",adapters="0"}': 500,
    'pass_area_total{width="4",adapters="0"}': 500,
    'pass_seconds_total{width="4",adapters="0",clock="wall"}': 40,
    'passes_total{width="16",adapters="1"}': 31.25,
    'pass_area_total{width="16",adapters="1"}': 31.25,
    'pass_seconds_total{width="16",adapters="1",clock="wall"}': 10,
    "busy_seconds_total": 60,
    "idle_seconds_total": 140,
    "native_size_px": 64,
    "process_cpu_seconds_total": 70,
}


def text_of(values: dict[str, float]) -> str:
    return "".join(f"detour_{name} {value}\n" for name, value in values.items())


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    metrics, prices = tmp_path / "metrics.txt", tmp_path / "prices.toml"
    metrics.write_text(text_of(METRICS))
    prices.write_text(FILLED)
    return metrics, prices


TODAY = date(2026, 3, 2)


def test_an_accepted_picture_pays_for_the_refused_ones_and_for_idle_time(files: tuple[Path, Path]) -> None:
    report = estimate_cost(*files, steps=(10,), today=TODAY)
    assert report.accepted == 80
    assert report.utilisation == pytest.approx(0.3)
    # A picture as it was measured: 20 rows of 0.025 s, 10 steps of 0.0015 s, and 6.5 s of the rest over 100 pictures.
    one = report.settings[0]
    assert one.seconds == pytest.approx(100 / 80 * (0.5 + 0.015 + 0.065))
    # The whole rent of 200 s over 80 pictures, but for what the phases did not cover of the busy time.
    assert one.cost == pytest.approx(58 / 0.3 * 0.36 / 3600 / 80)
    assert one.cost_interval == pytest.approx((one.cost, 0.3 * one.cost))
    assert one.training == pytest.approx(12 / 1000)
    assert sum(v for k, v in report.phase_seconds.items() if k != "idle") * 80 == pytest.approx(58)
    assert report.phase_seconds["idle"] * 80 == pytest.approx(140)


def test_full_batches_are_those_of_the_widest_class(files: tuple[Path, Path]) -> None:
    one = estimate_cost(*files, steps=(10,), today=TODAY).settings[0]
    assert one.seconds_full == pytest.approx(100 / 80 * (20 * 10 / 31.25 / 16 + 0.015 + 0.065))


def test_another_size_grows_with_its_area_and_is_marked(files: tuple[Path, Path]) -> None:
    report = estimate_cost(*files, steps=(10,), sizes=((64, 64), (128, 64)), today=TODAY)
    small, large = report.settings
    assert (small.extrapolated, large.extrapolated) == (False, True)
    assert large.seconds - small.seconds == pytest.approx(100 / 80 * (0.5 + 0.03))


def test_break_even_is_where_both_cost_the_same(files: tuple[Path, Path]) -> None:
    report = estimate_cost(*files, steps=(10,), utilisation=(0.5, 1.0), today=TODAY)
    one, hosted = report.settings[0], report.hosted[0]
    assert hosted.hosted == 0.01
    assert one.seconds / hosted.utilisation * 0.36 / 3600 == pytest.approx(0.01)
    for own, num in zip(one.cost_interval, hosted.num_pictures, strict=True):
        assert num is not None
        assert num * own + 12 == pytest.approx(num * 0.01)
    # By area it is dearer, and training there costs something too.
    by_area = report.hosted[1]
    assert by_area.hosted == pytest.approx(0.02 * 64 * 64 / 1e6)
    assert by_area.num_pictures[1] is not None
    assert by_area.num_pictures[1] * (by_area.hosted - one.cost_interval[1]) == pytest.approx(12 - 2)


def test_a_hosted_price_below_the_own_one_never_breaks_even(files: tuple[Path, Path]) -> None:
    files[1].write_text(FILLED.replace("per_picture = 0.01", "per_picture = 0.00001"))
    hosted = estimate_cost(*files, steps=(10,), today=TODAY).hosted[0]
    assert hosted.utilisation > 1
    assert hosted.num_pictures == (None, None)


def test_two_readings_leave_out_what_was_before(files: tuple[Path, Path], tmp_path: Path) -> None:
    doubled = {name: value * (1 if name == "native_size_px" else 3) for name, value in METRICS.items()}
    (tmp_path / "after.txt").write_text(text_of(doubled))
    report = estimate_cost(tmp_path / "after.txt", files[1], before=files[0], steps=(10,), today=TODAY)
    assert report.accepted == 160
    assert report.settings[0].seconds == pytest.approx(estimate_cost(*files, steps=(10,)).settings[0].seconds)
    with pytest.raises(ConfigError, match="wrong order"):
        estimate_cost(files[0], files[1], before=tmp_path / "after.txt")


def test_by_the_cpu_clock_the_rest_of_the_process_is_work_too() -> None:
    cpu = {name.replace("wall", "cpu"): value for name, value in METRICS.items()}
    work = work_of(parse_metrics(text_of(cpu), where="x"), clock="cpu")
    assert work.serving_s == pytest.approx(70 - 58)
    assert costs_of(work).serving_s == pytest.approx(12 / 100)


def test_what_unfinished_pictures_have_had_is_not_lost() -> None:
    more = {**METRICS, 'phase_units_total{phase="denoiser"}': 2300, "work_under_way": 300}
    work = work_of(parse_metrics(text_of(more), where="x"))
    assert costs_of(work).waste == pytest.approx(100 / 80)
    before = {"busy_seconds_total": 0, "work_under_way": 100, 'phase_units_total{phase="denoiser"}': 100}
    part = work_of(parse_metrics(text_of(more), where="x"), parse_metrics(text_of(before), where="y"))
    assert part.drawn_work == 2300 - 100 - (300 - 100)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<html>", "not the text of /metrics"),
        ("detour_ready 1\n", "no counters of work"),
        ("detour_busy_seconds_total 1\n", "0 accepted"),
    ],
)
def test_what_is_no_reading_is_refused(files: tuple[Path, Path], text: str, said: str) -> None:
    files[0].write_text(text)
    with pytest.raises(ConfigError, match=said):
        estimate_cost(*files)


def test_a_pass_that_was_not_measured_is_between_its_neighbours() -> None:
    costs = costs_of(work_of(parse_metrics(text_of(METRICS), where="x")))
    assert costs.pass_s(4, 3) == pytest.approx(0.08)
    assert costs.pass_s(16, 0) == pytest.approx(0.32)
    assert costs.pass_s(8, 0) == pytest.approx(0.16)
    assert costs.pass_s(2, 0) == pytest.approx(0.04)


COSTS = UnitCosts(
    clock="wall",
    units={"text": 0.0, "adapters": 0.0, "decode": 0.0, "write": 0.0, "other": 0.0},
    fixed_s={"safety": 0.0},
    passes={(2, "0"): 1.0, (4, "0"): 1.0, (8, "0"): 1.0, (16, "0"): 1.0},
    row_s=0.1, full_row_s=0.1, serving_s=0.0, waste=1.0, slowdown=1.0,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_the_simulated_queue_makes_the_passes_of_the_real_scheduler(seed: int) -> None:
    draw = random.Random(seed)
    asked = [
        AskedPicture(
            0.0, job, f"p{job}", draw.choice((1, 2, 5)), draw.choice((1, 2)), draw.choice((1.0, 4.0))
        )
        for job in range(draw.choice((1, 3, 12, 40)))
    ]
    drawing = FakeDrawing()
    scheduler, rows = Scheduler(drawing), Counter[float]()
    with scheduler.borrow():
        handles = []
        for one in asked:
            rows[one.area] += one.rows  # the server fixes the width class when it accepts
            how = PictureSpec(
                steps=one.steps,
                guidance_scale=float(one.rows),
                width_px=64 * int(one.area),
                height_px=64 * int(one.area),
            )
            request = PictureRequest(
                prompt=one.prompt, seed=0, how=how, width_class=width_for(rows[one.area])
            )
            handles.append(scheduler.submit(request))
    for handle in handles:
        handle.result(30)
    real = Counter(drawing.widths[batch[0]] for batch in drawing.batches)
    load = simulate_load(asked, COSTS)
    assert load.passes == dict(real)
    assert load.pictures == len(asked)
    assert load.span_s == pytest.approx(sum(n * (1.0) for n in _by_area(asked, drawing).values()))


def _by_area(asked: list[AskedPicture], drawing: FakeDrawing) -> dict[float, float]:
    """Pass seconds of the real batches by area: a pass takes its area."""
    area = {one.prompt: one.area for one in asked}
    found: dict[float, float] = {}
    for batch in drawing.batches:
        found[area[batch[0]]] = found.get(area[batch[0]], 0.0) + area[batch[0]]
    return found


def test_an_adapter_is_prepared_once() -> None:
    costs = replace(COSTS, units={**COSTS.units, "adapters": 7.0})
    asked = [AskedPicture(0.0, i, "p", 1, 2, 1.0, (name,)) for i, name in enumerate("aabbbc")]
    assert simulate_load(asked, costs).seconds["adapters"] == 21
    assert simulate_load(asked, costs, prepared="ab").seconds["adapters"] == 7


def test_pictures_far_apart_wait_for_nobody() -> None:
    asked = [AskedPicture(100.0 * i, i, "p", 3, 2, 1.0) for i in range(4)]
    load = simulate_load(asked, COSTS)
    assert load.passes == {2: 12}
    assert load.busy_s == 12
    assert load.span_s == 303


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli, ["cost", *arguments])


def test_the_command_shows_tables_and_json(files: tuple[Path, Path], tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    body = {"prompts": ["a red house"], "steps": 10, "count": 2}
    trace.write_text("".join(json.dumps({"at_s": 60.0 * i, "body": body}) + "\n" for i in range(3)))
    arguments = [str(files[0]), "--prices", str(files[1]), "--steps", "10", "--trace", str(trace)]
    shown = run(*arguments)
    assert shown.exit_code == 0, shown.output
    for said in (
        "80 of 100 finished pictures accepted",
        "EUR",
        "by area",
        "stock",
        "trace: 6 pictures",
        "old",
    ):
        assert said in shown.output
    told = json.loads(CliRunner().invoke(cli, ["cost", *arguments, "--json"]).stdout)
    assert told["settings"][0]["steps"] == 10
    assert told["trace"]["pictures"] == 6
    assert told["trace"]["cost"] == pytest.approx(1.25 * told["trace"]["span_s"] / 6 * 0.36 / 3600)
    assert told["warnings"]


def test_the_command_writes_a_template_once(tmp_path: Path) -> None:
    place = tmp_path / "prices.toml"
    assert run("--template", str(place)).exit_code == 0
    assert "[machine]" in place.read_text()
    again = run("--template", str(place))
    assert isinstance(again.exception, ConfigError)
    assert run().exit_code == 2
    assert run("--size", "64").exit_code == 2
