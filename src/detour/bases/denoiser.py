"""The network of a base behind one function: noisy latents in, prediction out.

Training asks it with gradients; drawing, studies and proofs ask it without. Guidance is not its business: that is a
pure function of several predictions (``detour.diffusion.guidance``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from detour.bases.networks import NETWORK_CALLS
from detour.bases.quantize import Quantized
from detour.bases.text import Conditioning
from detour.diffusion.process import Process

if TYPE_CHECKING:
    from detour.bases.base import Base


class ShowsPictures(Protocol):
    """What shows the network a picture beside the text: an IP-Adapter in training."""

    def showing(self, embeddings: Tensor, /) -> contextlib.AbstractContextManager[None]:
        """Show each of N rows a picture inside the block, as (N, width) embeddings."""


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """The frozen network of a base, where it lives, its precision and its process.

    Attributes:
        network: UNet or transformer, with or without an adapter beside its layers.
        part: folder of the network in the base, "unet" or "transformer"; layer keys of adapters begin with it.
        kind: class of the network, a key of :data:`detour.bases.networks.NETWORK_CALLS`.
        process: relates clean latents, noise and time; on ``device``.
        device: of the network.
        dtype: of the frozen weights.
        autocast: below fp32, run the pass under autocast (training: the adapter's fp32 masters stay fp32 and their
            matrix products run in ``dtype``; without it PEFT saves fp32 copies of every input, 990 against 762 MiB a
            sample at SD 1.5's shape) instead of handing the network inputs in ``dtype`` (drawing).
        latent_factor: pixels a latent position, along one side.
        quantized: what of the network is kept in fewer bits, if anything.
        references: shows rows a picture, where an IP-Adapter is in training.
    """

    network: nn.Module
    part: str
    kind: str
    process: Process
    device: str
    dtype: torch.dtype
    autocast: bool
    latent_factor: int = 8
    quantized: Quantized | None = None
    references: ShowsPictures | None = None

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """Keep the network on the CPU while another one needs the device's memory; a quantised one stays.

        For when training is over: moving a model gives every adapter tensor a storage of its own.
        """
        moves = self.device != "cpu" and self.quantized is None
        if moves:
            self.network.to("cpu")
        try:
            yield
        finally:
            if moves:
                self.network.to(self.device)

    def predict(
        self,
        noisy: Tensor,
        times: Tensor,
        text: Conditioning,
        sizes: Tensor | None = None,
        *,
        shown: Tensor | None = None,
    ) -> Tensor:
        """Ask the network about N rows of noisy latents.

        Args:
            noisy: (N, C, h, w) float32 on ``device``.
            times: (N,) in the units of the process: integer timesteps, or noise levels of a flow. Fractional
                timesteps of samplers pass as they are.
            text: states of N prompts, anywhere.
            sizes: (N, 6) original height and width, top and left of the crop, target height and width in pixels;
                ``None``: pictures of the latents' own size, not cut.
            shown: (N, width) float32 embeddings of the rows' reference pictures, where an IP-Adapter is in training.

        Returns:
            (N, C, h, w), what the process says the network predicts, in ``dtype`` or float32.
        """
        text = text.to(self.device, self.dtype)
        if sizes is None:
            sizes = self._own_sizes(noisy)
        call = NETWORK_CALLS[self.kind]
        kind = torch.device(self.device).type
        showing: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if shown is not None and self.references is not None:
            showing = self.references.showing(shown.to(self.device))
        with showing, torch.autocast(kind, self.dtype, enabled=self.autocast and self.dtype != torch.float32):
            return call(self.network, noisy.to(self.dtype), self.process.model_time(times), text, sizes)

    def _own_sizes(self, noisy: Tensor) -> Tensor:
        height, width = (float(side * self.latent_factor) for side in noisy.shape[-2:])
        return torch.tensor([[height, width, 0.0, 0.0, height, width]]).expand(len(noisy), 6)


def make_denoiser(
    base: Base,
    network: nn.Module,
    *,
    device: str,
    dtype: torch.dtype,
    autocast: bool = False,
    quantized: Quantized | None = None,
) -> Denoiser:
    """Put a loaded network of a base together with the base's process.

    Args:
        base: whose network it is.
        network: on ``device``, in ``dtype``.
        device: of the passes.
        dtype: of the passes.
        autocast: as :attr:`Denoiser.autocast`.
        quantized: what of the network is in fewer bits.
    """
    return Denoiser(
        network=network,
        part=base.family.network_part,
        kind=base.family.network,
        process=base.process().to(device),
        device=device,
        dtype=dtype,
        autocast=autocast,
        latent_factor=base.latent_factor,
        quantized=quantized,
    )
