"""One training step as a loss: a batch in, a scalar with a graph out."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detour.bases.denoiser import Denoiser
from detour.diffusion.objective import Objective
from detour.diffusion.randomness import derive
from detour.training.batches import Batch, BatchPlan, draw_batches
from detour.training.cache import TrainingData

PLAIN = Objective()
"""Mean squared error, every time alike: what validation measures, whatever the run trains on."""


def batch_loss(denoiser: Denoiser, batch: Batch, objective: Objective = PLAIN) -> Tensor:
    """Denoising error of a batch, a float32 scalar with a graph.

    Args:
        denoiser: the frozen network with an adapter beside it.
        batch: on the CPU.
        objective: distance and weights.
    """
    device, process = denoiser.device, denoiser.process
    latents, noise = batch.latents.to(device), batch.noise.to(device)
    times = batch.times.to(device)
    seen = noise if batch.seen_noise is None else batch.seen_noise.to(device)
    shown = {} if batch.shown is None else {"shown": batch.shown}
    noisy = process.mix(latents, seen, times)
    prediction = denoiser.predict(noisy, times, batch.text, batch.size_ids, **shown)
    return objective.loss(
        prediction,
        process.target(latents, noise, times),
        process=process,
        times=times,
        weights=None if batch.weights is None else batch.weights.to(device),
        mask=None if batch.mask is None else batch.mask.to(device),
    )


@dataclass(frozen=True)
class TrainingLoss:
    """(step, micro) → loss, as the loop wants it."""

    denoiser: Denoiser
    plan: BatchPlan
    data: TrainingData
    objective: Objective = PLAIN
    dropout: bool = False

    def __call__(self, step: int, micro: int) -> Tensor:
        batches = draw_batches(self.plan, self.data, step, micro)
        with self._own_dropout(step, micro):
            losses = [self.of_batch(batch) * (len(batch) / self.plan.batch) for batch in batches]
        return torch.stack(losses).sum()

    def of_batch(self, batch: Batch) -> Tensor:
        """Mean loss of the samples of one batch, a float32 scalar with a graph."""
        return batch_loss(self.denoiser, batch, self.objective)

    @contextlib.contextmanager
    def _own_dropout(self, step: int, micro: int) -> Iterator[None]:
        """Adapter dropout draws from the global generators: seed them for this pass, then put them back.

        One mask covers the whole micro-batch, so with dropout two half batches are not one full batch.
        """
        if not self.dropout:
            yield
            return
        set_adapter_dropout(self.denoiser.network, on=True)
        kind = torch.device(self.denoiser.device).type
        devices = [torch.device(self.denoiser.device)] if kind != "cpu" else []
        with torch.random.fork_rng(devices=devices, device_type=kind if kind != "cpu" else "cuda"):
            torch.manual_seed(
                derive(self.plan.seed, "dropout", step, micro * self.plan.slices + self.plan.slice)
            )
            yield


def set_adapter_dropout(network: nn.Module, *, on: bool) -> None:
    """Switch the adapter's dropout on or off; the base stays in evaluation mode.

    It stays on after a training pass: gradient checkpointing makes the pass again during the backward one, and must
    find it as it was. Whoever measures or draws switches it off.
    """
    for name, module in network.named_modules():
        if name.rpartition(".")[0].endswith("lora_dropout"):
            module.train(on)


@contextlib.contextmanager
def repeatable_kernels(device: str) -> Iterator[None]:
    """On cuda, choose kernels that give the same bits every time; CPUs do at one thread count."""
    if not device.startswith("cuda"):
        yield
        return
    import os

    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # cuBLAS asks for it before it promises anything
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
