"""Attention for training, chosen by shape.

On a CPU ``scaled_dot_product_attention`` has a slow bf16 backward for few keys; matmul and softmax written out make
a whole step of the embedded base 1.2 times as fast there (torch 2.13, one core with AVX512-BF16). Where no gradient
follows, and with many keys, the base's own processor stays, so pictures are drawn as every other tool draws them.
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


def use_training_attention(unet: nn.Module, *, device: str, dtype: torch.dtype) -> None:
    """Install :class:`AttentionByShape` where it is faster: on a CPU below fp32.

    In fp32 both forms take the same time (pocket's shapes, torch 2.13), on other devices SDPA is the fast one.
    """
    if device != "cpu" or dtype == torch.float32:
        return
    from diffusers.models.attention_processor import Attention, AttnProcessor

    for module in unet.modules():
        if isinstance(module, Attention):
            module.set_processor(AttentionByShape(module.processor, AttnProcessor()))
