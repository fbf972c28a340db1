"""Layers 5 and 6: check finished pictures for unwanted content, frames and copies."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detour.data.flaws import border_px
from detour.data.listing import Listing
from detour.data.pictures import open_picture
from detour.errors import ConfigError
from detour.evaluation.copies import CopyScale, Originals, calibrate
from detour.evaluation.judge import Judge
from detour.evaluation.pixels import Pictures
from detour.safety.decision import Action, Finding, LayerName
from detour.safety.policy_file import CopiesSpec, ExamplesSpec, FramesSpec, TextsSpec

MAX_PICTURES = 10_000
MAX_MEGAPIXELS = 100.0
SIDE_PX = 256
"""Side in pixels to which examples and references are resized; judge and copy search make them smaller still."""


def read_pictures(folder: Path, *, key: str) -> Pictures:
    """Read all pictures of a folder, resized to squares of one size.

    Args:
        folder: of pictures.
        key: of the policy, named in errors.

    Returns:
        uint8 (N, 256, 256, 3), at least one.

    Raises:
        ConfigError: no pictures, or too many.
        DataError: one cannot be read.
    """
    paths = Listing.of(folder).pictures
    if not 0 < len(paths) <= MAX_PICTURES:
        raise ConfigError(f"'{key}': {len(paths)} pictures in {folder}; put 1 to {MAX_PICTURES:,} there.")
    made = []
    for path in paths:
        image = open_picture(path, max_megapixels=MAX_MEGAPIXELS)
        made.append(np.asarray(image.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)))
    return np.stack(made)


def two_thresholds(
    score: float, *, layer: LayerName, refuse: float, hold: float, detail: str = ""
) -> Finding:
    """The finding of a layer whose score is the worse the larger it is.

    Args:
        score: of the picture.
        layer: that looked.
        refuse: from here on the picture is refused.
        hold: from here on a person decides.
        detail: for the operator.
    """
    action: Action = "refuse" if score >= refuse else ("hold" if score >= hold else "allow")
    return Finding(
        layer=layer,
        action=action,
        code=layer,
        score=score,
        threshold=None if action == "allow" else (refuse if action == "refuse" else hold),
        place="picture",
        detail="" if action == "allow" else detail,
    )


class ConceptTexts:
    """The judge's probability of the texts of what must not appear, among all texts of the policy."""

    name: ClassVar[LayerName] = "texts"

    def __init__(self, spec: TextsSpec, judge: Judge) -> None:
        self.spec, self._scale = spec, judge.scale
        self._texts = judge.text_features([*spec.concepts, *spec.others])

    def scores(self, features: Tensor) -> NDArray[np.float64]:
        """Probability of each picture, float64 (N,).

        Args:
            features: float32 (N, D) of the judge, rows of length one.
        """
        chances = torch.softmax((features @ self._texts.T).double() * self._scale, dim=1)
        found: NDArray[np.float64] = chances[:, : len(self.spec.concepts)].sum(1).numpy()
        return found

    def finding(self, score: float) -> Finding:
        """Finding of this layer for a score."""
        return two_thresholds(score, layer="texts", refuse=self.spec.refuse, hold=self.spec.hold)


class ExamplePictures:
    """How much more alike a picture is to unwanted examples than to harmless ones."""

    name: ClassVar[LayerName] = "examples"

    def __init__(self, spec: ExamplesSpec, judge: Judge, unwanted: Pictures, harmless: Pictures) -> None:
        self.spec, self._scale = spec, judge.scale
        self._unwanted, self._harmless = judge.picture_features(unwanted), judge.picture_features(harmless)

    def scores(self, features: Tensor) -> NDArray[np.float64]:
        """Probability of each picture, float64 (N,): a softmax over its mean likeness to the nearest of both kinds.

        Args:
            features: float32 (N, D) of the judge, rows of length one.
        """
        near = [self._nearest(features, kind) for kind in (self._unwanted, self._harmless)]
        found: NDArray[np.float64] = torch.sigmoid((near[0] - near[1]).double() * self._scale).numpy()
        return found

    def _nearest(self, features: Tensor, examples: Tensor) -> Tensor:
        count = min(self.spec.nearest, len(examples))
        return (features @ examples.T).topk(count, dim=1).values.mean(1)

    def finding(self, score: float) -> Finding:
        """Finding of this layer for a score."""
        return two_thresholds(score, layer="examples", refuse=self.spec.refuse, hold=self.spec.hold)


class Frames:
    """Bars or a frame of one colour around a picture, as pictures of a collection or a film have them."""

    name: ClassVar[LayerName] = "frames"

    def __init__(self, spec: FramesSpec) -> None:
        self.spec = spec

    def scores(self, pictures: Pictures) -> NDArray[np.float64]:
        """Width of the frame as a share of the shorter side, float64 (N,)."""
        widths = [border_px(Image.fromarray(one)) / min(one.shape[:2]) for one in pictures]
        return np.array(widths, dtype=np.float64)

    def finding(self, score: float) -> Finding:
        """Finding of this layer for a score."""
        refuse = self.spec.min_share if self.spec.action == "refuse" else float("inf")
        return two_thresholds(score, layer="frames", refuse=refuse, hold=self.spec.min_share)


class ReferenceCopies:
    """The distance of a picture to the nearest of the works that must not come back.

    Where a copy begins is measured on those works (:func:`detour.evaluation.copies.calibrate`).
    """

    name: ClassVar[LayerName] = "copies"

    def __init__(self, spec: CopiesSpec, references: Pictures) -> None:
        self.spec, self._originals = spec, Originals(references)
        self.scale: CopyScale = calibrate(self._originals)

    def scores(self, pictures: Pictures) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Distance to the nearest reference, float64 (N,), and which one it is."""
        distances = self._originals.distances(pictures)
        return distances.min(axis=1), distances.argmin(axis=1)

    def finding(self, distance: float, nearest: int | None = None) -> Finding:
        """Finding of this layer for a distance to a reference."""
        refuse = self.scale.threshold
        hold = refuse * (1 + self.spec.margin)
        action: Action = "refuse" if distance < refuse else ("hold" if distance < hold else "allow")
        return Finding(
            layer="copies",
            action=action,
            code="copies",
            score=distance,
            threshold=None if action == "allow" else (refuse if action == "refuse" else hold),
            place="picture",
            detail="" if action == "allow" or nearest is None else f"nearest to reference {nearest}",
        )


def check_finding(flagged: bool, action: Action) -> Finding:
    """Finding for a picture that the base's own checker has looked at.

    Args:
        flagged: whether it refused the picture.
        action: of the policy.
    """
    return Finding(
        layer="checker",
        action=action if flagged else "allow",
        code="checker",
        score=float(flagged),
        threshold=1.0 if flagged else None,
        place="picture",
    )
