"""What a meter shows: inner phases are taken out of outer ones, padding is divided by rows, waiting is no work."""

import threading
from typing import Any

import pytest

from detour.generation import metering
from detour.generation.metering import Meter, Seconds, adapter_bucket


class Clocks:
    """Two clocks that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = self.cpu = 0.0
        monkeypatch.setattr(metering.time, "perf_counter", lambda: self.wall)
        monkeypatch.setattr(metering.time, "thread_time", lambda: self.cpu)

    def go(self, wall: float, cpu: float) -> None:
        self.wall, self.cpu = self.wall + wall, self.cpu + cpu


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def test_a_phase_inside_another_is_counted_once(clocks: Clocks) -> None:
    meter = Meter()
    with meter.phase("other"):
        clocks.go(4.0, 2.0)
        with meter.phase("text"):
            clocks.go(8.0, 1.0)
        clocks.go(16.0, 4.0)
    shown = meter.reading()
    assert shown.seconds["other"] == Seconds(20.0, 6.0)
    assert shown.seconds["text"] == Seconds(8.0, 1.0)
    assert shown.busy_s == 28.0


def test_a_pass_is_divided_between_pictures_and_padding_by_rows(clocks: Clocks) -> None:
    meter = Meter(native_px=64)
    with meter.forward_pass(width=8, rows=6, adapters=3, area=meter.area(128, 64)):
        clocks.go(8.0, 4.0)
    shown = meter.reading()
    assert shown.seconds["denoiser"] == Seconds(6.0, 3.0)
    assert shown.seconds["padding"] == Seconds(2.0, 1.0)
    assert (shown.units["denoiser"], shown.units["padding"]) == (12.0, 4.0)
    passes = shown.passes[8, "3-4"]
    assert (passes.num, passes.area, passes.seconds) == (1, 2.0, Seconds(8.0, 4.0))


def test_what_fails_is_paid_for_too(clocks: Clocks) -> None:
    meter = Meter()

    def fail() -> None:
        with meter.phase("decode"):
            clocks.go(2.0, 2.0)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert meter.reading().seconds["decode"] == Seconds(2.0, 2.0)


def test_threads_that_work_at_once_are_busy_once_and_waiting_is_idle(clocks: Clocks) -> None:
    meter, inside, leave = Meter(), threading.Event(), threading.Event()

    def write() -> None:
        with meter.phase("write"):
            inside.set()
            assert leave.wait(10)

    with meter.phase("other"):
        writer = threading.Thread(target=write)
        writer.start()
        assert inside.wait(10)
        clocks.go(3.0, 3.0)
        leave.set()
        writer.join()
    clocks.go(5.0, 0.0)
    shown = meter.reading()
    assert shown.busy_s == 3.0
    assert shown.uptime_s == 8.0
    assert shown.seconds["other"].wall == shown.seconds["write"].wall == 3.0


def test_a_reading_in_the_middle_of_a_phase_counts_it_as_busy(clocks: Clocks) -> None:
    meter = Meter()
    with meter.phase("other"):
        clocks.go(2.0, 2.0)
        assert meter.reading().busy_s == 2.0


@pytest.mark.parametrize(
    ("num", "bucket"),
    [(0, "0"), (1, "1"), (2, "2"), (3, "3-4"), (4, "3-4"), (5, "5-8"), (8, "5-8"), (9, "9+")],
)
def test_numbers_of_adapters_are_grouped(num: int, bucket: Any) -> None:
    assert adapter_bucket(num) == bucket
