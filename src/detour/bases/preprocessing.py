"""Turns pictures into the input of a CLIP model.

transformers' own processor of this name needs torchvision, which breaks a CPU build of torch (transformers 5.23), so
its settings file is followed here with Pillow, which CLIP was trained with.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detour.errors import BaseError

FILES = ("preprocessor_config.json", "processor_config.json")
"""Names of the settings file; in the second, which transformers 5 writes, ours is under ``image_processor``."""

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Steps of the preprocessing in order: resize, centre crop, scale, normalise.

    Attributes:
        size: (height, width) in pixels, or the length that the short side gets.
        crop: (height, width) cut out of the middle; ``None`` crops nothing.
        resample: Pillow's number of the filter; 3 is bicubic.
        scale: what the values from 0 to 255 are multiplied with.
        mean: taken off each channel.
        std: that each channel is divided by.
    """

    size: tuple[int, int] | int
    crop: tuple[int, int] | None
    resample: int = int(Image.Resampling.BICUBIC)
    scale: float = 1 / 255
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD

    @classmethod
    def load(cls, folder: Path) -> "Preprocessing":
        """Read the settings from a model's folder; missing ones are CLIP's defaults.

        Raises:
            BaseError: missing, unreadable, or with steps that are not followed here.
        """
        path = next((folder / name for name in FILES if (folder / name).is_file()), folder / FILES[0])
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            values = values.get("image_processor", values)
            return cls._of(values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BaseError(
                f"{path}: the preprocessing of pictures cannot be read ({error!r}). Restore it."
            ) from error

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> "Preprocessing":
        for step in ("do_resize", "do_rescale", "do_normalize"):
            if not values.get(step, True):
                raise ValueError(f"'{step}' is off, which no CLIP model wants")
        size = _size(values.get("size", 224))
        crop = None
        if values.get("do_center_crop", True):
            crop = _both(_size(values.get("crop_size", 224)))
            if min(_both(size)[0] - crop[0], _both(size)[1] - crop[1]) < 0:
                raise ValueError(f"a crop of {crop} does not fit into a size of {size}")
        return cls(
            size=size if crop else _both(size),
            crop=crop,
            resample=int(values.get("resample", Image.Resampling.BICUBIC)),
            scale=float(values.get("rescale_factor", 1 / 255)),
            mean=tuple(values.get("image_mean", OPENAI_MEAN)),
            std=tuple(values.get("image_std", OPENAI_STD)),
        )

    def __call__(self, pictures: np.ndarray) -> Tensor:
        """Convert uint8 (N, H, W, 3) to float32 (N, 3, height, width)."""
        small = np.stack([self._cut(picture) for picture in pictures])
        unit = small.astype(np.float32) * np.float32(self.scale)
        normal = (unit - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(normal.transpose(0, 3, 1, 2)))

    def _cut(self, picture: np.ndarray) -> np.ndarray:
        height, width = self._resized(*picture.shape[:2])
        if (height, width) != picture.shape[:2]:
            small = Image.fromarray(picture).resize((width, height), Image.Resampling(self.resample))
            picture = np.asarray(small)
        if self.crop is None:
            return picture
        top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
        return picture[top : top + self.crop[0], left : left + self.crop[1]]

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            return self.size
        # The long side is cut off, not rounded, as transformers does.
        short = min(height, width)
        return int(self.size * height / short), int(self.size * width / short)


def _size(value: Any) -> tuple[int, int] | int:
    """Height and width of a setting: old files hold a number, newer ones ``{"shortest_edge": 224}`` or both sides."""
    if isinstance(value, Mapping):
        if "shortest_edge" in value:
            return int(value["shortest_edge"])
        return int(value["height"]), int(value["width"])
    return int(value)


def _both(size: tuple[int, int] | int) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)
