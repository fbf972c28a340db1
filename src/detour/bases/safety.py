"""A base's own safety checker: the CLIP classifier that SD 1.x folders carry."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from detour.bases.quiet import quiet_libraries
from detour.errors import BaseError

# CLIP's preprocessing, as feature_extractor/preprocessor_config.json of SD 1.x has it.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class SafetyChecker:
    """``StableDiffusionSafetyChecker`` behind a plain picture interface."""

    model: Any

    @torch.no_grad()
    def flag(self, pictures: np.ndarray) -> list[bool]:
        """Which of the pictures the checker refuses.

        Args:
            pictures: uint8 (N, H, W, 3).
        """
        if not len(pictures):
            return []
        size = int(self.model.config.vision_config.image_size)
        first = next(self.model.parameters())
        pixels = torch.stack([_prepared(picture, size) for picture in pictures]).to(first.device, first.dtype)
        # The checker blackens what it refuses in the pictures it is handed; it gets a copy.
        _, flags = self.model(clip_input=pixels, images=pictures.copy())
        return [bool(flag) for flag in flags]


def load_safety_checker(folder: Path, device: str) -> SafetyChecker | None:
    """The checker of a base folder, fp32; ``None`` when the folder has no ``safety_checker/`` with weights.

    Raises:
        BaseError: it is there but cannot be loaded: leaving it out in silence would be worse.
    """
    place = folder / "safety_checker"
    if not (place / "config.json").is_file():
        return None
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    names = [path.name for path in place.glob("*.safetensors")]
    variant = {"variant": "fp16"} if names and all(".fp16" in name for name in names) else {}
    with quiet_libraries():
        try:
            model = StableDiffusionSafetyChecker.from_pretrained(
                place, local_files_only=True, use_safetensors=True, dtype=torch.float32, **variant
            )
        except Exception as error:  # many kinds, one meaning
            raise BaseError(
                f"{folder.name}/safety_checker: cannot be loaded ({str(error).splitlines()[0][:160]}). Repair "
                "it, or use a base without one."
            ) from error
    return SafetyChecker(model.eval().requires_grad_(False).to(device))


def _prepared(picture: np.ndarray, size: int) -> torch.Tensor:
    """Shorter side to ``size`` (bicubic), centre crop, CLIP's normalisation; (3, size, size)."""
    image = Image.fromarray(picture)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    unit = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32) / 255
    normalised = (unit - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    return torch.from_numpy(normalised.transpose(2, 0, 1).copy())
