"""Reference pictures of requests: encoded once each, and kept while they are used."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from detour.adapter_files.reference_files import ReferenceAdapter
from detour.adapters.blocks import BlockWeight
from detour.adapters.reference_rows import PreparedReference, prepare_reference
from detour.bases.image_encoder import ImageEncoder
from detour.errors import AdapterError, ConfigError, DetourError
from detour.generation.strength import StepWeight, check_step_weights

MAX_BYTES = 256 << 20
"""Memory of the keys and values that are kept beside those in use; a Full file takes 42 MB a picture on SD 1.5."""


@dataclass(frozen=True, eq=False)
class ReferenceTool:
    """An IP-Adapter with the image encoder that it reads.

    Attributes:
        adapter: projection, keys and values.
        encoder: turns pictures into what the projection reads.
    """

    adapter: ReferenceAdapter
    encoder: ImageEncoder

    def __post_init__(self) -> None:
        """Refuse an encoder of another width.

        Raises:
            AdapterError: says which encoder is needed.
        """
        facts = self.adapter.facts
        width = self.encoder.width(pooled=facts.reads_pooled)
        if width != facts.encoder_width:
            raise AdapterError(
                f"the IP-Adapter reads {facts.encoder_words}, and the image encoder in {self.encoder.folder} has "
                f"{width}. Name the folder of the one that it needs with --reference-encoder."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceInUse:
    """A reference picture of one request.

    Attributes:
        tool: shows it to the network.
        picture: uint8 (H, W, 3), of any size; its middle square is seen.
        sha256: of its content, by which the engine knows it again.
        strength: 1 is as trained, 0 is no effect.
        blocks: (block, factor) on the strength in some blocks (``detour.adapters.reference_rows``).
        step_weights: factors on the strength along the steps; empty is 1 throughout.
    """

    tool: ReferenceTool
    picture: np.ndarray
    sha256: str
    strength: float = 1.0
    blocks: tuple[BlockWeight, ...] = ()
    step_weights: tuple[StepWeight, ...] = ()

    def check(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ConfigError: a picture of another kind, or a strength that is no number.
        """
        if self.picture.ndim != 3 or self.picture.shape[2] != 3 or self.picture.dtype != np.uint8:
            raise ConfigError(f"a reference picture has the shape {self.picture.shape}; RGB is expected.")
        if not np.isfinite(self.strength):
            raise ConfigError(f"reference strength {self.strength}: choose a number, e.g. 0.6.")
        if self.step_weights:
            check_step_weights(self.step_weights)


class ReferenceStore:
    """(adapter, picture) → keys and values, each encoded once; for the one thread that owns the models."""

    def __init__(self, network: nn.Module, *, device: str, dtype: torch.dtype) -> None:
        """Make a store that holds nothing yet.

        Args:
            network: whose cross-attentions the references are for.
            device: of the network.
            dtype: that the network computes in.
        """
        self.network, self.device, self.dtype = network, device, dtype
        self.num_encoded = 0
        # With the tool: the number by which a tool without a hash is known is its own while it lives.
        self._kept: OrderedDict[tuple[object, ...], tuple[ReferenceTool, PreparedReference]] = OrderedDict()

    def prepared(self, used: ReferenceInUse) -> PreparedReference:
        """Keys and values of a reference.

        Raises:
            AdapterError: the IP-Adapter does not fit the network.
            DetourError: what comes out is not finite.
        """
        tool = used.tool
        key = (tool.adapter.sha256 or id(tool.adapter), id(tool.encoder.model), used.sha256)
        if key not in self._kept:
            self._kept[key] = (tool, self._encoded(used))
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(one.num_bytes for _, one in self._kept.values()) > MAX_BYTES:
            self._kept.popitem(last=False)
        return self._kept[key][1]

    @torch.no_grad()
    def _encoded(self, used: ReferenceInUse) -> PreparedReference:
        adapter, encoder = used.tool.adapter, used.tool.encoder
        self.num_encoded += 1
        seen = encoder.with_none(used.picture, pooled=adapter.facts.reads_pooled)
        weight = next(adapter.projection.parameters())
        # The projection runs in float32 on the picture's side alone, once; the network's products in its own precision.
        tokens = adapter.projection(seen.to(weight.device, weight.dtype)).to(self.device, self.dtype)
        if not bool(torch.isfinite(tokens).all()):
            raise DetourError(
                "the image encoder's answer to a reference picture is not finite. Draw with --dtype fp32."
            )
        return prepare_reference(
            self.network,
            tokens,
            [key.to(self.device) for key in adapter.keys],
            [value.to(self.device) for value in adapter.values],
        )
