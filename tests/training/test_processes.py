"""Sharing a step, with real processes that talk through gloo; a fork server makes them cheap."""

import os
import signal
import socket
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detour.errors import ConfigError, ProcessLost, RunError
from detour.training.batches import BatchPlan
from detour.training.flat import FlatParameters, ParameterGroup
from detour.training.loop import TrainState, fit
from detour.training.processes import Processes, joined, launched_as, share_of
from tests.forked import SERVER

BATCH, GRAD_ACCUM, STEPS = 4, 2, 20
ROWS = torch.randn(BATCH * GRAD_ACCUM, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("batch", "grad_accum"), [(1, 4), (4, 1), (2, 3), (6, 4), (3, 2)])
def test_the_shares_of_all_processes_are_the_step_each_sample_once(batch: int, grad_accum: int) -> None:
    whole = batch * grad_accum
    for count in (n for n in range(1, whole + 1) if whole % n == 0):
        shown: list[int] = []
        for index in range(count):
            share = share_of(Processes(index, count), batch=batch, grad_accum=grad_accum)
            plan = BatchPlan(
                seed=0, batch=batch, grad_accum=grad_accum, slice=share.slice, slices=share.slices
            )
            mine = [number for micro in share.micros(grad_accum) for number in plan.samples(micro)]
            assert len(mine) == whole // count
            shown += mine
        assert sorted(shown) == list(range(whole))


def test_samples_that_cannot_be_shared_evenly_say_how_to_mend_it() -> None:
    with pytest.raises(
        ConfigError, match=r"3 processes cannot share the 8 samples.*Set --batch 6, or --proc"
    ):
        share_of(Processes(0, 3), batch=4, grad_accum=2)
    with pytest.raises(ConfigError, match=r"2 processes cannot share the 1 samples.*Set --batch 2\.$"):
        share_of(Processes(0, 2), batch=1, grad_accum=1)


class Descent:
    """The plainest optimizer: torch's own import seconds of compiler in every new process."""

    def __init__(self, flat: FlatParameters) -> None:
        self.flat = flat

    def update(self, lr: float) -> None:
        self.flat.values.data.sub_(self.flat.grads, alpha=lr)
        self.flat.zero_grads()

    def found_rate(self) -> float | None:
        return None

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load(self, tensors: Mapping[str, Tensor], *, updates: int) -> None:
        pass


def trained(processes: Processes) -> list[float]:
    """A few updates of a small model on this process's share; the weights afterwards."""
    flat = FlatParameters([ParameterGroup("all", (nn.Parameter(torch.tensor([0.5, -1.0, 2.0])),))])
    state = TrainState(flat=flat, optimizer=Descent(flat), rate=lambda _: 0.05)
    share = share_of(processes, batch=BATCH, grad_accum=GRAD_ACCUM)
    plan = BatchPlan(seed=0, batch=BATCH, grad_accum=GRAD_ACCUM, slice=share.slice, slices=share.slices)

    def loss_fn(step: int, micro: int) -> Tensor:
        rows = ROWS[list(plan.samples(micro))]
        return (rows @ flat.parameters[0] - step).square().sum() / BATCH

    fit(state, loss_fn, [], steps=STEPS, grad_accum=GRAD_ACCUM, max_grad_norm=1.0, share=share)
    return flat.values.tolist()


def member(index: int, count: int, port: int, task: str, pipe: Connection) -> None:
    """In a child: join the others, do ``task``, send what came of it."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(index),
        "LOCAL_RANK": str(index),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    with joined("cpu") as processes:
        pipe.send(TASKS[task](processes))


def talk(processes: Processes) -> Any:
    same = torch.tensor([1.0, -0.0, 3.0])
    processes.check_same(same, step=1)
    other = same.clone()
    other[2] += 1e-6 * processes.index
    try:
        processes.check_same(other, step=7)
        drift = ""
    except RunError as error:
        drift = str(error)
    requests = (processes.any_of(processes.index == 1), processes.any_of(False))
    return processes.index, processes.from_first(f"run-{processes.index}"), requests, drift


def lose_one(processes: Processes) -> Any:
    if processes.index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    begun = time.monotonic()
    try:
        processes.add_up(torch.ones(3))
    except ProcessLost as error:
        return str(error), time.monotonic() - begun
    return None


TASKS = {"train": trained, "talk": talk, "lose one": lose_one}


def together(task: str, count: int) -> list[Any]:
    """What each process sent; ``None`` for one that sent nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, children = [], []
    for index in range(count):
        ours, theirs = SERVER.Pipe(duplex=False)
        child = SERVER.Process(target=member, args=(index, count, port, task, theirs))
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    sent = []
    for pipe in pipes:
        try:
            sent.append(pipe.recv())
        except EOFError:
            sent.append(None)
    for child in children:
        child.join(30)
    return sent


@pytest.mark.parametrize("count", [2, 4])
def test_processes_that_share_a_step_end_with_the_weights_of_one(count: int) -> None:
    alone = trained(Processes())
    weights = together("train", count)
    assert all(each == weights[0] for each in weights)
    assert weights[0] == pytest.approx(alone, rel=1e-6)


def test_processes_tell_each_other_names_wishes_and_drift() -> None:
    for index, (who, name, requests, drift) in enumerate(together("talk", 2)):
        assert who == index
        assert name == "run-0"
        assert requests == (True, False)
        assert "step 7: the weights are not the same in all processes" in drift


def test_a_killed_process_is_noticed_at_once() -> None:
    (words, seconds), nothing = together("lose one", 2)
    assert nothing is None
    assert words.startswith("another process of this run ended")
    assert seconds < 10


def test_a_process_that_nobody_launched_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched_as() == Processes()
    with joined("cpu") as processes:
        assert processes == Processes()
        assert processes.from_first("x") == "x"
        assert processes.any_of(True)


def test_what_processes_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 processes, but 1 GPUs"), joined("cuda"):
        pass
    with pytest.raises(ConfigError, match="'mps' cannot be shared"), joined("mps"):
        pass
