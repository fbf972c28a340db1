"""AdamW over the flat buffer and the learning rate as a function of the step."""

import math
from typing import Literal

import torch
from torch import Tensor

from detour.specs import OptimSpec
from detour.training.flat import FlatParameters


def learning_rate(
    step: int, *, peak: float, kind: Literal["constant", "cosine", "linear"], warmup: int, steps: int
) -> float:
    """Rate of update ``step`` (counted from 0) of ``steps``.

    Linear warm-up reaches ``peak`` at update ``warmup``; its first update is not zero, so none is wasted. Cosine
    and linear then fall towards zero, which the update after the last one would have.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if kind == "constant":
        return peak
    share = (step - warmup) / max(1, steps - warmup)
    return peak * (0.5 * (1 + math.cos(math.pi * share)) if kind == "cosine" else 1 - share)


class FlatAdamW:
    """Fused AdamW on one flat buffer, with a state of two tensors that can be saved and put back exactly."""

    def __init__(self, flat: FlatParameters, spec: OptimSpec) -> None:
        self.flat = flat
        self._adamw = torch.optim.AdamW(
            [flat.values],
            lr=0.0,
            betas=(spec.beta1, spec.beta2),
            eps=spec.eps,
            weight_decay=spec.weight_decay,
            fused=flat.values.device.type in ("cpu", "cuda"),
        )
        self.load(torch.zeros_like(flat.values), torch.zeros_like(flat.values), updates=0)

    def update(self, lr: float) -> None:
        """One AdamW update at rate ``lr``; the gradients are zero afterwards."""
        self._adamw.param_groups[0]["lr"] = lr
        self._adamw.step()
        self.flat.zero_grads()

    def moments(self) -> tuple[Tensor, Tensor]:
        """First and second moment, each (numel,) float32."""
        state = self._adamw.state[self.flat.values]
        return state["exp_avg"], state["exp_avg_sq"]

    def load(self, exp_avg: Tensor, exp_avg_sq: Tensor, *, updates: int) -> None:
        """Put back the moments as they were after ``updates`` updates."""
        values = self.flat.values
        # The fused kernel wants its counter as a float32 tensor on the parameter's device (torch 2.13).
        self._adamw.state[values] = {
            "step": torch.tensor(float(updates), device=values.device),
            "exp_avg": exp_avg.detach().to(values).clone(),
            "exp_avg_sq": exp_avg_sq.detach().to(values).clone(),
        }
