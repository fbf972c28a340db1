"""A CLIP pair that scores pictures: what they show, and how they look.

transformers' own picture processor needs torchvision, which breaks a CPU build of torch (transformers 5.23),
so ``preprocessor_config.json`` is followed here in a few lines of torch.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from detour.bases.quiet import quiet_libraries
from detour.errors import BaseError, ConfigError
from detour.evaluation.pixels import Pictures

BATCH = 32
"""Pictures or prompts in one forward pass of the judge."""


@dataclass(frozen=True, kw_only=True)
class PromptFacts:
    """What a prompt asks for, word by word; the field names are the slots of the accuracy."""

    object: str
    colour: str
    place: str


Phrase = Callable[[PromptFacts], str]
"""Writes the facts as the canonical prompt, e.g. ``a red house in the desert``."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a picture becomes the judge's input, from ``preprocessor_config.json``."""

    side_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def load(cls, path: Path) -> "Preprocessing":
        """Read ``preprocessor_config.json``.

        Raises:
            BaseError: missing or without the keys that are followed here.
        """
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            crop = values["crop_size"]
            side_px = crop["height"] if isinstance(crop, Mapping) else int(crop)
            return cls(side_px=side_px, mean=tuple(values["image_mean"]), std=tuple(values["image_std"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BaseError(
                f"{path}: the judge's preprocessing cannot be read ({error!r}). Restore it."
            ) from error

    def __call__(self, pictures: Pictures) -> Tensor:
        """uint8 (N, H, W, 3) → float32 (N, 3, side, side): short side resized, centre cropped, normalised."""
        pixels = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 255
        height, width = pixels.shape[-2:]
        if (height, width) != (self.side_px, self.side_px):
            scale = self.side_px / min(height, width)
            size = (max(self.side_px, round(height * scale)), max(self.side_px, round(width * scale)))
            pixels = torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
            top, left = (size[0] - self.side_px) // 2, (size[1] - self.side_px) // 2
            pixels = pixels[..., top : top + self.side_px, left : left + self.side_px]
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std


class Judge:
    """Frozen CLIP in fp32 on the CPU: small, and the same figures whatever device drew the pictures."""

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, preprocessing: Preprocessing) -> None:
        self._model = model.float().eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._preprocessing = preprocessing

    @classmethod
    def load(cls, folder: Path) -> "Judge":
        """Open a judge.

        Args:
            folder: transformers layout of a ``CLIPModel`` with ``preprocessor_config.json``; its tokenizer
                lies in it, or in ``tokenizer/`` beside it as in a diffusers folder.

        Raises:
            BaseError: a part is missing or broken.
        """
        tokenizer = folder if (folder / "vocab.json").exists() else folder.parent / "tokenizer"
        try:
            with quiet_libraries():
                model = CLIPModel.from_pretrained(folder, local_files_only=True)
                words = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
        except (OSError, ValueError) as error:
            raise BaseError(f"{folder}: the judge cannot be loaded ({error}). Restore the folder.") from error
        return cls(model, words, Preprocessing.load(folder / "preprocessor_config.json"))

    @torch.inference_mode()
    def picture_features(self, pictures: Pictures) -> Tensor:
        """Where pictures lie for the judge.

        Args:
            pictures: uint8 (N, H, W, 3), any size.

        Returns:
            float32 (N, D), rows of length one.
        """
        rows = []
        for start in range(0, len(pictures), BATCH):
            pixels = self._preprocessing(pictures[start : start + BATCH])
            pooled = self._model.vision_model(pixel_values=pixels).pooler_output
            rows.append(self._model.visual_projection(pooled))
        return _normalised(rows, self._model.config.projection_dim)

    @torch.inference_mode()
    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """Where prompts lie for the judge.

        Args:
            prompts: each cut at the tokenizer's length.

        Returns:
            float32 (N, D), rows of length one.
        """
        rows = []
        for start in range(0, len(prompts), BATCH):
            tokens = self._tokenizer(
                list(prompts[start : start + BATCH]),
                padding="max_length",
                max_length=self._model.config.text_config.max_position_embeddings,
                truncation=True,
                return_tensors="pt",
            )
            pooled = self._model.text_model(input_ids=tokens["input_ids"]).pooler_output
            rows.append(self._model.text_projection(pooled))
        return _normalised(rows, self._model.config.projection_dim)

    def prompt_accuracy(
        self,
        pictures: Pictures,
        facts: Sequence[PromptFacts],
        vocabulary: Mapping[str, Sequence[str]],
        phrase: Phrase,
    ) -> dict[str, float]:
        """Share of the pictures for which the true word beats every other word of its slot.

        Args:
            pictures: uint8 (N, H, W, 3).
            facts: what each picture was asked to show, N of them.
            vocabulary: slot (a field of :class:`PromptFacts`) → all words that can stand there.
            phrase: writes facts as a prompt.

        Returns:
            slot → share between 0 and 1.

        Raises:
            ConfigError: not one fact a picture, or a true word that its vocabulary does not have.
        """
        hits = self.prompt_hits(pictures, facts, vocabulary, phrase)
        return {slot: sum(row) / len(row) for slot, row in hits.items()}

    def prompt_hits(
        self,
        pictures: Pictures,
        facts: Sequence[PromptFacts],
        vocabulary: Mapping[str, Sequence[str]],
        phrase: Phrase,
    ) -> dict[str, list[bool]]:
        """The same picture by picture: slot → whether the true word won; arguments as in :meth:`prompt_accuracy`.

        Raises:
            ConfigError: not one fact a picture, or a true word that its vocabulary does not have.
        """
        if len(pictures) != len(facts):
            raise ConfigError(
                f"{len(pictures)} pictures with {len(facts)} prompts: each picture needs its own."
            )
        looks = self.picture_features(pictures)
        return {
            slot: self._slot_hits(looks, facts, slot, words, phrase) for slot, words in vocabulary.items()
        }

    def _slot_hits(
        self, looks: Tensor, facts: Sequence[PromptFacts], slot: str, words: Sequence[str], phrase: Phrase
    ) -> list[bool]:
        candidates = [[phrase(replace(fact, **{slot: word})) for word in words] for fact in facts]
        distinct = list(dict.fromkeys(prompt for row in candidates for prompt in row))
        rows = dict(zip(distinct, self.text_features(distinct), strict=True))
        hits = []
        for look, fact, prompts in zip(looks, facts, candidates, strict=True):
            true_word = getattr(fact, slot)
            if true_word not in words:
                raise ConfigError(
                    f"{slot} '{true_word}' is not among the words to choose from: {', '.join(words)}."
                )
            scores = torch.stack([rows[prompt] for prompt in prompts]) @ look
            hits.append(words[int(scores.argmax())] == true_word)
        return hits


def _normalised(rows: list[Tensor], width: int) -> Tensor:
    features = torch.cat(rows) if rows else torch.empty(0, width)
    return torch.nn.functional.normalize(features, dim=-1)
