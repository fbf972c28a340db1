"""Finds training pictures that an adapter reproduces: the nearest original of every picture, and a threshold.

Where a copy begins depends on the originals: photographs of one thing on one table are nearer to each other than
pictures of a style are. So the threshold is measured on them, between copies that are planted (mirrored, cropped,
encoded again …) and the distances of different originals.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from detour.data.likeness import mirrored_hash, perceptual_hash
from detour.errors import DataError
from detour.evaluation import thresholds
from detour.evaluation.alignment import laid_distances, own_distances, window_edges
from detour.evaluation.compared import Compared, Part, Side
from detour.evaluation.judge import Judge
from detour.evaluation.pixels import Pictures
from detour.evaluation.planted import planted_copies

MAX_PLANTED = 32
"""Largest number of originals from which copies are made to measure the threshold."""
MAX_WITH_WINDOWS = 500
"""Largest number of originals whose windows are kept between searches, 0.6 MB each; more are made anew each time."""
QUOTED_CUT = 0.85
"""Cosine of two pictures' CLIP features that is often quoted as the threshold of a copy."""
MAX_PAIRS = 8
"""Largest number of pairs in a report."""


class CopyScale(Part):
    """Threshold below which a picture counts as a copy of these originals, and how well it works."""

    threshold: float
    """Distance of :func:`detour.evaluation.alignment.laid_distances` below which a picture is a copy."""
    planted_found: float
    """Share of the planted copies that lie below the threshold."""
    found_by_kind: dict[str, float]
    """Kind of planted copy → share that lies below the threshold."""
    originals_alike: float | None
    """Share of the originals whose nearest other original is below it: new pictures of the same kind can be expected
    to be called copies no more often. ``None``: one original has no other."""
    nearest_original: float | None
    """Median distance of an original to its nearest other original."""
    repeated: int
    """Number of originals that occur more than once; duplicates do not count as different ones."""

    def sentence(self) -> str:
        """Sentence on how reliable the threshold is."""
        sentence = f"{self.planted_found:.0%} of planted copies are found"
        if self.originals_alike is None:
            return f"{sentence}; how often new pictures are called copies cannot be told from one original."
        return f"{sentence}, and {self.originals_alike:.0%} of the originals are as near to another original."


class JudgeCut(Part):
    """How well a cosine that is often quoted separates copies, with this judge and these pictures."""

    cut: float
    distinct_above: float | None
    """Share of the originals with another, different original above the cosine."""
    planted_below: float
    """Share of the planted copies below the cosine."""

    def sentence(self) -> str:
        """Sentence on whether the cosine separates copies from different pictures here."""
        missed = f"{self.planted_below:.0%} of planted copies are below it"
        if self.distinct_above is None:
            return f"A judge's similarity of {self.cut:g} as the mark of a copy: {missed}."
        right = (
            self.distinct_above <= thresholds.COPY_ALIKE_MAX
            and self.planted_below <= 1 - thresholds.COPY_PLANTED_FOUND
        )
        verdict = "holds here" if right else "does not hold here"
        return (
            f"The often quoted rule that a similarity above {self.cut:g} is a copy {verdict}: "
            f"{self.distinct_above:.0%} of the originals have a different one above it, and {missed}."
        )


class CopyPair(Part):
    """A picture and its nearest original."""

    picture: int
    original: int
    distance: float = Field(ge=0, le=2)
    hash_bits: int = Field(ge=0, le=63)
    """Number of bits by which the perceptual hashes differ, the smaller one of the picture and its mirror image."""
    similarity: float | None
    """Cosine of the judge's features; ``None`` without a judge."""
    copied: bool


class CopyFigures(Part):
    """Copies among the pictures of every side."""

    originals: int
    scale: CopyScale
    share: Compared
    """Share of the pictures that are copies; the ceiling is that of true pictures."""
    nearest: Compared
    """Median distance to the nearest original."""
    pairs: tuple[CopyPair, ...]
    """Pairs of the adapter's pictures and their originals, the nearest first."""
    judge_cut: JudgeCut | None

    @property
    def beyond_base(self) -> float:
        """Share of copies minus the base's, which has never seen the originals: 0 to 1."""
        return max(0.0, self.share.adapter - self.share.base)


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Nearest original of every picture, and which pictures are copies.

    Attributes:
        nearest: int64 (N,), index of the original.
        distances: float64 (N,), how far it is.
        copied: bool (N,).
    """

    nearest: NDArray[np.int64]
    distances: NDArray[np.float64]
    copied: NDArray[np.bool_]

    @property
    def share(self) -> float:
        """Share of the pictures that are copies; 0 for no pictures."""
        return float(self.copied.mean()) if len(self.copied) else 0.0

    def worst(self, count: int) -> list[int]:
        """Indices of the pictures nearest to an original, the nearest first."""
        return [int(index) for index in np.argsort(self.distances, kind="stable")[:count]]


class Originals:
    """Pictures that could have been copied, with what every search among them needs, each made once.

    Attributes:
        pictures: uint8 (M, H, W, 3), at least one.
        windows: :func:`detour.evaluation.alignment.window_edges` of them; ``None`` where they are too many.
        step: every so many originals copies are planted of.
    """

    def __init__(self, pictures: Pictures) -> None:
        """Raises DataError where there are no pictures."""
        if not len(pictures):
            raise DataError(
                "there are no pictures that could have been copied: name a folder that holds some."
            )
        self.pictures = pictures
        self.windows = window_edges(pictures) if len(pictures) <= MAX_WITH_WINDOWS else None
        self.step = -(-len(pictures) // MAX_PLANTED)

    def distances(self, pictures: Pictures) -> NDArray[np.float64]:
        """float64 (N, M), how far each picture is from each original."""
        return laid_distances(pictures, self.pictures, windows=self.windows)

    @functools.cached_property
    def among(self) -> NDArray[np.float64]:
        """float64 (M, M), how far the originals are from each other."""
        return self.distances(self.pictures)

    @functools.cached_property
    def planted(self) -> dict[str, Pictures]:
        """Kind of planted copy → a copy of each original that copies are planted of."""
        return planted_copies(self.pictures[:: self.step])

    @functools.cached_property
    def planted_distances(self) -> dict[str, NDArray[np.float64]]:
        """Kind of planted copy → float64, how far each is from its original."""
        windows = None if self.windows is None else [one[:: self.step] for one in self.windows]
        copies = np.concatenate(list(self.planted.values()))
        rows = own_distances(copies, self.pictures[:: self.step], windows=windows)
        return dict(zip(self.planted, rows, strict=True))


def calibrate(originals: Pictures | Originals) -> CopyScale:
    """Measure the threshold of a copy among these originals.

    Args:
        originals: uint8 (M, H, W, 3), at least one; or what was made of them before.

    Raises:
        DataError: no originals.
    """
    known = originals if isinstance(originals, Originals) else Originals(originals)
    planted = known.planted_distances
    every = np.concatenate(list(planted.values()))
    among = known.among.copy()
    same = _same_picture(among, every)
    among[same] = np.inf
    np.fill_diagonal(among, np.inf)
    others = among.min(axis=1)
    others = others[np.isfinite(others)]
    threshold = float(np.quantile(every, thresholds.COPY_PLANTED_FOUND))
    if len(others):
        threshold = min(threshold, float(np.quantile(others, thresholds.COPY_ALIKE_MAX, method="lower")))
    return CopyScale(
        threshold=threshold,
        planted_found=float((every < threshold).mean()),
        found_by_kind={kind: float((distances < threshold).mean()) for kind, distances in planted.items()},
        originals_alike=float((others < threshold).mean()) if len(others) else None,
        nearest_original=float(np.median(others)) if len(others) else None,
        repeated=int(same.any(axis=1).sum()),
    )


def _same_picture(among: NDArray[np.float64], planted: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which pairs of originals are as near as a typical planted copy, bool (M, M): one picture twice.

    They say nothing about how near different pictures come.
    """
    same: NDArray[np.bool_] = np.minimum(among, among.T) < np.median(planted)
    np.fill_diagonal(same, False)
    return same


def find_copies(pictures: Pictures, originals: Pictures | Originals, scale: CopyScale) -> Copies:
    """Find the nearest original of every picture, also when it is mirrored or slightly cropped.

    Args:
        pictures: uint8 (N, H, W, 3).
        originals: uint8 (M, H', W', 3), those that ``scale`` was measured on; training pictures, or works that must
            not be reproduced. Or what was made of them before.
        scale: from :func:`calibrate`.
    """
    if isinstance(originals, Originals):
        distances = originals.distances(pictures)
    else:
        distances = laid_distances(pictures, originals)
    nearest = distances.argmin(axis=1)
    least = distances[np.arange(len(pictures)), nearest]
    return Copies(nearest=nearest, distances=least, copied=least < scale.threshold)


def measure_copies(
    pictures: Mapping[Side, Pictures],
    originals: Pictures | Originals,
    *,
    truths: Pictures | None = None,
    judge: Judge | None = None,
) -> CopyFigures:
    """Measure the share of copies of the originals among the pictures of every side.

    Args:
        pictures: side → uint8 (N, H, W, 3), adapter and base at least, one or more pictures each.
        originals: uint8 (M, H', W', 3), at least one; or what was made of them before.
        truths: true pictures for the same prompts, which are new by construction.
        judge: also gives the similarity of the pairs, and says what the often quoted cut is worth.

    Raises:
        DataError: no originals.
    """
    known = originals if isinstance(originals, Originals) else Originals(originals)
    scale = calibrate(known)
    found = {side: find_copies(one, known, scale) for side, one in pictures.items()}
    true = find_copies(truths, known, scale) if truths is not None and len(truths) else None
    return CopyFigures(
        originals=len(known.pictures),
        scale=scale,
        share=Compared.of(
            {side: copies.share for side, copies in found.items()}, ceiling=true.share if true else None
        ),
        nearest=Compared.of(
            {side: float(np.median(copies.distances)) for side, copies in found.items()},
            ceiling=float(np.median(true.distances)) if true else None,
        ),
        pairs=_pairs(found["adapter"], pictures["adapter"], known.pictures, judge),
        judge_cut=None if judge is None else measure_judge_cut(judge, known),
    )


def measure_judge_cut(judge: Judge, originals: Originals, *, cut: float = QUOTED_CUT) -> JudgeCut:
    """Measure how well a cosine of the judge's features separates copies on these pictures.

    Args:
        judge: any CLIP.
        originals: that it is measured on.
        cut: the cosine in question.
    """
    few = originals.pictures[:: originals.step]
    picture_features = judge.picture_features(few)
    own = np.concatenate(
        [
            (judge.picture_features(copies) * picture_features).sum(1).numpy()
            for copies in originals.planted.values()
        ]
    )
    among = (picture_features @ picture_features.T).numpy()
    laid = originals.among[:: originals.step, :: originals.step]
    among[_same_picture(laid, np.concatenate(list(originals.planted_distances.values())))] = -1.0
    np.fill_diagonal(among, -1.0)
    return JudgeCut(
        cut=cut,
        distinct_above=float((among.max(axis=1) > cut).mean()) if len(few) > 1 else None,
        planted_below=float((own < cut).mean()),
    )


def _pairs(
    copies: Copies, pictures: Pictures, originals: Pictures, judge: Judge | None
) -> tuple[CopyPair, ...]:
    shown = copies.worst(MAX_PAIRS)
    nearest = [int(copies.nearest[index]) for index in shown]
    similarities: list[float | None] = [None] * len(shown)
    if judge is not None and shown:
        mine, theirs = judge.picture_features(pictures[shown]), judge.picture_features(originals[nearest])
        similarities = [float(cosine) for cosine in (mine * theirs).sum(1)]
    return tuple(
        CopyPair(
            picture=index,
            original=original,
            distance=float(copies.distances[index]),
            hash_bits=_hash_bits(pictures[index], originals[original]),
            similarity=similarity,
            copied=bool(copies.copied[index]),
        )
        for index, original, similarity in zip(shown, nearest, similarities, strict=True)
    )


def _hash_bits(picture: NDArray[np.uint8], original: NDArray[np.uint8]) -> int:
    mine, other = perceptual_hash(Image.fromarray(picture)), Image.fromarray(original)
    return min(int((mine != of_it).sum()) for of_it in (perceptual_hash(other), mirrored_hash(other)))
