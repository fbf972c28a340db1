"""Layers in training that are not plain LoRA: factors in training, added by a hook beside a frozen layer.

PEFT has DoRA, LoHa and LoKr too, each as a wrapper that others cannot stand on; its LoHa and LoKr build the dense
``ΔW`` at every pass and push the input through a second time. Here the frozen layer stays as it is and a hook adds
what the factors add, through the factors where that is cheaper. What :meth:`TrainableLayer.layer` gives has the same
``ΔW``, and gradients are held against PEFT's own modules in the tests.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detour.adapter_methods import FROM_BASE, AdapterMethod, Start
from detour.adapters import start
from detour.adapters.layers import DoraLayer, Layer, LoraLayer, output_norms
from detour.adapters.lycoris_layers import LohaLayer, LokrLayer
from detour.errors import AdapterError

Frozen = nn.Linear | nn.Conv2d

ALPHA_DIGITS = 1e-6
"""Relative difference below which two alphas are equal: files keep them in single precision."""


class TrainableLayer(ABC):
    """One adapted layer in training: ``y = W x + b + weight · (what the factors add)``.

    Attributes:
        key: of the layer.
        factors: name → live float32 parameter, in a fixed order.
        constants: name → float32 tensor of the same shape that stands beside the factors and never changes.
        alpha: numerator of the scale ``alpha / rank``.
        weight: strength; 1 in training.
        active: whether it answers at all.
    """

    def __init__(
        self, key: str, module: Frozen, factors: Mapping[str, Tensor], *, alpha: float, name: str
    ) -> None:
        self.key, self.name, self.alpha = key, name, alpha
        self.weight, self.active = 1.0, True
        self.module = module
        device = module.weight.device
        self.factors = {
            factor: nn.Parameter(tensor.to(device, torch.float32)) for factor, tensor in factors.items()
        }
        self.constants: dict[str, Tensor] = {}
        self._handle = module.register_forward_hook(self._add)

    @abstractmethod
    def added(self, x: Tensor, output: Tensor) -> Tensor:
        """What the factors add to the frozen layer's ``output`` for its input ``x``; with a graph."""

    @abstractmethod
    def made_of(self, factors: Mapping[str, Tensor]) -> Layer:
        """The layer that these factors are, with the same ``ΔW`` as :meth:`added`."""

    @abstractmethod
    def factors_in(self, layer: Layer) -> Mapping[str, Tensor]:
        """The factors that make ``layer``; the inverse of :meth:`made_of`.

        Raises:
            AdapterError: it is of another kind.
        """

    def layer(self) -> Layer:
        """A copy on the CPU in float32."""
        return self.made_of({name: plain_copy(factor) for name, factor in self.factors.items()})

    def load(self, layer: Layer) -> None:
        """Copy the factors of ``layer`` into the live ones, in place.

        Raises:
            AdapterError: another kind, shape or alpha.
        """
        values = self.factors_in(layer)
        fits = {name: tuple(t.shape) for name, t in values.items()} == {
            name: tuple(p.shape) for name, p in self.factors.items()
        }
        if not fits or not math.isclose(layer.alpha, self.layer().alpha, rel_tol=ALPHA_DIGITS):
            raise AdapterError(f"'{self.key}' has another shape, rank or alpha in the adapter than attached.")
        for name, value in values.items():
            self.factors[name].data.copy_(value)

    def remove(self) -> None:
        """Take the hook away: the plain layer answers again."""
        self._handle.remove()

    def _add(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not self.active or self.weight == 0.0:
            return None
        x: Tensor = args[0]
        if x.dtype != torch.float32 and not torch.is_autocast_enabled(x.device.type):
            x = x.float()  # the factors are float32
        added = self.added(x, output)
        return (output + (added if self.weight == 1.0 else self.weight * added)).to(output.dtype)

    def _of_kind(self, layer: Layer, kind: type) -> None:
        if not isinstance(layer, kind):
            raise AdapterError(f"'{self.key}' is {layer.kind} in the adapter and another kind as attached.")


class TrainableDora(TrainableLayer):
    """``y = b + m / ‖W + ΔW‖ · (W x + ΔW x)``; starts with ``m = ‖W‖``, so that it is the frozen layer.

    The norm is taken as a constant in the backward pass, as section 4.3 of the paper proposes and PEFT does.

    Source: Liu et al. 2024, arXiv:2402.09353, equations 5 and 11.
    """

    def __init__(
        self, key: str, module: Frozen, factors: Mapping[str, Tensor], *, alpha: float, name: str
    ) -> None:
        magnitude = output_norms(module.weight.detach().float())
        super().__init__(key, module, {**factors, "magnitude": magnitude}, alpha=alpha, name=name)

    def added(self, x: Tensor, output: Tensor) -> Tensor:
        down, up, magnitude = self.factors["down"], self.factors["up"], self.factors["magnitude"]
        scale = self.alpha / down.shape[0]
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            weight = self.module.weight.float()
            change = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
            norms = output_norms(weight + scale * change)
        plain = output if self.module.bias is None else output - _per_channel(self.module, self.module.bias)
        size = _per_channel(self.module, magnitude / norms)
        return (size - 1.0) * plain + size * (scale * _up(self.module, _down(self.module, x, down), up))

    def made_of(self, factors: Mapping[str, Tensor]) -> Layer:
        change = LoraLayer(down=factors["down"], up=factors["up"], alpha=self.alpha)
        return DoraLayer(change=change, magnitude=factors["magnitude"])

    def factors_in(self, layer: Layer) -> Mapping[str, Tensor]:
        self._of_kind(layer, DoraLayer)
        return layer.tensors


class TrainableLoha(TrainableLayer):
    """``ΔW = scale · (w1_a w1_b) ∘ (w2_a w2_b)``, a product of rank up to rank².

    Every pair of directions is one direction of the product, so that the input can go through rank² of them
    without a dense ``ΔW``; where rank² is large, the dense one is cheaper.
    """

    def added(self, x: Tensor, output: Tensor) -> Tensor:  # noqa: ARG002
        a1, b1, a2, b2 = (self.factors[name] for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
        (out, rank), inputs = a1.shape, b1.shape[1]
        scale = self.alpha / rank
        if rank**2 * (out + inputs) < out * inputs:
            down = (b1[:, None] * b2[None]).flatten(0, 1)
            up = (a1[:, :, None] * a2[:, None]).flatten(1)
            return scale * _up(self.module, _down(self.module, x, down), up)
        return _down(self.module, x, (a1 @ b1) * (a2 @ b2) * scale)

    def made_of(self, factors: Mapping[str, Tensor]) -> Layer:
        return LohaLayer(alpha=self.alpha, **factors)

    def factors_in(self, layer: Layer) -> Mapping[str, Tensor]:
        self._of_kind(layer, LohaLayer)
        return layer.tensors


class TrainableLokr(TrainableLayer):
    """``ΔW = scale · w1 ⊗ w2``: the input is split as the product is, and goes through ``w2``, then ``w1``.

    Where both are whole the scale is 1, as in LyCORIS, whatever alpha.
    """

    def added(self, x: Tensor, output: Tensor) -> Tensor:
        w1, scale = self.factors["w1"], self._scale
        in1 = w1.shape[1]
        if isinstance(self.module, nn.Conv2d):
            through = self._second(x.unflatten(1, (in1, -1)).flatten(0, 1)).unflatten(0, (len(x), in1))
            mixed = torch.einsum("oi,nichw->nochw", w1, through)
            return scale * mixed.flatten(1, 2)
        through = self._second(x.unflatten(-1, (in1, -1)))
        mixed = torch.einsum("oi,...ic->...oc", w1, through)
        return scale * mixed.flatten(-2).reshape(output.shape)

    def made_of(self, factors: Mapping[str, Tensor]) -> Layer:
        layer = LokrLayer(alpha=self.alpha, **factors)
        return LokrLayer(alpha=float(layer.rank), **factors) if layer.is_whole else layer

    def factors_in(self, layer: Layer) -> Mapping[str, Tensor]:
        self._of_kind(layer, LokrLayer)
        return layer.tensors

    @property
    def _scale(self) -> float:
        return 1.0 if "w2" in self.factors else self.alpha / self.factors["w2_b"].shape[0]

    def _second(self, x: Tensor) -> Tensor:
        if "w2" in self.factors:
            return _down(self.module, x, self.factors["w2"])
        return _up(self.module, _down(self.module, x, self.factors["w2_b"]), self.factors["w2_a"])


class TrainableDifference(TrainableLayer):
    """LoRA whose factors start as the largest part of the frozen weight: ``ΔW = scale · (up down - up₀ down₀)``.

    PiSSA and OLoRA put the residual ``W - scale · up₀ down₀`` in the base's place while they train. Subtracting the
    start beside an untouched base is the same function with the same gradients, and the base needs no restoring.
    At the start the two terms cancel to rounding. Leaves as plain LoRA of twice the rank.
    """

    def __init__(
        self, key: str, module: nn.Linear, factors: Mapping[str, Tensor], *, alpha: float, name: str
    ) -> None:
        super().__init__(key, module, factors, alpha=alpha, name=name)
        self.constants = {factor: value.detach().clone() for factor, value in self.factors.items()}

    def added(self, x: Tensor, output: Tensor) -> Tensor:  # noqa: ARG002
        scale = self.alpha / self.factors["down"].shape[0]
        now, before = (
            functional.linear(functional.linear(x, factors["down"]), factors["up"])
            for factors in (self.factors, self.constants)
        )
        return scale * (now - before)

    def made_of(self, factors: Mapping[str, Tensor]) -> Layer:
        down = torch.cat([factors["down"], self.constants["down"].cpu()])
        up = torch.cat([factors["up"], -self.constants["up"].cpu()], dim=1)
        return LoraLayer(down=down, up=up, alpha=2.0 * self.alpha)

    def factors_in(self, layer: Layer) -> Mapping[str, Tensor]:
        self._of_kind(layer, LoraLayer)
        rank = self.factors["down"].shape[0]
        down, up = layer.tensors["down"], layer.tensors["up"]
        if not torch.equal(down[rank:], self.constants["down"].cpu()):
            raise AdapterError(f"'{self.key}' began from another start in the adapter than attached.")
        return {"down": down[:rank], "up": up[:, :rank]}


@dataclass(frozen=True, kw_only=True)
class FreshLayer:
    """Settings of layers that begin to train.

    Attributes:
        method: kind of the layer.
        rank: width of the detour.
        alpha: numerator of the scale ``alpha / rank``.
        init: start of the factors, see :func:`detour.adapters.attach.attach_new`.
        seed: of the start.
        lokr_factor: wanted size of LoKr's first matrix; None takes the nearest to a square.
    """

    method: AdapterMethod
    rank: int
    alpha: float
    init: Start
    seed: int
    lokr_factor: int | None


def make_trainable(key: str, module: Frozen, fresh: FreshLayer, *, name: str) -> TrainableLayer:
    """Put a fresh layer beside ``module``; its factors depend on (seed, key) and, for PiSSA and OLoRA, on W.

    Args:
        key: of the layer.
        module: frozen layer.
        fresh: method, size and start.
        name: of the adapter among those on the model.

    Raises:
        AdapterError: PiSSA or OLoRA on a convolution, or at a rank that the weight does not have; a method that
            reads the frozen weight on a quantised one.
    """
    method, rank, alpha, init, seed = fresh.method, fresh.rank, fresh.alpha, fresh.init, fresh.seed
    out, inputs, *kernel = module.weight.shape
    if method == "loha":
        factors = start.loha_factors(out, inputs * math.prod(kernel), rank=rank, seed=seed, key=key)
        return TrainableLoha(key, module, factors, alpha=alpha, name=name)
    if method == "lokr":
        shape = tuple(module.weight.shape)
        factors = start.lokr_factors(shape, rank=rank, factor=fresh.lokr_factor, seed=seed, key=key)
        return TrainableLokr(key, module, factors, alpha=alpha, name=name)
    if not module.weight.is_floating_point():
        raise AdapterError(
            f"'{key}' is quantised; DoRA, PiSSA and OLoRA read the frozen weight. Choose LoRA."
        )
    if init in FROM_BASE:
        if not isinstance(module, nn.Linear):
            raise AdapterError(
                f"'{key}' is a convolution; {init} starts Linear layers only. Set --targets linear."
            )
        down, up = start.base_factors(module.weight, rank=rank, init=init, scale=alpha / rank, key=key)
        return TrainableDifference(key, module, {"down": down, "up": up}, alpha=alpha, name=name)
    if method != "dora":
        raise AdapterError(f"no trainable layer is known for method '{method}'.")
    down = start.lora_down((rank, inputs, *kernel), init=init, seed=seed, key=key)
    factors = {"down": down, "up": torch.zeros(out, rank, *[1] * len(kernel))}
    return TrainableDora(key, module, factors, alpha=alpha, name=name)


def plain_copy(factor: Tensor) -> Tensor:
    """Detached, on the CPU, float32, contiguous."""
    return factor.detach().to("cpu", torch.float32, copy=True).contiguous()


def _down(module: Frozen, x: Tensor, weight: Tensor) -> Tensor:
    """``weight`` in the layer's own place, without bias: (r, in), (r, in · kh · kw) or (r, in, kh, kw)."""
    if isinstance(module, nn.Conv2d):
        return module._conv_forward(x, weight.reshape(len(weight), -1, *module.kernel_size), None)
    return functional.linear(x, weight)


def _up(module: Frozen, x: Tensor, weight: Tensor) -> Tensor:
    """``weight`` (out, r) or (out, r, 1, 1) on what :func:`_down` gave."""
    if isinstance(module, nn.Conv2d):
        return functional.conv2d(x, weight.reshape(*weight.shape[:2], 1, 1))
    return functional.linear(x, weight)


def _per_channel(module: Frozen, values: Tensor) -> Tensor:
    """(out,) so that it goes with the layer's output."""
    return values.reshape(-1, 1, 1) if isinstance(module, nn.Conv2d) else values
