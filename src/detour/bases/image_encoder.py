"""The image encoder of an IP-Adapter: a CLIP model's picture tower, frozen, behind a plain interface."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detour.bases.parts import aligned, freeze, weight_variant
from detour.bases.preprocessing import FILES, Preprocessing
from detour.bases.quiet import quiet_libraries
from detour.errors import BaseError


@dataclass(frozen=True, eq=False)
class ImageEncoder:
    """``CLIPVisionModelWithProjection`` with the preprocessing that it was trained with.

    Attributes:
        model: frozen, in evaluation mode.
        preprocessing: turns pictures into its input.
        folder: that it was read from.
    """

    model: Any
    preprocessing: Preprocessing
    folder: Path

    def width(self, *, pooled: bool) -> int:
        """Width of the pooled embedding, or of the hidden states."""
        config = self.model.config
        return int(config.projection_dim if pooled else config.hidden_size)

    @torch.no_grad()
    def with_none(self, picture: np.ndarray, *, pooled: bool) -> Tensor:
        """What the encoder gives for no picture and for a picture.

        The pooled embedding of no picture is zero; hidden states of no picture are those of zero input.

        Args:
            picture: uint8 (H, W, 3).
            pooled: the projected embedding, or the last hidden states but one.

        Returns:
            (2, width), or (2, positions, width), in the model's precision.

        Source: diffusers 0.42.1, ``encode_image`` of its pipelines; Ye et al. 2023, arXiv:2308.06721.
        """
        first = next(self.model.parameters())
        pixels = self.preprocessing(picture[None]).to(first.device, first.dtype)
        if pooled:
            embedding: Tensor = self.model(pixels).image_embeds
            return torch.cat([torch.zeros_like(embedding), embedding])
        # One picture at a time: the number in a pass is part of the bits.
        both = [
            self.model(each, output_hidden_states=True).hidden_states[-2]
            for each in (torch.zeros_like(pixels), pixels)
        ]
        return torch.cat(both)


def load_image_encoder(
    folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> ImageEncoder:
    """Read an image encoder.

    Args:
        folder: ``config.json`` and weights as transformers saves a ``CLIPVisionModelWithProjection``, or a whole
            ``CLIPModel``, whose picture tower is taken. Without ``preprocessor_config.json`` pictures are prepared as
            CLIP's own are.
        dtype: of its weights.
        device: where it runs.

    Raises:
        BaseError: not there, without safetensors, or damaged.
    """
    from transformers import CLIPVisionModelWithProjection

    kind: Any = CLIPVisionModelWithProjection
    read_encoder_config(folder)
    variant = weight_variant(folder)
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
    if variant:
        options["variant"] = variant
    with quiet_libraries():
        try:
            model = kind.from_pretrained(folder, **options)
        except Exception as error:  # the libraries raise some ten kinds
            message = " ".join(str(error).split())[:160]
            raise BaseError(f"{folder}: the image encoder cannot be loaded ({message}).") from error
    size = int(model.config.image_size)
    known = any((folder / name).is_file() for name in FILES)
    preprocessing = Preprocessing.load(folder) if known else Preprocessing(size=size, crop=(size, size))
    return ImageEncoder(freeze(aligned(model.to(device))), preprocessing, folder)


OWN_PLACES = ("reference/image_encoder", "judge")
"""Where a base may have an image encoder of its own; a judge is a CLIP model, whose picture tower serves."""


def own_image_encoder(folder: Path) -> Path | None:
    """The image encoder that a base folder carries, or ``None``."""
    places = (folder / place for place in OWN_PLACES)
    return next((place for place in places if (place / "config.json").is_file()), None)


def read_encoder_config(folder: Path) -> dict[str, Any]:
    """Settings of the picture tower: ``config.json``, or its ``vision_config`` of a whole CLIP model.

    Raises:
        BaseError: missing or not readable.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        whole = {**config.get("vision_config", {}), "projection_dim": config.get("projection_dim", 512)}
        return whole if "vision_config" in config else dict(config)
    except (OSError, ValueError, AttributeError) as error:
        raise BaseError(
            f"{folder}: no image encoder (config.json cannot be read: {error}). Name its folder."
        ) from error
