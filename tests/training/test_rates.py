import math
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detour.training.rates import ScheduleKind, learning_rate, schedule_doubt, schedule_fault

KINDS = get_args(ScheduleKind)


def rates(kind: ScheduleKind, warmup: int = 4, steps: int = 20, cycles: int = 1) -> list[float]:
    return [
        learning_rate(s, peak=1.0, kind=kind, warmup=warmup, steps=steps, cycles=cycles) for s in range(steps)
    ]


@given(st.sampled_from(KINDS), st.integers(1, 60), st.integers(0, 60), st.integers(1, 5))
def test_every_schedule_honours_its_warmup(kind: ScheduleKind, steps: int, warmup: int, cycles: int) -> None:
    values = rates(kind, warmup, steps, cycles)
    expected = [(step + 1) / (warmup + 1) for step in range(min(steps, warmup))]
    assert values[:warmup] == expected
    if warmup < steps:
        assert values[warmup] == 1.0
    assert all(0 < value <= 1.0 for value in values[:warmup])
    assert all(0 <= value <= 1.0 and math.isfinite(value) for value in values)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_rate_falls_to_almost_zero_at_the_last_step(kind: ScheduleKind) -> None:
    values = rates(kind)
    assert all(later < earlier for earlier, later in pairwise(values[4:]))
    assert 0 < values[-1] < 0.1


def test_constant_stays_at_the_peak() -> None:
    assert set(rates("constant")[4:]) == {1.0}


def test_no_warmup_starts_at_the_peak_and_all_warmup_does_not_divide_by_zero() -> None:
    assert rates("cosine", warmup=0)[0] == 1.0
    assert len(rates("cosine", warmup=20)) == 20


@pytest.mark.parametrize(("kind", "cycles"), [("cosine", 1), ("linear", 1), ("cosine_restarts", 3)])
def test_shape_after_the_warmup_is_that_of_transformers(kind: ScheduleKind, cycles: int) -> None:
    import torch
    from transformers import get_scheduler

    name = "cosine_with_restarts" if kind == "cosine_restarts" else kind
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    options = {"scheduler_specific_kwargs": {"num_cycles": cycles}} if cycles > 1 else {}
    reference = get_scheduler(name, optimizer, num_warmup_steps=5, num_training_steps=40, **options)
    expected = []
    for _ in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert rates(kind, 5, 40, cycles)[5:] == pytest.approx(expected[5:])


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (("cosine", 6, 6, 1), "the warm-up takes 6 steps and the run has 6"),
        (("constant", 9, 6, 1), "the warm-up takes 9 steps and the run has 6"),
        (("cosine_restarts", 0, 6, 7), "7 cycles in the 6 steps"),
        (("cosine_restarts", 4, 6, 3), "3 cycles in the 2 steps"),
        (("cosine_restarts", 0, 6, 6), "6 cycles in the 6 steps"),
        (("cosine_restarts", 0, 6, 5), ""),
        (("cosine", 5, 6, 1), ""),
        (("cosine", 0, 1, 7), ""),
        (("cosine_restarts", 1, 9, 2), ""),
    ],
)
def test_a_schedule_that_misses_its_run_is_named(schedule: tuple[str, int, int, int], words: str) -> None:
    kind, warmup, steps, cycles = schedule
    fault = schedule_fault(kind, warmup=warmup, steps=steps, cycles=cycles)
    assert (words in fault) if words else fault == ""
    rates = [
        learning_rate(step, peak=1.0, kind=kind, warmup=warmup, steps=steps, cycles=cycles)  # type: ignore[arg-type]
        for step in range(steps)
    ]
    falls = any(after < before for before, after in pairwise(rates[warmup:])) and cycles < steps - warmup
    assert bool(fault) == (max(rates) < 1.0 or (kind == "cosine_restarts" and not falls))


def test_what_fits_badly_is_said() -> None:
    assert "takes 7 of 12 steps" in schedule_doubt("cosine", warmup=7, steps=12, cycles=1)
    assert schedule_doubt("cosine", warmup=6, steps=12, cycles=1) == ""
    assert "every 4.0 steps" in schedule_doubt("cosine_restarts", warmup=0, steps=12, cycles=3)
    assert schedule_doubt("cosine_restarts", warmup=0, steps=120, cycles=3) == ""
