"""AdamW over the flat buffer, and what every optimizer of a run can do."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from detour.specs import OptimSpec
from detour.training.flat import FlatParameters, ParameterGroup
from detour.training.optimizers import OPTIMIZERS


class FlatOptimizer(Protocol):
    """An optimizer over a flat buffer, whose state can be saved and put back exactly."""

    def update(self, lr: float, /) -> None:
        """One update at the run's rate ``lr`` (times each group's own); the gradients are zero afterwards."""

    def averaged(self) -> Tensor | None:
        """(numel,) float32: the weights to use and ship where they are not those that are trained."""

    def found_rate(self) -> float | None:
        """The rate that the optimizer found by itself, before the schedule's factor; ``None`` where it is given one."""

    def tensors(self) -> dict[str, Tensor]:
        """The state by name; what :meth:`load` takes."""

    def load(self, tensors: Mapping[str, Tensor], *, updates: int) -> None:
        """Put back the state as it was after ``updates`` updates."""


class FlatAdamW:
    """Fused AdamW on one flat buffer: two state tensors, each (numel,) float32."""

    def __init__(self, flat: FlatParameters, spec: OptimSpec) -> None:
        self.flat = flat
        self._rates = [group.rate for group in flat.groups]
        self._views = [window_of(flat, window) for window in flat.windows()]
        self._adamw = torch.optim.AdamW(
            [
                {"params": [view], **own_decay(group)}
                for view, group in zip(self._views, flat.groups, strict=True)
            ],
            lr=0.0,
            betas=betas(spec),
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

    def averaged(self) -> Tensor | None:
        """``None``: the trained weights are the ones to use."""
        return None

    def found_rate(self) -> float | None:
        """``None``: AdamW takes the rate that it is given."""
        return None

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


def betas(spec: OptimSpec) -> tuple[float, float]:
    """Decays of the moments, the optimizer's own where the settings leave them to it."""
    own = OPTIMIZERS[spec.name].beta2
    return spec.beta1, own if spec.beta2 == "auto" else spec.beta2


def own_decay(group: ParameterGroup) -> dict[str, float]:
    """The group's own weight decay as a setting of its optimizer group, where it has one."""
    return {} if group.weight_decay is None else {"weight_decay": group.weight_decay}


def window_of(flat: FlatParameters, window: slice) -> nn.Parameter:
    """A window of the buffer as a parameter of its own, sharing values and gradient."""
    view = nn.Parameter(flat.values.data[window])
    view.grad = flat.grads[window]
    return view
