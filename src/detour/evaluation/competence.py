"""Tests whether a judge can read pictures: true captions or words against shuffled ones, where the truth is known."""

from dataclasses import dataclass

import numpy as np

from detour.evaluation import limits
from detour.evaluation.reading import Indices, Rows


@dataclass(frozen=True, kw_only=True)
class Competence:
    """How much better true assignments score than shuffled ones.

    Attributes:
        pictures: that were read.
        margin: mean log-odds of the true captions or words.
        chance: the same for shuffled ones.
        p_value: share of shuffles that score as well as the truth; ``None`` where there are too few pictures, or
            nothing to shuffle.
    """

    pictures: int
    margin: float
    chance: float
    p_value: float | None

    @property
    def shown(self) -> bool:
        """Whether the judge distinguishes true from shuffled assignments."""
        return self.p_value is not None and self.p_value <= limits.COMPETENCE_P_MAX

    def sentence(self, what: str, where: str) -> str:
        """Sentence on what the judge can read."""
        if self.p_value is None:
            return f"whether the judge reads {what} in {where} could not be tested ({self.pictures} of them)"
        if self.shown:
            return f"the judge reads {what} in {where}"
        return f"the judge reads {what} in {where} no better than shuffled ones"


def competence_of_captions(margins: Rows, *, seed: int = 0) -> Competence:
    """Test whether pictures fit their own captions better than each other's.

    Args:
        margins: (N, N) of :func:`detour.evaluation.reading.caption_margins`.
        seed: of the shuffles.
    """
    distinct = int(np.count_nonzero(np.any(margins != 0, axis=0)))
    return _shuffled(margins, np.arange(len(margins)), enough=distinct >= 2, seed=seed)


def competence_of_words(margins: Rows, right: Indices, *, seed: int = 0) -> Competence:
    """Test whether the right words of a slot fit better than those of other pictures.

    Args:
        margins: (N, K) of :func:`detour.evaluation.reading.word_margins`.
        right: int (N,), which of the K words is true.
        seed: of the shuffles.
    """
    return _shuffled(margins, np.asarray(right, np.int64), enough=len(set(right.tolist())) >= 2, seed=seed)


def _shuffled(margins: Rows, own: Indices, *, enough: bool, seed: int) -> Competence:
    count = len(margins)
    if not count:
        return Competence(pictures=0, margin=0.0, chance=0.0, p_value=None)
    rows = np.arange(count)
    truth = float(margins[rows, own].mean())
    rng = np.random.default_rng(seed)
    orders = rng.permuted(np.tile(rows, (limits.NUM_PERMUTATIONS, 1)), axis=1)
    drawn = margins[rows, own[orders]].mean(1)
    tested = enough and count >= limits.COMPETENCE_PICTURES_MIN
    p_value = (1 + int((drawn >= truth - 1e-12).sum())) / (len(drawn) + 1)
    return Competence(
        pictures=count, margin=truth, chance=float(drawn.mean()), p_value=p_value if tested else None
    )
