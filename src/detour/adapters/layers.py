"""What an adapter holds for one layer: the protocol of all algorithms, LoRA, and DoRA around any of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from detour.errors import AdapterError, ShapeMismatch

Kind = Literal["lora", "dora", "loha", "lokr"]

_SMALLEST_NORM = 1e-12
"""A row of zeros in the base has no direction; it stays zero."""


class Layer(Protocol):
    """One layer's change of weight, whatever the algorithm; all tensors are float32."""

    @property
    def kind(self) -> Kind:
        """Name of the algorithm."""

    @property
    def rank(self) -> int:
        """Rank of the change of weight."""

    @property
    def alpha(self) -> float:
        """Numerator of the scale ``alpha / rank``."""

    @property
    def in_features(self) -> int:
        """Input features or channels of the adapted layer, times kh·kw where ``knows_kernel`` is false."""

    @property
    def out_features(self) -> int:
        """Output features or channels of the adapted layer."""

    @property
    def kernel(self) -> tuple[int, int]:
        """Kernel of the adapted convolution; (1, 1) for Linear and where it is not known."""

    @property
    def knows_kernel(self) -> bool:
        """Whether the factors tell a kernel from more inputs: LoHa and LoKr keep (in · kh · kw) as one size."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Every tensor by its name within the layer."""

    @property
    def num_parameters(self) -> int:
        """Count the numbers in all tensors."""

    def delta(self, base: Tensor | None = None) -> Tensor:
        """Dense change of weight in float32: (out, in), (out, in, kh, kw), or (out, in · kh · kw).

        Args:
            base: the frozen layer's weight; DoRA alone reads it.

        Raises:
            AdapterError: DoRA without a base.
        """


def lora_delta(down: Tensor, up: Tensor, *, alpha: float) -> Tensor:
    """Dense weight change of one adapted layer: ``(alpha / rank) * up @ down``.

    Args:
        down: (rank, in_features) or (rank, in_channels, kh, kw), any float dtype.
        up: (out_features, rank) or (out_channels, rank, 1, 1), same device as ``down``.
        alpha: unitless; ``alpha == rank`` means no scaling.

    Returns:
        (out_features, in_features) or (out_channels, in_channels, kh, kw) in float32, because a merge adds
        many small terms.

    Raises:
        ShapeMismatch: the two factors disagree on the rank.

    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """
    rank = down.shape[0]
    if up.ndim < 2 or up.shape[1] != rank:
        raise ShapeMismatch(
            f"down has rank {rank} (shape {tuple(down.shape)}), up has shape {tuple(up.shape)}."
        )
    product = up.float().flatten(1) @ down.float().flatten(1)
    return (product * (alpha / rank)).reshape(up.shape[0], *down.shape[1:])


@dataclass(frozen=True, kw_only=True)
class LoraLayer:
    """Two factors and a scale: ``ΔW = (alpha / rank) · up @ down``.

    Attributes:
        down: float32, (rank, in_features) for Linear, (rank, in_channels, kh, kw) for Conv2d.
        up: float32, (out_features, rank) for Linear, (out_channels, rank, 1, 1) for Conv2d.
        alpha: numerator of the scale; ``alpha == rank`` means no scaling.
    """

    down: Tensor
    up: Tensor
    alpha: float

    def __post_init__(self) -> None:
        down, up = tuple(self.down.shape), tuple(self.up.shape)
        linear = len(down) == 2 and len(up) == 2
        conv = len(down) == 4 and len(up) == 4 and up[2:] == (1, 1)
        if not (linear or conv) or down[0] != up[1] or 0 in down or 0 in up:
            raise ShapeMismatch(
                f"factors of shape {down} (down) and {up} (up) do not make one low-rank layer."
            )

    @property
    def kind(self) -> Kind:
        """Name of the algorithm, ``"lora"``."""
        return "lora"

    @property
    def rank(self) -> int:
        """Rank of the change of weight."""
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        """Factor on the product: ``alpha / rank``."""
        return self.alpha / self.rank

    @property
    def in_features(self) -> int:
        """Input features or channels of the adapted layer."""
        return int(self.down.shape[1])

    @property
    def out_features(self) -> int:
        """Output features or channels of the adapted layer."""
        return int(self.up.shape[0])

    @property
    def kernel(self) -> tuple[int, int]:
        """Kernel of the adapted convolution; (1, 1) for Linear."""
        return (int(self.down.shape[2]), int(self.down.shape[3])) if self.down.ndim == 4 else (1, 1)

    @property
    def knows_kernel(self) -> bool:
        """True: ``down`` has the kernel of the layer."""
        return True

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The factors ``down`` and ``up`` by name."""
        return {"down": self.down, "up": self.up}

    @property
    def num_parameters(self) -> int:
        """Numbers in the two factors."""
        return self.down.numel() + self.up.numel()

    def delta(self, base: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """:func:`lora_delta` of the factors; ``base`` is not read."""
        return lora_delta(self.down, self.up, alpha=self.alpha)


@dataclass(frozen=True, kw_only=True)
class DoraLayer:
    """Weight-decomposed: the base's weight plus the change, with the norm of each output row set to a magnitude.

    ``W' = magnitude · (W + ΔW) / ‖W + ΔW‖``; norms are those of the rows (one for each output), as in PEFT.

    Attributes:
        change: the change of direction.
        magnitude: float32, (out_features,).

    Source: Liu et al. 2024, arXiv:2402.09353, section 4.1.
    """

    change: Layer
    magnitude: Tensor

    def __post_init__(self) -> None:
        if tuple(self.magnitude.shape) != (self.change.out_features,):
            raise ShapeMismatch(
                f"magnitudes of shape {tuple(self.magnitude.shape)} for {self.change.out_features} outputs."
            )

    @property
    def kind(self) -> Kind:
        """Name of the algorithm, ``"dora"``."""
        return "dora"

    @property
    def rank(self) -> int:
        """Rank of the change without the magnitude."""
        return self.change.rank

    @property
    def alpha(self) -> float:
        """Alpha of the change without the magnitude."""
        return self.change.alpha

    @property
    def in_features(self) -> int:
        """Inputs of the adapted layer, read off the change."""
        return self.change.in_features

    @property
    def out_features(self) -> int:
        """Outputs of the adapted layer, read off the change."""
        return self.change.out_features

    @property
    def kernel(self) -> tuple[int, int]:
        """Kernel of the adapted layer, read off the change."""
        return self.change.kernel

    @property
    def knows_kernel(self) -> bool:
        """Whether the change tells the kernel of the adapted layer."""
        return self.change.knows_kernel

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The factors of the change by name, and ``magnitude``."""
        return {**self.change.tensors, "magnitude": self.magnitude}

    @property
    def num_parameters(self) -> int:
        """Numbers in the change and the magnitudes."""
        return self.change.num_parameters + self.magnitude.numel()

    def delta(self, base: Tensor | None = None) -> Tensor:
        """``W' - W`` in the shape of ``base``, (out, in) or (out, in, kh, kw).

        Raises:
            AdapterError: no base was given.
        """
        if base is None:
            raise AdapterError("a DoRA's change of weight depends on the base's own weight. Name the base.")
        frozen = base.detach().float()
        directed = frozen + self.change.delta().to(frozen.device).reshape(frozen.shape)
        norms = output_norms(directed)
        sizes = (self.magnitude.to(frozen.device) / norms).reshape(-1, *[1] * (frozen.ndim - 1))
        return directed * sizes - frozen


def output_norms(weight: Tensor) -> Tensor:
    """(out, …) → (out,): the norm of each output's weights; a row of zeros, which has no direction, stays zero."""
    return weight.flatten(1).norm(dim=1).clamp_min(_SMALLEST_NORM)
