"""A running average of the adapter: smoother than the weights of any one step."""

import torch
from torch import Tensor


class Ema:
    """Exponential moving average of the flat buffer, with a warm-up: a young average forgets fast.

    ``ema ← d·ema + (1 − d)·weights`` with ``d = min(decay, (1 + n) / (10 + n))`` at the n-th update after the first,
    which only copies; so a short run is not an average with where it started.
    """

    def __init__(self, values: Tensor, *, decay: float) -> None:
        """Begin at ``values`` (numel,) float32."""
        self.decay = decay
        self.values = values.detach().clone()

    def decay_at(self, update: int) -> float:
        """Decay of update number ``update``, counted from 1."""
        n = update - 1
        return 0.0 if n <= 0 else min(self.decay, (1 + n) / (10 + n))

    def update(self, values: Tensor, update: int) -> None:
        """Take the weights after update number ``update`` into the average."""
        with torch.no_grad():
            self.values.lerp_(values.detach(), 1.0 - self.decay_at(update))
