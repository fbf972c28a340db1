"""Optimizers of other libraries on the flat buffer, their state saved and put back exactly."""

import contextlib
import io
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from detour.errors import ConfigError
from detour.specs import OptimSpec
from detour.training.flat import FlatParameters
from detour.training.optim import FlatAdamW, FlatOptimizer, betas, own_decay, window_of
from detour.training.optimizers import require_package

Make = Callable[[list[dict[str, Any]]], Any]
"""Parameter groups → a ``torch.optim.Optimizer``."""

LIBRARY_D0 = 1e-6
"""prodigyopt's own first estimate; runs that were made before it could be set go on with it."""

SCALARS: Mapping[str, tuple[type, torch.dtype]] = {
    "bool": (bool, torch.bool),
    "int": (int, torch.int64),
    "float": (float, torch.float64),
}
"""Python's numbers in a state, which keep their type and every bit as tensors of one element."""


class LibraryOptimizer:
    """Any ``torch.optim.Optimizer`` whose state is tensors and numbers.

    An element-wise one gets one tensor a group, a window of the buffer; one that looks at rows and columns gets the
    parameters themselves, whose values and gradients are views of the buffer as well.
    """

    def __init__(self, flat: FlatParameters, make: Make, *, separate: bool = False) -> None:
        self.flat = flat
        self._rates = [group.rate for group in flat.groups]
        self._optimizer = make(
            [
                {
                    "params": list(group.parameters) if separate else [window_of(flat, window)],
                    **own_decay(group),
                }
                for group, window in zip(flat.groups, flat.windows(), strict=True)
            ]
        )
        self._tensors = [tensor for group in self._optimizer.param_groups for tensor in group["params"]]

    def update(self, lr: float) -> None:
        """One update at rate ``lr`` times each group's own; the gradients are zero afterwards."""
        for settings, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            settings["lr"] = lr * rate
        self._optimizer.step()
        self.flat.zero_grads()

    def averaged(self) -> Tensor | None:
        """``None``: the trained weights are the ones to use."""
        return None

    def found_rate(self) -> float | None:
        """Prodigy's estimate ``d``, which it multiplies the rate by; ``None`` for optimizers that have none."""
        found = self._optimizer.param_groups[0].get("d")
        return None if found is None else float(found)

    def tensors(self) -> dict[str, Tensor]:
        """State of every tensor, and the numbers that the groups have gathered (Prodigy keeps its estimate there)."""
        found: dict[str, Tensor] = {}
        for index, tensor in enumerate(self._tensors):
            for key, value in self._optimizer.state.get(tensor, {}).items():
                found |= _named(f"{index}.{key}", value)
        for index, settings in enumerate(self._optimizer.param_groups):
            for key, value in settings.items():
                if key not in ("params", "lr") and value != self._optimizer.defaults.get(key):
                    found |= _named(f"group.{index}.{key}", value)
        return found

    def load(self, tensors: Mapping[str, Tensor], *, updates: int) -> None:  # noqa: ARG002 the state counts itself
        """Put back what :meth:`tensors` gave."""
        self._optimizer.state.clear()
        defaults = self._optimizer.defaults
        for settings in self._optimizer.param_groups:
            settings.update({key: value for key, value in defaults.items() if key != "lr"})
        for name, saved in tensors.items():
            place, kind = name.partition(":")[::2]
            value = SCALARS[kind][0](saved.item()) if kind else saved
            if place.startswith("group."):
                _, index, key = place.split(".", 2)
                self._optimizer.param_groups[int(index)][key] = value
            else:
                index, key = place.split(".", 1)
                owner = self._tensors[int(index)]
                moved = value.detach().to(owner.device).clone() if isinstance(value, Tensor) else value
                self._optimizer.state[owner][key] = moved


class ScheduleFree(LibraryOptimizer):
    """Schedule-free AdamW: gradients are taken at one point (``y``), and a running average of weights is used.

    The library switches a model's weights between both in place, which rounds and so would make a run with samples
    another run than one without. Here the average is computed beside the weights, which stay as they are.

    Source: Defazio et al. 2024, arXiv:2405.15682, algorithm 1.
    """

    def __init__(self, flat: FlatParameters, make: Make) -> None:
        super().__init__(flat, make)
        self._optimizer.train()

    def load(self, tensors: Mapping[str, Tensor], *, updates: int) -> None:
        """Put the state back as every library's optimizer does, and go on training."""
        super().load(tensors, updates=updates)
        self._optimizer.train()

    def averaged(self) -> Tensor | None:
        """``x = y + (1 − 1/β₁)(z − y)``, in which ``y`` are the weights that are trained."""
        if any("z" not in self._optimizer.state[y] for y in self._tensors):
            return None  # before the first update
        parts = [
            torch.lerp(y.detach(), self._optimizer.state[y]["z"], 1 - 1 / settings["betas"][0])
            for settings in self._optimizer.param_groups
            for y in settings["params"]
        ]
        return torch.cat(parts)


def new_optimizer(flat: FlatParameters, spec: OptimSpec) -> FlatOptimizer:
    """The optimizer that resolved settings name, at step 0.

    Raises:
        ConfigError: its package is missing, or it cannot give groups rates of their own.
    """
    if spec.name == "adamw":
        return FlatAdamW(flat, spec)
    require_package(spec.name)
    if spec.name == "adafactor":
        return LibraryOptimizer(flat, lambda groups: _adafactor(groups, spec), separate=True)
    if spec.name == "schedule_free":
        return ScheduleFree(flat, lambda groups: _schedule_free(groups, spec))
    if spec.name == "prodigy" and any(group.rate != 1.0 for group in flat.groups):
        own = ", ".join(f"{group.name} ×{group.rate:g}" for group in flat.groups if group.rate != 1.0)
        raise ConfigError(
            f"train.optim.name 'prodigy' finds one rate for everything, but some parts have a rate of their own "
            f"({own}). Set those rates to 1, or choose another optimizer."
        )
    make = {"adamw8bit": _adamw8bit, "prodigy": _prodigy, "lion": _lion}[spec.name]
    return LibraryOptimizer(flat, lambda groups: make(groups, spec))


def _adamw8bit(groups: list[dict[str, Any]], spec: OptimSpec) -> Any:
    """Dettmers et al. 2021, arXiv:2110.02861."""
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups, lr=1.0, betas=betas(spec), eps=spec.eps, weight_decay=spec.weight_decay)


def _adafactor(groups: list[dict[str, Any]], spec: OptimSpec) -> Any:
    """Shazeer and Stern 2018, arXiv:1804.04235, at a rate that is given.

    Without ``scale_parameter``: it multiplies the rate by the size of the weights, and ``up`` starts at zero.
    """
    from transformers.optimization import Adafactor

    return Adafactor(
        groups, lr=1.0, weight_decay=spec.weight_decay, scale_parameter=False, relative_step=False
    )


def _prodigy(groups: list[dict[str, Any]], spec: OptimSpec) -> Any:
    """Mishchenko and Defazio 2023, arXiv:2306.06101, with what its authors advise for diffusion models."""
    from prodigyopt import Prodigy

    with contextlib.redirect_stdout(io.StringIO()):  # prodigyopt 1.1 prints that it decays weights
        return Prodigy(
            groups,
            betas=betas(spec),
            eps=spec.eps,
            weight_decay=spec.weight_decay,
            use_bias_correction=True,
            safeguard_warmup=True,
            d0=LIBRARY_D0 if spec.d0 is None else spec.d0,
            d_coef=spec.d_coef,
        )


def _lion(groups: list[dict[str, Any]], spec: OptimSpec) -> Any:
    """Chen et al. 2023, arXiv:2302.06675."""
    from lion_pytorch import Lion

    return Lion(groups, betas=betas(spec), weight_decay=spec.weight_decay)


def _schedule_free(groups: list[dict[str, Any]], spec: OptimSpec) -> Any:
    # Warm-up is the run's own: the average weighs each step by its rate either way.
    from schedulefree import AdamWScheduleFree

    return AdamWScheduleFree(groups, betas=betas(spec), eps=spec.eps, weight_decay=spec.weight_decay)


def _named(name: str, value: Any) -> dict[str, Tensor]:
    """One entry of a state as a tensor; text, tuples and ``None`` are settings, which the spec keeps."""
    if isinstance(value, Tensor):
        return {name: value.detach()}
    kind = type(value).__name__
    return {f"{name}:{kind}": torch.tensor(value, dtype=SCALARS[kind][1])} if kind in SCALARS else {}
