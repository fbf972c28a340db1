"""Attention for training, chosen by shape.

On a CPU ``scaled_dot_product_attention`` has a slow backward for few keys; matmul and softmax written out are
faster there (measured ratios: docs/log.md). Where no gradient follows, and with many keys, the base's own
processor stays, so pictures are drawn as every other tool draws them.
"""

from typing import Any

import torch
from torch import Tensor, nn

EXPLICIT_UP_TO_KEYS = 256
"""Most keys for which the explicit form is used; its score matrix is what SDPA avoids, so it must stay small."""


class AttentionByShape:
    """A diffusers attention processor that picks one of two by the number of keys and by whether a backward follows."""

    def __init__(self, plain: Any, explicit: Any) -> None:
        self.plain = plain
        self.explicit = explicit

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        num_keys = keys.shape[1] if keys.ndim == 3 else keys.shape[2] * keys.shape[3]
        chosen = self.plain
        if torch.is_grad_enabled() and num_keys <= EXPLICIT_UP_TO_KEYS:
            chosen = self.explicit
        output: Tensor = chosen(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        return output


def use_training_attention(unet: nn.Module, *, device: str) -> None:
    """Install :class:`AttentionByShape` on a CPU; other devices keep what the base has."""
    if device != "cpu":
        return
    from diffusers.models.attention_processor import AttnProcessor

    for module in unet.modules():
        if hasattr(module, "set_processor") and hasattr(module, "processor"):
            module.set_processor(AttentionByShape(module.processor, AttnProcessor()))
