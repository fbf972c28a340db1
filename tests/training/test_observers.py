import contextlib
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from detour.errors import Interrupted, StorageError, TrainingDiverged
from detour.specs import OptimSpec
from detour.step_log import read_step_log
from detour.training.checkpoints import newest_good
from detour.training.ema import Ema
from detour.training.flat import FlatParameters, ParameterGroup
from detour.training.loop import StepReport, TrainState
from detour.training.observers import Checkpointer, MetricsLog, Pace, Sheets, Validator, restore
from detour.training.optim import FlatAdamW
from detour.training.stopping import StopRequest


def state(step: int = 0) -> TrainState:
    flat = FlatParameters([ParameterGroup("all", (nn.Parameter(torch.ones(3)),))])
    return TrainState(flat=flat, optimizer=FlatAdamW(flat, OptimSpec()), rate=lambda _: 0.1, step=step)


def report(step: int) -> StepReport:
    return StepReport(step=step, loss=1.0 / step, grad_norm=0.5, lr=0.1)


def test_log_has_a_line_a_step_as_soon_as_it_is_made(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in (1, 2):
        log.on_step(state(step), report(step))
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(1, step + 1))
    assert set(lines[0]) == {"step", "loss", "grad_norm", "lr", "seconds"}
    assert log.last_loss == 0.5
    log.close()


def test_log_tells_the_rate_that_an_optimizer_found_and_so_does_the_progress(tmp_path: Path) -> None:
    """Prodigy's ``lr`` is a factor: what was really taken is its estimate times that."""
    told: list[dict[str, float]] = []
    with contextlib.closing(MetricsLog(tmp_path)) as log:
        validator = Validator(log, lambda: 0.0, every=0, keep_best=False)
        pace = Pace(
            lambda _step, _left, figures: told.append(dict(figures)),
            first_step=0,
            steps=2,
            validator=validator,
        )
        for step, found in ((1, 2e-5), (2, None)):
            one = dataclasses.replace(report(step), d_lr=found)
            log.on_step(state(step), one)
            pace.on_step(state(step), one)
    first, second = read_step_log(tmp_path / "metrics.jsonl").lines
    assert (first["lr"], first["d_lr"]) == (0.1, 2e-5)
    assert "d_lr" not in second
    assert (told[0]["d·lr"], told[0].get("lr")) == (2e-5, None)
    assert (told[1]["lr"], told[1].get("d·lr")) == (0.1, None)


def test_log_is_cut_back_to_the_checkpoint_and_keeps_its_seconds(tmp_path: Path) -> None:
    lines = [{"step": s, "loss": float(s), "seconds": 2.0} for s in (1, 2, 3)]
    lines.insert(2, {"step": 2, "val_loss": 0.5})  # type: ignore[arg-type]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 4, "lo')
    log = MetricsLog(tmp_path, resumed_at=2)
    log.close()
    kept = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert kept == lines[:3]
    assert log.seconds == 4.0
    assert log.last_loss == 2.0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_line_and_closing_does_not_hide_it(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log._stream.close()
    log._stream = Path("/dev/full").open("a")  # noqa: SIM115
    with pytest.raises(StorageError, match=r"metrics\.jsonl: disk full"), contextlib.closing(log):
        log.on_step(state(1), report(1))


def test_sheets_come_every_so_many_steps_and_never_with_zero() -> None:
    drawn: list[int] = []
    for every in (3, 0):
        sheets = Sheets(drawn.append, every=every)
        for step in range(1, 8):
            sheets.on_step(state(step), report(step))
    assert drawn == [3, 6]


def test_validator_keeps_the_weights_of_the_lowest_loss_through_a_checkpoint(tmp_path: Path) -> None:
    losses = iter([0.9, 0.4, 0.6])
    log = MetricsLog(tmp_path)
    validator = Validator(log, lambda: next(losses), every=1, keep_best=True)
    now = state()
    for step in (1, 2, 3):
        now.flat.load(torch.full((3,), float(step)))
        now.step = step
        validator.on_step(now, report(step))
    assert (validator.best_step, validator.best_loss, validator.latest) == (2, 0.4, 0.6)
    assert validator.best_values is not None
    assert validator.best_values.tolist() == [2.0, 2.0, 2.0]
    other = Validator(log, lambda: 0.0, every=1, keep_best=True)
    other.load(validator.facts(), validator.tensors())
    assert (other.best_step, other.best_loss, other.latest) == (2, 0.4, 0.6)
    assert other.best_values is not None
    assert torch.equal(other.best_values, validator.best_values)
    log.close()


def test_what_is_shipped_is_what_is_validated_drawn_kept_and_remembered_as_the_best(tmp_path: Path) -> None:
    """An average that is not the trained weights, in all four places; the trained ones stand again afterwards."""
    now, stop = state(), StopRequest()
    now.ema = Ema(torch.full((3,), 7.0), decay=0.9)
    seen: dict[str, list[float]] = {}
    log = MetricsLog(tmp_path)

    def see(name: str) -> float:
        seen[name] = now.flat.parameters[0].tolist()
        return 0.5

    validator = Validator(log, lambda: see("validated"), every=1, keep_best=True)
    keeper = Checkpointer(
        tmp_path,
        every=1,
        keep=1,
        steps=9,
        stop=stop,
        log=log,
        validator=validator,
        facts={},
        keep_adapter=lambda step: see("kept"),
    )
    now.step = 1
    for observer in (validator, Sheets(lambda step: see("drawn") and None, every=1), keeper):
        observer.on_step(now, report(1))
    assert seen == {name: [7.0] * 3 for name in ("validated", "drawn", "kept")}
    assert validator.best_values is not None
    assert validator.best_values.tolist() == [7.0] * 3
    assert now.flat.values.tolist() == [1.0] * 3
    found, _ = newest_good(tmp_path)
    assert found is not None
    assert found.tensors["values"].tolist() == [1.0] * 3  # a resumed run trains on from these
    assert found.tensors["ema"].tolist() == [7.0] * 3
    log.close()


def test_patience_counts_on_after_a_resume(tmp_path: Path) -> None:
    losses = iter([0.5, 0.6, 0.7, 0.8])
    log = MetricsLog(tmp_path)
    before = Validator(log, lambda: next(losses), every=1, patience=3)
    for step in (1, 2, 3):
        before.on_step(state(step), report(step))
    after, now = Validator(log, lambda: next(losses), every=1, patience=3), state(4)
    after.load(before.facts(), before.tensors())
    assert (before.enough, after.enough) == (False, False)
    after.on_step(now, report(4))
    assert now.enough  # 0.6, 0.7, 0.8: three that were no better
    again = Validator(log, lambda: 0.0, every=1, patience=3)
    again.load(after.facts(), after.tensors())
    assert again.enough
    log.close()


def test_a_validation_loss_that_is_not_finite_stops_the_run_and_is_kept_nowhere(tmp_path: Path) -> None:
    losses = iter([0.9, float("nan")])
    log = MetricsLog(tmp_path)
    validator = Validator(log, lambda: next(losses), every=1, keep_best=True)
    validator.on_step(state(1), report(1))
    with pytest.raises(TrainingDiverged, match="step 2: the validation loss is nan"):
        validator.on_step(state(2), report(2))
    assert validator.facts()["val_loss"] == 0.9
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    log.close()


def test_a_checkpoint_is_written_on_a_request_to_stop(tmp_path: Path) -> None:
    log, stop, now = MetricsLog(tmp_path), StopRequest(), state()
    validator = Validator(log, lambda: 0.0, every=0, keep_best=False)
    keeper = Checkpointer(
        tmp_path, every=0, keep=1, steps=9, stop=stop, log=log, validator=validator, facts={"threads": 1}
    )
    for step in (1, 2):
        now.flat.parameters[0].sum().backward()
        now.update()
        keeper.on_step(now, report(step))
    assert newest_good(tmp_path)[0] is None
    stop.wanted = True
    with pytest.raises(Interrupted, match="after step 2 of 9"):
        keeper.on_step(now, report(2))
    found, _ = newest_good(tmp_path)
    assert found is not None
    fresh = state()
    restore(fresh, found)
    assert fresh.step == 2
    assert torch.equal(fresh.flat.values, now.flat.values)
    for mine, theirs in zip(
        fresh.optimizer.tensors().values(), now.optimizer.tensors().values(), strict=True
    ):
        assert torch.equal(mine, theirs)
    log.close()


def test_pace_counts_from_where_the_run_went_on(tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []
    log = MetricsLog(tmp_path)
    validator = Validator(log, lambda: 0.0, every=0, keep_best=False)
    pace = Pace(
        lambda step, left, figures: told.append((step, left)), first_step=4, steps=6, validator=validator
    )
    pace.on_step(state(5), report(5))
    pace.on_step(state(6), report(6))
    assert [step for step, _ in told] == [5, 6]
    assert told[0][1] > 0
    assert told[1][1] == 0
    log.close()
