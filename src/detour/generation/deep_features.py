"""Deep features of a UNet are kept from one step to the next, and a step between runs its outermost layers alone.

What the deeper blocks of a UNet make changes little from step to step. A whole pass keeps what reaches the last layers
of the last up block; a short pass computes those layers alone, from the kept features and the new latents.

Source: Ma et al. 2023, arXiv:2312.00858 (DeepCache), uniform interval, skip branch 0.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class DeepFeatures:
    """Makes whole and short passes of one UNet.

    Attributes:
        unet: a diffusers ``UNet2DConditionModel``; nothing is left on it after a pass.
    """

    unet: nn.Module

    @contextlib.contextmanager
    def keeping(self) -> Iterator[list[Tensor]]:
        """A block whose pass appends what short passes need: (N, C, h, w), without the outermost skip connection."""
        unet: Any = self.unet
        kept: list[Tensor] = []
        skip = unet.conv_in.out_channels

        def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
            kept.append(args[0][:, :-skip])

        handle = unet.up_blocks[-1].resnets[-1].register_forward_pre_hook(keep)
        try:
            yield kept
        finally:
            handle.remove()

    @contextlib.contextmanager
    def reusing(self, features: Tensor) -> Iterator[None]:
        """A block whose passes are short ones.

        Args:
            features: (N, C, h, w) that :meth:`keeping` gave for the same rows.
        """
        unet: Any = self.unet
        stubs: dict[Any, Callable[..., Any]] = {unet.mid_block: _unchanged}
        stubs |= {block: _skipped_down(block) for block in unet.down_blocks}
        stubs |= dict.fromkeys(unet.up_blocks[:-1], _unchanged)
        stubs[unet.up_blocks[-1]] = _outermost(unet.up_blocks[-1], features)
        try:
            for block, forward in stubs.items():
                block.forward = forward
            yield
        finally:
            for block in stubs:
                block.__dict__.pop("forward", None)


def _unchanged(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def _skipped_down(block: Any) -> Callable[..., tuple[Tensor, tuple[Tensor, ...]]]:
    """A down block that computes nothing; the skip connections that it hands on are not read."""
    num = len(block.resnets) + (block.downsamplers is not None)

    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        return hidden_states, (hidden_states,) * num

    return forward


def _outermost(block: Any, features: Tensor) -> Callable[..., Tensor]:
    """The last layers of the last up block, on kept features and the skip connection of the new latents."""

    def forward(
        hidden_states: Tensor, temb: Tensor, res_hidden_states_tuple: tuple[Tensor, ...], **given: Any
    ) -> Tensor:
        skip = res_hidden_states_tuple[0]
        made: Tensor = block.resnets[-1](torch.cat([features.to(hidden_states), skip], dim=1), temb)
        if getattr(block, "attentions", None):
            names = (
                "encoder_hidden_states",
                "cross_attention_kwargs",
                "attention_mask",
                "encoder_attention_mask",
            )
            made = block.attentions[-1](made, **{name: given.get(name) for name in names}, return_dict=False)[
                0
            ]
        return made

    return forward
