"""AdamW over the flat buffer and the learning rate as a function of the step."""

import math
from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

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


class FlatOptimizer(Protocol):
    """An element-wise optimizer over a flat buffer, whose state can be saved and put back exactly."""

    def update(self, lr: float, /) -> None:
        """One update at the run's rate ``lr`` (times each group's own); the gradients are zero afterwards."""

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, float32 tensors; what :meth:`load` takes."""

    def load(self, tensors: Mapping[str, Tensor], *, updates: int) -> None:
        """Put back the state as it was after ``updates`` updates."""


class FlatAdamW:
    """Fused AdamW on one flat buffer: two state tensors, each (numel,) float32."""

    def __init__(self, flat: FlatParameters, spec: OptimSpec) -> None:
        self.flat = flat
        self._rates = [group.rate for group in flat.groups]
        self._views = [_view(flat, window) for window in flat.windows()]
        self._adamw = torch.optim.AdamW(
            [{"params": [view]} for view in self._views],
            lr=0.0,
            betas=(spec.beta1, spec.beta2),
            eps=spec.eps,
            weight_decay=spec.weight_decay,
            fused=flat.values.device.type in ("cpu", "cuda"),
        )
        self.load({name: torch.zeros_like(flat.values) for name in ("exp_avg", "exp_avg_sq")}, updates=0)

    def update(self, lr: float) -> None:
        """One AdamW update at rate ``lr`` times each group's own; the gradients are zero afterwards."""
        for settings, rate in zip(self._adamw.param_groups, self._rates, strict=True):
            settings["lr"] = lr * rate
        self._adamw.step()
        self.flat.zero_grads()

    def tensors(self) -> dict[str, Tensor]:
        """First and second moment over the whole buffer."""
        states = [self._adamw.state[view] for view in self._views]
        return {name: torch.cat([state[name] for state in states]) for name in ("exp_avg", "exp_avg_sq")}

    def load(self, tensors: Mapping[str, Tensor], *, updates: int) -> None:
        """Put back the moments as they were after ``updates`` updates."""
        for view, window in zip(self._views, self.flat.windows(), strict=True):
            # The fused kernel wants its counter as a float32 tensor on the parameter's device (torch 2.13).
            self._adamw.state[view] = {
                "step": torch.tensor(float(updates), device=view.device),
                "exp_avg": tensors["exp_avg"][window].detach().to(view).clone(),
                "exp_avg_sq": tensors["exp_avg_sq"][window].detach().to(view).clone(),
            }


def _view(flat: FlatParameters, window: slice) -> nn.Parameter:
    """A window of the buffer as a parameter of its own, sharing values and gradient."""
    view = nn.Parameter(flat.values.data[window])
    view.grad = flat.grads[window]
    return view
