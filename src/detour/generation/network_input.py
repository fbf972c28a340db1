"""Rows that the network of a base is asked about, apart from any picture that is being drawn."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from detour.bases.text import Conditioning


@dataclass(frozen=True)
class NetworkInput:
    """Rows that the network is asked about.

    Attributes:
        noisy: (N, C, h, w) float32.
        times: (N,).
        text: states of N texts.
        sizes: (N, 6) what a network that reads sizes is told.
    """

    noisy: Tensor
    times: Tensor
    text: Conditioning
    sizes: Tensor

    def first(self, num: int) -> NetworkInput:
        """The first ``num`` rows of this input."""
        return NetworkInput(
            self.noisy[:num], self.times[:num], self.text.select(slice(num)), self.sizes[:num]
        )
