"""An adapter in memory, independent of file formats: what it holds by layer, and what is known about it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from detour.adapters.layers import DoraLayer, Kind, Layer, LoraLayer
from detour.adapters.lycoris_layers import LohaLayer, LokrLayer
from detour.errors import AdapterError

__all__ = [
    "PARTS",
    "Adapter",
    "DoraLayer",
    "FileDtype",
    "FileFormat",
    "Kind",
    "Layer",
    "LohaLayer",
    "LokrLayer",
    "LoraLayer",
    "Words",
    "part_of",
    "path_of",
]

FileFormat = Literal["kohya", "diffusers", "peft"]
FileDtype = Literal["fp32", "fp16", "bf16"]

DENOISERS = ("unet", "transformer")
"""Parts that denoise; a base has one of them."""

PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
"""Parts of a base that can carry adapter layers; a layer key is ``part + "." + module path``."""


Words = Mapping[str, Mapping[str, Tensor]]
"""New word → text part → (n, D) vectors."""


@dataclass(frozen=True)
class Adapter:
    """All layers of one adapter.

    Attributes:
        layers: layer key (``"unet.<path>"``, ``"transformer.<path>"`` of Flux and SD 3,
            ``"text_encoder.<path>"``) → factors; module paths are diffusers' and transformers 5's (no
            ``text_model.`` prefix).
        metadata: what the file says about itself; all values are strings, as safetensors wants them.
        words: new word → text part → its vectors, (n, D) float32; where a prompt has the word, they stand in for the
            embeddings of n tokens.
        left_out: what a partial reading did not take, each a name and the reason; empty otherwise.
        file_format: of the file that it was read from; ``None`` where it was made here.
        file_dtype: precision of the factors in that file; here they are float32 always.
    """

    layers: Mapping[str, Layer]
    metadata: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    file_format: FileFormat | None = None
    file_dtype: FileDtype = "fp32"
    words: Words = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of the base that have layers, in the order of :data:`PARTS`."""
        present = {part_of(key) for key in self.layers}
        return tuple(part for part in PARTS if part in present)

    @property
    def num_parameters(self) -> int:
        """Count the numbers in all factors."""
        return sum(layer.num_parameters for layer in self.layers.values())

    @property
    def ranks(self) -> tuple[int, ...]:
        """List the different ranks, ascending."""
        return tuple(sorted({layer.rank for layer in self.layers.values()}))

    @property
    def kinds(self) -> Mapping[Kind, int]:
        """Algorithm → number of layers, the most frequent first."""
        counts = Counter(layer.kind for layer in self.layers.values())
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def plain_layers(self, *, purpose: str = "this") -> dict[str, LoraLayer]:
        """The layers where all are plain LoRA, for what needs two factors.

        Args:
            purpose: what cannot be done otherwise; named in the error.

        Raises:
            AdapterError: some are of another kind; names the kinds.
        """
        plain = {key: layer for key, layer in self.layers.items() if isinstance(layer, LoraLayer)}
        if len(plain) < len(self.layers):
            others = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items() if kind != "lora")
            raise AdapterError(
                f"{purpose} needs plain LoRA factors; {others} of {len(self.layers)} layers are not. "
                "Use a plain LoRA."
            )
        return plain


def part_of(key: str) -> str:
    """``"unet.conv_in"`` → ``"unet"``."""
    return key.partition(".")[0]


def path_of(key: str) -> str:
    """``"unet.conv_in"`` → ``"conv_in"``."""
    return key.partition(".")[2]
