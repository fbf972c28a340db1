"""Attention for training: adapted projections of one input together, and the form of attention chosen by shape.

On a CPU ``scaled_dot_product_attention`` has a slow bf16 backward for few keys; matmul and softmax written out make
a whole step of the embedded base 1.2 times as fast there (torch 2.13, one core with AVX512-BF16). Where no gradient
follows the base's own processor stays, so pictures are drawn as every other tool draws them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detour.adapters.fused import project_together

EXPLICIT_UP_TO_KEYS = 256
"""Most keys for which the explicit form is used; its score matrix is what SDPA avoids, so it must stay small."""


class TrainingAttention:
    """A diffusers attention processor that takes over where a gradient follows and the block is of the plain kind."""

    def __init__(self, plain: Any, *, explicit: bool) -> None:
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
        if attention_mask is not None or hidden_states.ndim != 3 or not torch.is_grad_enabled():
            output: Tensor = self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
            return output
        return self._attend(attn, hidden_states, encoder_hidden_states)

    def _attend(self, attn: Any, x: Tensor, text: Tensor | None) -> Tensor:
        if text is None:
            query, key, value = project_together([attn.to_q, attn.to_k, attn.to_v], x)
        else:
            query = attn.to_q(x)
            key, value = project_together([attn.to_k, attn.to_v], text)
        explicit = self.explicit and key.shape[1] <= EXPLICIT_UP_TO_KEYS and not attn.upcast_softmax
        mixed = (_explicit if explicit else _sdpa)(query, key, value, attn.heads, attn.scale)
        mixed = attn.to_out[1](attn.to_out[0](mixed))
        if attn.residual_connection:
            mixed = mixed + x
        return mixed if attn.rescale_output_factor == 1 else mixed / attn.rescale_output_factor


def use_training_attention(unet: nn.Module, *, device: str, dtype: torch.dtype) -> None:
    """Install :class:`TrainingAttention` in every attention block of the plain kind.

    The explicit form is for CPUs below fp32. In fp32 SDPA is the faster one, and on other devices.
    """
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    explicit = device == "cpu" and dtype != torch.float32
    for module in unet.modules():
        if isinstance(module, Attention) and type(module.processor) is AttnProcessor2_0 and _is_plain(module):
            module.set_processor(TrainingAttention(module.processor, explicit=explicit))


def _is_plain(attn: Any) -> bool:
    extras = ("spatial_norm", "group_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj")
    return all(getattr(attn, name, None) is None for name in extras)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> Tensor:
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    mixed = functional.scaled_dot_product_attention(q, k, v, scale=scale)
    return mixed.transpose(1, 2).flatten(2)


def _explicit(query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float) -> Tensor:
    batch = len(query)
    q, k, v = (
        t.unflatten(-1, (heads, -1)).transpose(1, 2).reshape(batch * heads, t.shape[1], -1)
        for t in (query, key, value)
    )
    scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=scale)
    mixed = torch.bmm(scores.softmax(-1), v)
    return mixed.unflatten(0, (batch, heads)).transpose(1, 2).flatten(2)
