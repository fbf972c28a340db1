"""One training step as a loss: a batch in, a scalar with a graph out."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detour.bases.quantize import Quantized
from detour.bases.text import Conditioning
from detour.diffusion.objective import Objective, PredictionType, target
from detour.diffusion.randomness import derive
from detour.diffusion.schedule import add_noise
from detour.training.batches import Batch, BatchPlan, draw_batches
from detour.training.cache import TrainingData

PLAIN = Objective()
"""Mean squared error, every timestep alike: what validation measures, whatever the run trains on."""


@dataclass(frozen=True)
class Denoiser:
    """The UNet with what it takes to ask it: where it lives, its precision, its schedule.

    Attributes:
        unet: frozen base with an adapter beside it.
        device: of the UNet.
        dtype: of the frozen weights. Below fp32 the pass runs under autocast: the adapter's masters stay fp32 and
            their matrix products run in ``dtype`` (without autocast PEFT saves fp32 copies of every input: 990 against
            762 MiB a sample at SD 1.5's shape).
        alphas: (T,) float32 on ``device``.
        kind: what the base predicts.
        size_px: side of the picture; SDXL is told it.
        quantized: what of the base is kept in fewer bits, if anything.
    """

    unet: nn.Module
    device: str
    dtype: torch.dtype
    alphas: Tensor
    kind: PredictionType
    size_px: int
    quantized: Quantized | None = None

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """The UNet on the CPU while another base needs the device's memory; a quantised one stays, it is small.

        For when training is over: moving a model gives every adapter tensor a storage of its own.
        """
        moves = self.device != "cpu" and self.quantized is None
        if moves:
            self.unet.to("cpu")
        try:
            yield
        finally:
            if moves:
                self.unet.to(self.device)

    def predict(
        self, noisy: Tensor, timesteps: Tensor, text: Conditioning, size_ids: Tensor | None = None
    ) -> Tensor:
        """The UNet's answer, (N, C, h, w).

        Args:
            noisy: (N, C, h, w) float32 on ``device``.
            timesteps: (N,) int64 on ``device``.
            text: states of N captions, anywhere.
            size_ids: (N, 6) what SDXL is told of each picture; ``None``: squares of ``size_px``, not cut.
        """
        text = text.to(self.device, self.dtype)
        added: dict[str, Tensor] | None = None
        if text.pooled is not None:
            if size_ids is None:
                side = float(self.size_px)
                size_ids = torch.tensor([[side, side, 0.0, 0.0, side, side]]).expand(len(text), 6)
            added = {"text_embeds": text.pooled, "time_ids": size_ids.to(self.device, self.dtype)}
        with torch.autocast(torch.device(self.device).type, self.dtype, enabled=self.dtype != torch.float32):
            prediction: Tensor = self.unet(
                noisy.to(self.dtype),
                timesteps,
                encoder_hidden_states=text.states,
                added_cond_kwargs=added,
                return_dict=False,
            )[0]
        return prediction

    def loss(self, batch: Batch, objective: Objective = PLAIN) -> Tensor:
        """Denoising error of a batch, a float32 scalar."""
        latents, noise = batch.latents.to(self.device), batch.noise.to(self.device)
        timesteps = batch.timesteps.to(self.device)
        seen = noise if batch.seen_noise is None else batch.seen_noise.to(self.device)
        prediction = self.predict(
            add_noise(latents, seen, timesteps, self.alphas), timesteps, batch.text, batch.size_ids
        )
        wanted = target(self.kind, latents=latents, noise=noise, timesteps=timesteps, alphas=self.alphas)
        return objective.loss(
            prediction,
            wanted,
            kind=self.kind,
            timesteps=timesteps,
            alphas=self.alphas,
            weights=None if batch.weights is None else batch.weights.to(self.device),
            mask=None if batch.mask is None else batch.mask.to(self.device),
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
            losses = [
                self.denoiser.loss(batch, self.objective) * (len(batch) / self.plan.batch)
                for batch in batches
            ]
        return torch.stack(losses).sum()

    @contextlib.contextmanager
    def _own_dropout(self, step: int, micro: int) -> Iterator[None]:
        """Adapter dropout draws from the global generators: seed them for this pass, then put them back.

        One mask covers the whole micro-batch, so with dropout two half batches are not one full batch.
        """
        if not self.dropout:
            yield
            return
        set_adapter_dropout(self.denoiser.unet, on=True)
        kind = torch.device(self.denoiser.device).type
        devices = [torch.device(self.denoiser.device)] if kind != "cpu" else []
        with torch.random.fork_rng(devices=devices, device_type=kind if kind != "cpu" else "cuda"):
            torch.manual_seed(
                derive(self.plan.seed, "dropout", step, micro * self.plan.slices + self.plan.slice)
            )
            yield


def set_adapter_dropout(unet: nn.Module, *, on: bool) -> None:
    """Switch the adapter's dropout on or off; the base stays in evaluation mode.

    It stays on after a training pass: gradient checkpointing makes the pass again during the backward one, and must
    find it as it was. Whoever measures or draws switches it off.
    """
    for name, module in unet.named_modules():
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
