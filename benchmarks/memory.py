"""Bytes that a forward pass keeps for the way back, by what is trained and how."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.loops import Caches, Setting, with_detour, with_peft


def kept_mib(setting: Setting, caches: Caches) -> dict[str, float]:
    """MiB of distinct tensors kept for the backward pass per sample, without the model's own weights."""
    models: dict[str, Any] = {
        "full": setting.shape.unet(setting.dtype).requires_grad_(True),
        "peft": with_peft(setting)[0],
        "detour": with_detour(setting)[0],
        "detour, checkpointing": with_detour(setting)[0],
    }
    models["detour, checkpointing"].enable_gradient_checkpointing()
    models["detour, checkpointing"].train()
    found = {}
    for name, unet in models.items():
        found[name] = round(_kept(setting, caches, unet) / setting.batch / 2**20, 2)
        unet.requires_grad_(False)
    return found


def _kept(setting: Setting, caches: Caches, unet: nn.Module) -> int:
    weights = {tensor.untyped_storage().data_ptr() for tensor in unet.parameters()}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no storage is given to two tensors

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    rows = setting.rows(0)
    timesteps = torch.arange(len(rows)) + 1
    states = caches.states[rows].to(setting.dtype)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), setting.autocast():
        unet(caches.means[rows].to(setting.dtype), timesteps, encoder_hidden_states=states)
    return sum(sizes.values())
