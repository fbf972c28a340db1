"""The text conditioning of pocket-flow: two CLIP towers joined as in StableDiffusion3Pipeline, without T5.

Where T5 is absent the pipeline appends 256 states of zeros. They have no positions, so they are one and the
same token in every layer: one token whose attention weight counts 256 times gives exactly the same picture
tokens. That makes training three times cheaper than the pipeline's own 288 text tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPModel, CLIPTextModelWithProjection

from detour.pocket.pretrain.flow.parts import JOINT_WIDTH, T5_TOKENS, TEXT_TOKENS
from detour.pocket.pretrain.precision import autocast


def with_projection(clip: CLIPModel) -> CLIPTextModelWithProjection:
    """The text tower of a pair with its projection as a model of its own (copied, frozen, evaluation mode)."""
    tower = CLIPTextModelWithProjection(clip.config.text_config)
    state = {f"text_model.{name}": value for name, value in clip.text_model.state_dict().items()}
    tower.load_state_dict({**state, "text_projection.weight": clip.text_projection.weight})
    return tower.eval().requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class TextStates:
    """Text states that the transformer reads for a batch of captions.

    Attributes:
        joint: (batch, TEXT_TOKENS + 1, JOINT_WIDTH) float32; the last row is zero and stands for T5's states.
        pooled: (batch, 256) float32.
    """

    joint: Tensor
    pooled: Tensor


@dataclass(frozen=True, kw_only=True)
class Towers:
    """Both text towers of the flow-matching base, frozen.

    Attributes:
        first: pocket's own; its tokenizer pads with the end-of-text id.
        second: the other one.
        end: the end-of-text id.
        second_padding: the id that the second tokenizer pads with.
    """

    first: CLIPTextModelWithProjection
    second: CLIPTextModelWithProjection
    end: int
    second_padding: int

    def encode(self, ids: NDArray[np.integer[Any]]) -> TextStates:
        """States of captions as the pipeline joins them.

        Args:
            ids: (batch, length) token ids with start and end, padded with the end-of-text id.
        """
        first = shortened(ids, end=self.end)
        second = repadded(first, end=self.end, padding=self.second_padding)
        with torch.no_grad(), autocast():
            outputs = [
                tower(tokens, output_hidden_states=True)
                for tower, tokens in ((self.first, first), (self.second, second))
            ]
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1).float()
        joint = F.pad(states, (0, JOINT_WIDTH - states.shape[-1], 0, 1))
        return TextStates(joint=joint, pooled=torch.cat([o.text_embeds for o in outputs], dim=-1).float())


def shortened(ids: NDArray[np.integer[Any]], *, end: int) -> Tensor:
    """Cut or pad token ids to (batch, TEXT_TOKENS) int64 as the tokenizer does, with an end-of-text id last."""
    tokens = torch.full((len(ids), TEXT_TOKENS), end, dtype=torch.int64)
    kept = min(ids.shape[1], TEXT_TOKENS)
    tokens[:, :kept] = torch.from_numpy(ids[:, :kept].astype(np.int64))
    tokens[:, -1] = end
    return tokens


def repadded(ids: Tensor, *, end: int, padding: int) -> Tensor:
    """Replace the padding behind the first end-of-text id by ``padding``.

    As the second tokenizer spells every caption without "!": there a "!" is its padding token, and not the
    ordinary one.
    """
    is_behind = (ids == end).to(torch.int64).cumsum(dim=1) - (ids == end).to(torch.int64) > 0
    return torch.where(is_behind, padding, ids)


def t5_bias(num_t5: Tensor, *, num_keys: int) -> Tensor:
    """Bias of the attention scores that makes the last key count ``num_t5`` times.

    ``n`` equal keys with score s weigh ``n exp(s) = exp(s + log n)`` together, and their values are equal.

    Args:
        num_t5: (batch,) int64, 0 or more.
        num_keys: length of the joint sequence.

    Returns:
        (batch, 1, 1, num_keys) float32: zero but for the last key's ``log(num_t5)``.
    """
    bias = torch.zeros(len(num_t5), 1, 1, num_keys)
    bias[:, 0, 0, -1] = num_t5.to(torch.float32).log().clamp(min=torch.finfo(torch.float32).min)
    return bias


def draw_t5_lengths(count: int, generator: torch.Generator) -> Tensor:
    """Number of zero states that each caption ends with, (count,) int64: none or the pipeline's 256, equally likely.

    So that the base draws the same at the pipeline's default and with ``max_sequence_length=0``, which is
    three times faster.
    """
    return T5_TOKENS * torch.randint(2, (count,), generator=generator)


class WeightedJointAttention:
    """Joint attention whose last key may count several times (``key_bias`` of :func:`t5_bias`).

    Otherwise it computes what diffusers' ``JointAttnProcessor2_0`` does, as two products and a softmax.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        key_bias: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """(batch, pictures' tokens, channels) and (batch, text's tokens, channels) → same shapes."""
        batch, positions, channels = hidden_states.shape
        shape = (batch, -1, attn.heads, channels // attn.heads)

        def heads(projection: torch.nn.Module, states: Tensor, norm: torch.nn.Module | None) -> Tensor:
            split = projection(states).view(shape).transpose(1, 2)
            return split if norm is None else norm(split)

        own = (
            heads(attn.to_q, hidden_states, attn.norm_q),
            heads(attn.to_k, hidden_states, attn.norm_k),
            heads(attn.to_v, hidden_states, None),
        )
        text = (
            heads(attn.add_q_proj, encoder_hidden_states, attn.norm_added_q),
            heads(attn.add_k_proj, encoder_hidden_states, attn.norm_added_k),
            heads(attn.add_v_proj, encoder_hidden_states, None),
        )
        query, key, value = (torch.cat(both, dim=2) for both in zip(own, text, strict=True))
        scores = (query * (1 / math.sqrt(query.shape[-1]))) @ key.mT
        weights = torch.softmax(scores if key_bias is None else scores + key_bias, dim=-1, dtype=query.dtype)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, -1, channels)
        seen, said = mixed[:, :positions], mixed[:, positions:]
        return attn.to_out[0](seen), said if attn.context_pre_only else attn.to_add_out(said)
