"""Several processes on one machine that train one adapter, each on its share of every step's samples.

Noise, timesteps and order are functions of (seed, step, sample), so the samples of a step are the same however many
processes share them. Each process adds the gradients of its share into its flat buffer, one all-reduce adds the
buffers up, and all make the same update: nothing else has to be kept equal, and the first one alone writes.

Set-up and the choice of devices are accelerate's (``PartialState``); ``accelerate launch -m detour train`` and
``detour train --processes`` make the same environment.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor

from detour.errors import ConfigError, ProcessLost, RunError

T = TypeVar("T")

SILENCE = timedelta(hours=2)
"""How long the others wait for a process that lives and says nothing: the first one may be drawing a subject's class
pictures. A process that dies is noticed at once, because its connection closes or the launcher sees it."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together, and the values that they exchange.

    Every method that says something must be called by all of them, in the same order.
    """

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the first process, which alone writes the run folder and prints."""
        return self.index == 0

    def add_up(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by the sum over all processes, in place; all get the same bits.

        Raises:
            ProcessLost: another process ended.
        """
        if self.count > 1:
            with _losses_said():
                torch.distributed.all_reduce(tensor)

    def from_first(self, value: T) -> T:
        """The value of the first process.

        Raises:
            ProcessLost: the first process ended.
        """
        if self.count == 1:
            return value
        box = [value]
        with _losses_said():
            torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def any_of(self, request: bool) -> bool:
        """Whether any process requests it."""
        requests = torch.tensor([float(request)], device=_device())
        self.add_up(requests)
        return bool(requests.item())

    def check_same(self, values: Tensor, *, step: int) -> None:
        """Compare the bits of the weights, of which each process keeps its own.

        Raises:
            RunError: they are not the same everywhere.
        """
        if self.count == 1:
            return
        bits = values.detach().view(torch.int32).sum(dtype=torch.int64)
        both = torch.stack([bits, -bits])
        with _losses_said():
            torch.distributed.all_reduce(both, op=torch.distributed.ReduceOp.MAX)
        if int(both[0]) != -int(both[1]):
            raise RunError(
                f"step {step}: the weights are not the same in all processes, which must not happen; this checkpoint "
                "is not written. Go on with --resume, and with one process if it comes again."
            )


ALONE = Processes()


@dataclass(frozen=True)
class Share:
    """The part of each step that one process computes: some of its micro-batches, or a slice of each of these.

    Attributes:
        processes: among whom the step is shared.
        part, parts: this process takes the ``part``-th of ``parts`` equal runs of micro-batches …
        slice, slices: … and of each of them the ``slice``-th of ``slices`` equal slices.
    """

    processes: Processes = ALONE
    part: int = 0
    parts: int = 1
    slice: int = 0
    slices: int = 1

    def micros(self, grad_accum: int) -> range:
        """Which of a step's micro-batches."""
        each = grad_accum // self.parts
        return range(self.part * each, (self.part + 1) * each)

    def add_up(self, grads: Tensor, loss: Tensor) -> None:
        """Sum both over all processes, in place.

        Args:
            grads: (numel,) the flat buffer; one all-reduce.
            loss: a scalar, this process's part of the step's loss.
        """
        self.processes.add_up(grads)
        self.processes.add_up(loss)


WHOLE = Share()
"""Share of a process that trains alone."""


def share_of(processes: Processes, *, batch: int, grad_accum: int) -> Share:
    """Divide a step of ``batch * grad_accum`` samples evenly: by micro-batches where they suffice, then by slices.

    Raises:
        ConfigError: the samples cannot be divided evenly.
    """
    count = processes.count
    if batch * grad_accum % count:
        slices = count // math.gcd(count, grad_accum)
        up = -(-batch // slices) * slices
        divisors = [str(n) for n in range(2, batch * grad_accum + 1) if batch * grad_accum % n == 0]
        fewer = f", or --processes {' or '.join(divisors)}" if divisors else ""
        raise ConfigError(
            f"{count} processes cannot share the {batch * grad_accum} samples of a step (batch {batch} × grad-accum "
            f"{grad_accum}) evenly. Set --batch {up}{fewer}."
        )
    parts = math.gcd(count, grad_accum)
    slices = count // parts
    part, slice_ = divmod(processes.index, slices)
    return Share(processes, part, parts, slice_, slices)


def launched_as() -> Processes:
    """Which process this is, as the launcher's environment has it, before anybody is connected."""
    return Processes(index=int(os.environ.get("RANK", "0")), count=int(os.environ.get("WORLD_SIZE", "1")))


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Meet the other processes that the launcher started, if it started any.

    Args:
        device: ``cuda`` gives each process a GPU of its own and NCCL, ``cpu`` gloo.

    Raises:
        ConfigError: a device that processes cannot share, or fewer GPUs than processes.
        ProcessLost: the others never came.
    """
    launched = launched_as()
    if launched.count == 1:
        yield ALONE
        return
    from accelerate import PartialState

    kind = device.partition(":")[0]
    if kind == "mps":
        raise ConfigError("device 'mps' cannot be shared by several processes. Leave --processes out.")
    if kind == "cuda" and torch.cuda.device_count() < int(os.environ.get("LOCAL_WORLD_SIZE", launched.count)):
        found = torch.cuda.device_count()
        raise ConfigError(
            f"{launched.count} processes, but {found} GPUs. Set --processes {found}, or --device cpu."
        )
    with _losses_said():
        state = PartialState(cpu=kind == "cpu", timeout=SILENCE)
    try:
        yield Processes(index=state.process_index, count=state.num_processes)
    finally:
        leave()


def leave() -> None:
    """Part from the others, if there are any left to part from; all do it at the same place."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from accelerate import PartialState

        torch.distributed.destroy_process_group()
        PartialState._reset_state()


def _device() -> torch.device:
    """Where small tensors must lie to be sent: NCCL knows GPUs only."""
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "nccl":
        return torch.device("cuda")
    return torch.device("cpu")


@contextlib.contextmanager
def _losses_said() -> Iterator[None]:
    """Backends report a dead peer as a RuntimeError with a page of text (torch 2.13)."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost("another process of this run ended, or said nothing for too long.") from error
