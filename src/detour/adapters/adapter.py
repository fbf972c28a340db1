"""The detour in memory, neutral to file formats: low-rank factors by layer, and what is known about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from detour.errors import ShapeMismatch

PARTS = ("unet", "text_encoder", "text_encoder_2")
"""Parts of a base that can carry adapter layers; a layer key is ``part + "." + module path``."""


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
    def rank(self) -> int:
        """Width of the detour."""
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        """``alpha / rank``."""
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
    def num_parameters(self) -> int:
        """Numbers in the two factors."""
        return self.down.numel() + self.up.numel()


@dataclass(frozen=True)
class Adapter:
    """All layers of one adapter.

    Attributes:
        layers: layer key (``"unet.<path>"``, ``"text_encoder.<path>"``) → factors; module paths are
            diffusers' and transformers 5's (no ``text_model.`` prefix).
        metadata: what the file says about itself; all values are strings, as safetensors wants them.
    """

    layers: Mapping[str, LoraLayer]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of the base that have layers, in the order of :data:`PARTS`."""
        present = {part_of(key) for key in self.layers}
        return tuple(part for part in PARTS if part in present)

    @property
    def num_parameters(self) -> int:
        """Numbers in all factors."""
        return sum(layer.num_parameters for layer in self.layers.values())

    @property
    def ranks(self) -> tuple[int, ...]:
        """The different ranks, ascending."""
        return tuple(sorted({layer.rank for layer in self.layers.values()}))


def part_of(key: str) -> str:
    """``"unet.conv_in"`` → ``"unet"``."""
    return key.partition(".")[0]


def path_of(key: str) -> str:
    """``"unet.conv_in"`` → ``"conv_in"``."""
    return key.partition(".")[2]
