"""An engine that paints flat, known colours and a judge that knows what it looks at: every figure can be foretold.

The strength of the adapter in the UNet is read off a layer that really has it, so that attaching, merging
and reading back are the project's own; the drawing alone is replaced.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from detour.adapters.adapter import Adapter, part_of, path_of
from detour.adapters.mixed import RowGroup, plan_rows
from detour.adapters.prepared import prepare
from detour.evaluation.judge import Judge
from detour.evaluation.pixels import Pictures
from detour.generation.engine import AdapterInUse, PictureEngine

BASE_COLOUR, ADAPTER_COLOUR = np.array([200.0, 40.0, 0.0]), np.array([40.0, 160.0, 0.0])
"""What strength 0 and strength 1 paint; the blue channel tells seeds apart."""

SIDE_PX = 64

Looks = Literal["base", "adapter", "half", "truth", "reference", "kept out", "trained"]

ANGLES: Mapping[Looks, float] = {
    "reference": 0.0, "truth": 20.0, "adapter": 35.0, "half": 60.0, "base": 90.0, "trained": 10.0, "kept out": 30.0,
}  # fmt: skip
"""Direction of each kind of picture in the judge's features, in degrees; "half" is the adapter at half its strength."""

PROMPT_SHARE = 0.6
"""Length of the part of a picture's features that points to its prompt."""


def blue_of(seed: int) -> int:
    """Blue channel of a picture of this seed, 0 to 228."""
    return 12 * (seed % 20)


def _loaded(used: AdapterInUse) -> Adapter:
    """The layers of an adapter that is not read from its file."""
    assert isinstance(used.adapter, Adapter)
    return used.adapter


@dataclass(frozen=True, kw_only=True)
class Painted:
    """What a picture was painted for."""

    prompt: str
    seed: int
    strength: float
    merged: bool


@dataclass(kw_only=True)
class FlatPainter:
    """Paints flat pictures by the strength of an adapter in the UNet.

    Attributes:
        adapter: whose strength is measured, 1 as it is here.
        weight: (out, in) of the base, where the adapter has its first layer.
        off_shift: added to the red channel where an adapter is attached at weight 0.
        merged_shift: added where it is merged, to one pixel or
        merged_pixels: to so many rows and columns; ``None``: to all of them.
        copies: (with the adapter, prompt, seed) → picture that is painted instead.
        one_picture: whether the adapter paints the same for every new prompt.
        painted: bytes of a picture → what it was painted for.
    """

    adapter: Adapter
    weight: torch.Tensor
    off_shift: int = 0
    merged_shift: int = 0
    merged_pixels: int | None = 1
    copies: dict[tuple[bool, str, int], Pictures] = field(default_factory=dict)
    one_picture: bool = False
    painted: dict[bytes, Painted] = field(default_factory=dict)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Paint wherever an engine draws."""

        def draw(engine: Any, requests: Any, *_: Any, adapters: Any = (), **__: Any) -> Any:
            return self.draw(engine, requests, adapters or ())

        patch.setattr(PictureEngine, "draw", draw)

    def draw(self, engine: Any, requests: Sequence[Any], adapters: Sequence[AdapterInUse] = ()) -> Any:
        """One flat picture a request: uint8 (N, 64, 64, 3)."""
        layered = [one for one in adapters if _loaded(one).layers]
        strength, is_live = self._strength(engine, layered)
        is_attached = is_live or bool(layered)
        rows = [self._paint(one, strength, is_attached) for one in requests]
        return SimpleNamespace(pictures=np.stack(rows))

    def _strength(self, engine: Any, adapters: Sequence[AdapterInUse]) -> tuple[float, bool]:
        """Strength of the adapter in the answers of its first layer, and whether PEFT holds it there."""
        unet = engine.unet
        key, layer = next(iter(self.adapter.layers.items()))
        assert part_of(key) == "unet"
        module = unet.get_submodule(path_of(key))
        used = tuple((prepare(engine.models, _loaded(one)), one.weight) for one in adapters)
        plan = plan_rows([RowGroup(self.weight.shape[1], used)], ["unet"])
        with torch.no_grad(), plan.active():
            dtype = next(module.parameters()).dtype
            eye = torch.eye(self.weight.shape[1], dtype=dtype)
            moved = (module(eye) - module(torch.zeros_like(eye))).T.float() - self.weight
        delta = layer.delta()
        digits = 4 if dtype == torch.float32 else 1
        strength = round(float((moved * delta).sum() / delta.square().sum()), digits)
        return strength, type(module) is not nn.Linear

    def _paint(self, request: Any, strength: float, is_attached: bool) -> Pictures:
        merged = not is_attached and strength != 0
        told = Painted(prompt=request.prompt, seed=request.seed, strength=strength, merged=merged)
        copy = self.copies.get((strength != 0, request.prompt, request.seed))
        if copy is not None:
            self.painted[copy.tobytes()] = told
            return copy
        same = self.one_picture and strength != 0 and request.seed >= 1000
        seed, prompt = (0, "") if same else (request.seed, request.prompt)
        picture = flat(BASE_COLOUR + strength * (ADAPTER_COLOUR - BASE_COLOUR), seed, prompt)
        mark = picture[-1, -2:].copy()
        if is_attached and strength == 0:
            picture[..., 0] += self.off_shift
        if merged:
            picture[: self.merged_pixels, : self.merged_pixels] += np.uint8(self.merged_shift)
        picture[-1, -2:] = mark
        self.painted[picture.tobytes()] = told
        return picture


@dataclass(frozen=True, kw_only=True)
class SeeingJudge:
    """Knows of every picture what it is, and is right about as many prompts as it is told to be.

    Attributes:
        painter: whose pictures it recognises.
        prompts: that can be asked for, without a trigger.
        others: bytes of a picture → (what it is, its prompt); all else is a reference.
        right: kind of picture → slot → number of the first prompts whose word is seen in it.
    """

    painter: FlatPainter
    prompts: Sequence[str]
    others: Mapping[bytes, tuple[Looks, str]] = field(default_factory=dict)
    right: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Take the place of every judge."""
        patch.setattr(Judge, "load", lambda *_, **__: self)

    def seen(self, picture: Pictures) -> tuple[Looks, str]:
        """What a picture is, and the prompt that it shows."""
        told = self.painter.painted.get(picture.tobytes())
        if told is not None:
            kinds: dict[float, Looks] = {0.0: "base", 0.5: "half"}
            return kinds.get(told.strength, "adapter"), told.prompt
        return self.others.get(picture.tobytes(), ("reference", ""))

    def feature(self, looks: Looks, prompt: str = "") -> np.ndarray:
        """(2 + prompts,) float64 of length one."""
        row = np.zeros(2 + len(self.prompts))
        angle = math.radians(ANGLES[looks])
        row[:2] = math.cos(angle), math.sin(angle)
        if prompt in self.prompts:
            row[:2] *= math.sqrt(1 - PROMPT_SHARE**2)
            row[2 + list(self.prompts).index(prompt)] = PROMPT_SHARE
        return row

    def picture_features(self, pictures: Pictures) -> torch.Tensor:
        """float32 (N, 2 + prompts)."""
        rows = [self.feature(*self.seen(picture)) for picture in pictures]
        return torch.tensor(np.array(rows).reshape(len(pictures), -1), dtype=torch.float32)

    def text_features(self, prompts: Sequence[str]) -> torch.Tensor:
        """float32 (N, 2 + prompts): one direction a prompt."""
        rows = torch.zeros(len(prompts), 2 + len(self.prompts))
        for row, prompt in zip(rows, prompts, strict=True):
            if prompt in self.prompts:
                row[2 + list(self.prompts).index(prompt)] = 1
        return rows

    @property
    def scale(self) -> float:
        """Of the published models."""
        return 100.0

    def too_long(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """It reads everything."""
        return ()

    def prompt_hits(
        self, pictures: Pictures, facts: Sequence[Any], vocabulary: Mapping[str, Any], phrase: Any
    ) -> dict[str, list[bool]]:
        """Right where the facts are those of the picture's own prompt and that prompt is among the first ones."""
        assert len(pictures) == len(facts)
        hits: dict[str, list[bool]] = {slot: [] for slot in vocabulary}
        for picture, fact in zip(pictures, facts, strict=True):
            picture_features, prompt = self.seen(picture)
            for slot, row in hits.items():
                first = self.prompts[: self.right.get(picture_features, {}).get(slot, 0)]
                row.append(prompt in first and phrase(fact) == prompt)
        return hits


def squared_mmd(x: Sequence[np.ndarray], y: Sequence[np.ndarray], *, bandwidth: float = 0.7) -> float:
    """Biased squared MMD, written out: Gretton et al. 2012, equation 5."""

    def mean(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
        return float(np.mean([[np.exp(-((i - j) ** 2).sum() / (2 * bandwidth**2)) for j in b] for i in a]))

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def painted_colour(colour: np.ndarray, seed: int) -> np.ndarray:
    """float64 (3,): what a side paints with a seed."""
    return np.array([*colour[:2], blue_of(seed)])


def flat(colour: np.ndarray, seed: int, prompt: str) -> Pictures:
    """uint8 (64, 64, 3): the same as a picture; its last pixels are another one's for every prompt and seed."""
    picture = np.empty((SIDE_PX, SIDE_PX, 3), np.uint8)
    picture[:] = painted_colour(colour, seed).round().clip(0, 255)
    mark = hashlib.sha256(f"{seed} {prompt}".encode()).digest()
    picture[-1, -2:] = np.frombuffer(mark[:6], np.uint8).reshape(2, 3)
    return picture
