"""What an accepted picture costs, by settings, and when a hosted interface would be cheaper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from detour.errors import ConfigError
from detour.verbs.cost.measured_work import Clock, MeasuredWork, Samples, read_metrics, work_of
from detour.verbs.cost.prices import HostedPrice, Prices, read_prices
from detour.verbs.cost.simulated_load import read_trace, simulate_load
from detour.verbs.cost.unit_costs import UnitCosts, costs_of
from detour.verbs.train.run_list import summary_of

OLD_AFTER_MONTHS = 6.0
STEPS = (10, 25, 50)


@dataclass(frozen=True, kw_only=True)
class PictureCost:
    """What one accepted picture costs with some settings; money in the currency of the price file.

    Attributes:
        steps: denoising steps.
        width_px: of the picture.
        height_px: of the picture.
        guided: whether it takes two rows of a forward pass, or one.
        seconds: machine seconds of one accepted picture, refused and abandoned ones paid for.
        seconds_full: the same, in full batches.
        cost: at the measured utilisation.
        cost_interval: at the lower and at the upper end of the interval of utilisation; the first is the dearer.
        training: of one picture.
        extrapolated: the size is another than the measured one, and time is taken to grow with the area.
    """

    steps: int
    width_px: int
    height_px: int
    guided: bool
    seconds: float
    seconds_full: float
    cost: float
    cost_interval: tuple[float, float]
    training: float
    extrapolated: bool


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """When the operator's own machine costs as much as a hosted interface.

    Attributes:
        name: of the hosted interface.
        steps: of the pictures.
        width_px: of the pictures.
        height_px: of the pictures.
        hosted: price of one picture there.
        utilisation: above which the own machine is cheaper by the picture; above 1 it never is.
        pictures_an_hour: accepted pictures an hour at which the rent alone equals the hosted price.
        num_pictures: pictures of one adapter after which its training is paid for, at the lower and at the upper end
            of the interval of utilisation; ``None``: never.
    """

    name: str
    steps: int
    width_px: int
    height_px: int
    hosted: float
    utilisation: float
    pictures_an_hour: float
    num_pictures: tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class TraceCost:
    """What a recorded load would take on the measured machine.

    Attributes:
        pictures: of the load.
        seconds_a_picture: machine seconds, without waiting.
        busy_s: machine seconds in all.
        span_s: from the first arrival to the last picture.
        utilisation: share of that time in which something is done; 1 at most.
        cost: of one accepted picture, the idle time of the load paid for.
        passes: width → forward passes.
    """

    pictures: int
    seconds_a_picture: float
    busy_s: float
    span_s: float
    utilisation: float
    cost: float
    passes: dict[int, int]


@dataclass(frozen=True, kw_only=True)
class CostReport:
    """What the pictures of a server cost.

    Attributes:
        currency: of all money here.
        clock: of all seconds here.
        machine: its name and its price an hour.
        accepted: pictures.
        finished: state → pictures.
        waste: rows drawn for each row of an accepted picture.
        utilisation: measured share of the time in which something was done.
        interval: of utilisation, for the intervals of cost.
        phase_seconds: phase → seconds for each accepted picture; ``serving`` and ``idle`` beside the phases.
        training_per_adapter: money that one adapter costs before its first picture.
        settings: cost by settings.
        hosted: break-even against each hosted price at each setting.
        other: name → price of one picture that is had in another way.
        trace: of a recorded load, or none.
        warnings: one sentence each.
    """

    currency: str
    clock: Clock
    machine: tuple[str, float]
    accepted: float
    finished: dict[str, float]
    waste: float
    utilisation: float
    interval: tuple[float, float]
    phase_seconds: dict[str, float]
    training_per_adapter: float
    settings: tuple[PictureCost, ...]
    hosted: tuple[BreakEven, ...]
    other: dict[str, float]
    trace: TraceCost | None
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as values of JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Money:
    """Turns seconds into money."""

    per_hour: float
    training_per_picture: float

    def of(self, seconds: float, utilisation: float) -> float:
        return seconds / utilisation * self.per_hour / 3600


def estimate_cost(
    metrics: Path,
    prices: Path,
    *,
    before: Path | None = None,
    clock: Clock = "wall",
    steps: Sequence[int] = STEPS,
    sizes: Sequence[tuple[int, int]] = (),
    guided: bool = True,
    utilisation: tuple[float, float] | None = None,
    trained_run: Path | None = None,
    trace: Path | None = None,
    old_after_months: float = OLD_AFTER_MONTHS,
    today: date | None = None,
) -> CostReport:
    """Say what an accepted picture of a server costs, from what the server measured and the operator's prices.

    Args:
        metrics: saved text of ``/metrics``.
        prices: the price file (``detour cost --template`` writes an empty one).
        before: an earlier ``/metrics`` of the same server, not restarted since; ``None``: since the start.
        clock: ``wall``, or ``cpu`` if other programs used the machine too.
        steps: denoising steps to say the cost of.
        sizes: (width, height) in pixels to say the cost of; none: the base's own.
        guided: pictures with guidance, two rows each.
        utilisation: lower and upper end of the interval; ``None``: from the measured one to 1.
        trained_run: folder of a training run whose machine time counts as training, at the price of the machine.
        trace: a recorded load to say the cost of.
        old_after_months: prices that are older are named in the warnings.
        today: the day it is; ``None``: of the system's clock.

    Raises:
        ConfigError: a file cannot be read or is not what it should be, nothing was accepted, or an interval is empty.
    """
    samples, listed = read_metrics(metrics), read_prices(prices)
    work = work_of(samples, None if before is None else read_metrics(before), clock=clock)
    costs = costs_of(work)
    low, high = (work.utilisation, 1.0) if utilisation is None else utilisation
    if not 0 < low <= high <= 1:
        raise ConfigError(f"utilisation {low:g} to {high:g}: choose 0 < LOW <= HIGH <= 1.")
    training = _training(listed, trained_run)
    spread = 0.0 if listed.training is None else training / listed.training.pictures_per_adapter
    money, native = _Money(listed.machine.per_hour, spread), native_px(samples)
    settings = tuple(
        _picture_cost(work, costs, money, num, size, guided, (low, high), native)
        for num in steps
        for size in (sizes or ((native, native),))
    )
    found = None if trace is None else _trace_cost(trace, costs, money, native)
    return CostReport(
        currency=listed.currency,
        clock=clock,
        machine=(listed.machine.name, listed.machine.per_hour),
        accepted=work.accepted,
        finished=work.finished,
        waste=costs.waste,
        utilisation=work.utilisation,
        interval=(low, high),
        phase_seconds=phase_seconds(work),
        training_per_adapter=training,
        settings=settings,
        hosted=tuple(_break_even(one, cost, money, training) for one in listed.hosted for cost in settings),
        other={one.name: one.per_picture for one in listed.other},
        trace=found,
        warnings=tuple(listed.old(today or date.today(), months=old_after_months)),
    )


def native_px(samples: Samples) -> int:
    """Side of the base's own size, as ``/metrics`` tells it."""
    return int(samples.get(("detour_native_size_px", ()), 0)) or 1


def phase_seconds(work: MeasuredWork) -> dict[str, float]:
    """Seconds of each phase for each accepted picture; ``serving`` and ``idle`` beside the phases."""
    found: dict[str, float] = {str(phase): seconds for phase, seconds in work.seconds.items()}
    found |= {"serving": work.serving_s, "idle": work.idle_s}
    return {name: seconds / work.accepted for name, seconds in found.items()}


def _training(prices: Prices, run: Path | None) -> float:
    """Money that one adapter costs before its first picture.

    Raises:
        ConfigError: the run tells no seconds, or the price file does not say over how many pictures they are spread.
    """
    own = 0.0 if prices.training is None else prices.training.per_adapter
    if run is None:
        return own
    if prices.training is None:
        raise ConfigError(
            f"--run {run}: the price file has no [training] with pictures_per_adapter, over which the training is "
            "spread. Add it."
        )
    seconds = summary_of(run).seconds
    if not seconds:
        raise ConfigError(f"{run}: no finished training run, so its machine time is not known. Name another.")
    return own + seconds / 3600 * prices.machine.per_hour


def _picture_cost(
    work: MeasuredWork,
    costs: UnitCosts,
    money: _Money,
    steps: int,
    size: tuple[int, int],
    guided: bool,
    interval: tuple[float, float],
    native: int,
) -> PictureCost:
    area, rows = size[0] * size[1] / native**2, 2 if guided else 1
    seconds = costs.waste * costs.seconds_of_picture(steps=steps, rows=rows, area=area)
    num = sum(one.num for one in work.passes.values())
    mean = sum(one.area for one in work.passes.values()) / num
    return PictureCost(
        steps=steps,
        width_px=size[0],
        height_px=size[1],
        guided=guided,
        seconds=seconds,
        seconds_full=costs.waste * costs.seconds_of_picture(steps=steps, rows=rows, area=area, full=True),
        cost=money.of(seconds, work.utilisation),
        cost_interval=(money.of(seconds, interval[0]), money.of(seconds, interval[1])),
        training=money.training_per_picture,
        extrapolated=abs(area / mean - 1) > 0.01,
    )


def _break_even(hosted: HostedPrice, cost: PictureCost, money: _Money, training: float) -> BreakEven:
    """Compare with a hosted price: N* = (own training - hosted training) / (hosted price - own price)."""
    price, ahead = hosted.price_of(cost.width_px, cost.height_px), training - hosted.per_training

    def num_pictures(own: float) -> float | None:
        return (max(0.0, ahead) / (price - own)) if own < price else None

    return BreakEven(
        name=hosted.name,
        steps=cost.steps,
        width_px=cost.width_px,
        height_px=cost.height_px,
        hosted=price,
        utilisation=money.of(cost.seconds, 1.0) / price,
        pictures_an_hour=money.per_hour / price,
        num_pictures=(num_pictures(cost.cost_interval[0]), num_pictures(cost.cost_interval[1])),
    )


def _trace_cost(path: Path, costs: UnitCosts, money: _Money, native: int) -> TraceCost:
    # By the CPU clock the machine is taken to be the server's alone.
    load = simulate_load(read_trace(path, native_px=native), replace(costs, slowdown=1.0))
    return TraceCost(
        pictures=load.pictures,
        seconds_a_picture=load.seconds_a_picture,
        busy_s=load.busy_s,
        span_s=load.span_s,
        utilisation=min(1.0, load.busy_s / load.span_s),
        cost=money.of(costs.waste * load.span_s / load.pictures, 1.0),
        passes=load.passes,
    )
