"""Makes adapters that do nothing, each for another cause, for lab 8."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from detour.adapters.adapter import Adapter, LoraLayer, path_of
from detour.adapters.attach import attach_adapter
from detour.adapters.places import find_path

OTHER_NAMES = {
    "unet.down_blocks": "unet.input_blocks",
    "unet.mid_block": "unet.middle_block",
    "unet.up_blocks": "unet.output_blocks",
    "unet.conv_in": "unet.input_blocks.0.0",
    "unet.conv_out": "unet.out.2",
    "unet.time_embedding.linear_": "unet.time_embed.",
}
"""Names of UNet parts in Stable Diffusion's own code, which have to be translated."""


@dataclass(frozen=True, kw_only=True)
class Patient:
    """An adapter that is to be diagnosed.

    Attributes:
        adapter: as it was read from its file.
        weight: with which it is put beside the UNet.
        adapted: the UNet that it is put beside.
        drawing: the UNet that draws.
    """

    adapter: Adapter
    weight: float
    adapted: nn.Module
    drawing: nn.Module

    @contextlib.contextmanager
    def loaded(self) -> Iterator[str]:
        """Load the adapter as most tools do, which ignore names that do not match, while the block runs.

        Yields:
            what such a tool says.
        """
        found = {
            key: layer for key, layer in self.adapter.layers.items() if find_path(self.adapted, path_of(key))
        }
        attached = attach_adapter({"unet": self.adapted}, Adapter(found), self.weight) if found else None
        try:
            yield f"{len(self.adapter.layers)} layers loaded"
        finally:
            if attached is not None:
                attached.detach()


def ward(unet: nn.Module, another: nn.Module, adapter: Adapter) -> dict[str, Patient]:
    """Make five adapters, one of them sound.

    Args:
        unet: draws.
        another: the same weights, another object.
        adapter: plain LoRA that does something to ``unet``.
    """
    sound = Patient(adapter=adapter, weight=1.0, adapted=unet, drawing=unet)
    return {
        "A": replace(sound, adapter=_renamed(adapter)),
        "B": replace(sound, adapted=another),
        "C": sound,
        "D": replace(sound, weight=0.0),
        "E": replace(sound, adapter=_never_updated(adapter)),
    }


def _renamed(adapter: Adapter) -> Adapter:
    def name(key: str) -> str:
        for here, there in OTHER_NAMES.items():
            key = key.replace(here, there)
        return key

    return Adapter({name(key): layer for key, layer in adapter.layers.items()})


def _never_updated(adapter: Adapter) -> Adapter:
    layers = adapter.plain_layers(purpose="lab 8")
    return Adapter(
        {
            key: LoraLayer(down=layer.down, up=torch.zeros_like(layer.up), alpha=layer.alpha)
            for key, layer in layers.items()
        }
    )
