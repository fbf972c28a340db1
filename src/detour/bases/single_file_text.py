"""Where a text encoder's tensors stand in single-file checkpoints: as in transformers, or as in open_clip.

open_clip keeps q, k and v of a layer in one ``in_proj``, and multiplies by ``text_projection`` from the right.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from detour.bases.families import FamilyName

_OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
_IN_LAYER = {
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "self_attn.out_proj.": "attn.out_proj.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}
_FUSED = {"self_attn.q_proj.": 0, "self_attn.k_proj.": 1, "self_attn.v_proj.": 2}

PREFIXES: Mapping[FamilyName, Mapping[str, str]] = {
    "sd1": {"text_encoder": "cond_stage_model.transformer.text_model."},
    "sd2": {"text_encoder": "cond_stage_model.model."},
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.text_model.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
}
"""Family → text part → how its tensors' names begin; those of open_clip end in ``.model.``."""


@dataclass(frozen=True, kw_only=True)
class TensorPlace:
    """Where a part's tensor stands in a checkpoint.

    Attributes:
        name: of the checkpoint's tensor.
        third: of which third of its rows it is, where three tensors stand in it.
        transposed: rows and columns are exchanged there.
    """

    name: str
    third: int | None = None
    transposed: bool = False

    def of(self, tensor: Tensor) -> Tensor:
        """The part's tensor: a view of the checkpoint's."""
        if self.third is not None:
            rows = tensor.shape[0] // 3
            tensor = tensor[self.third * rows : (self.third + 1) * rows]
        return tensor.T if self.transposed else tensor


def text_place(family: FamilyName, part: str, name: str) -> TensorPlace:
    """The place of a text encoder's tensor.

    Args:
        family: one whose single files are known.
        part: ``text_encoder`` or ``text_encoder_2``.
        name: the tensor's name in the part, with ``text_model.`` or without.
    """
    prefix = PREFIXES[family][part]
    own = name.removeprefix("text_model.")
    if prefix.endswith(".text_model."):
        return TensorPlace(name=prefix + own)
    if own in _OPEN_CLIP:
        return TensorPlace(name=prefix + _OPEN_CLIP[own], transposed=own == "text_projection.weight")
    _, _, index, rest = own.split(".", 3)  # encoder.layers.N.…
    block = f"{prefix}transformer.resblocks.{index}."
    for ours, theirs in _IN_LAYER.items():
        if rest.startswith(ours):
            return TensorPlace(name=block + theirs + rest.removeprefix(ours))
    ours, third = next((ours, third) for ours, third in _FUSED.items() if rest.startswith(ours))
    return TensorPlace(name=f"{block}attn.in_proj_{rest.removeprefix(ours)}", third=third)


def put_together(tensors: Mapping[TensorPlace, Tensor]) -> dict[str, Tensor]:
    """Place → a part's tensor, all of them, as the checkpoint's own tensors by name."""
    made: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for place, tensor in tensors.items():
        if place.third is None:
            made[place.name] = tensor.T if place.transposed else tensor
        else:
            thirds.setdefault(place.name, {})[place.third] = tensor
    return made | {name: torch.cat([found[third] for third in (0, 1, 2)]) for name, found in thirds.items()}
