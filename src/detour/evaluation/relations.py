"""Compares the relations between an adapter's pictures with those of the base, without reading any words."""

from dataclasses import dataclass

import numpy as np

from detour.errors import ShapeMismatch
from detour.evaluation import limits
from detour.evaluation.reading import Rows, centred


@dataclass(frozen=True, kw_only=True)
class Relations:
    """Agreement of the relations between pictures of two sides, prompt by prompt.

    Attributes:
        own: mean centred cosine of the two pictures of one prompt and seed.
        others: the same of pictures of different prompts.
        nearest: share of the pictures whose nearest picture of the other side is that of their own prompt.
        agreement: centred kernel alignment of the two sides' similarities, 0 to 1 (Kornblith et al. 2019,
            arXiv:1905.00414), less its mean over shuffled pairs: 0 where nothing is kept.
        p_value: share of shuffled pairs that go together as well.
        prompts: of each side.
    """

    own: float
    others: float
    nearest: float
    agreement: float
    p_value: float
    prompts: int

    @property
    def shown(self) -> bool:
        """Whether pictures match the base's of their own prompts by more than chance."""
        return self.p_value <= limits.COMPETENCE_P_MAX


def relate(adapter: Rows, base: Rows, *, seed: int = 0) -> Relations:
    """Compare the pictures of two sides as sets of relations.

    Args:
        adapter: (P, D) features, not centred; several seeds of a prompt averaged.
        base: (P, D) of the same prompts in the same order.
        seed: of the shuffles.

    Raises:
        ShapeMismatch: the sides do not pair up.
    """
    if adapter.shape != base.shape:
        raise ShapeMismatch(f"{adapter.shape} and {base.shape} pictures do not pair up.")
    count = len(adapter)
    first, second = centred(adapter), centred(base)
    cosines = first @ second.T
    own = float(np.diag(cosines).mean())
    others = float((cosines.sum() - np.trace(cosines)) / max(count * (count - 1), 1))
    rng = np.random.default_rng(seed)
    rows = np.arange(count)
    orders = rng.permuted(np.tile(rows, (limits.NUM_PERMUTATIONS, 1)), axis=1)
    drawn = cosines[rows, orders].mean(1)
    alike_first, alike_second = _alike(first), _alike(second)
    chance = np.mean([_alignment(alike_first, alike_second[np.ix_(order, order)]) for order in orders[:99]])
    return Relations(
        own=own,
        others=others,
        nearest=float(np.mean(cosines.argmax(1) == rows)),
        agreement=_alignment(alike_first, alike_second) - float(chance),
        p_value=(1 + int((drawn >= own - 1e-12).sum())) / (len(drawn) + 1),
        prompts=count,
    )


def _alike(rows: Rows) -> Rows:
    gram = rows @ rows.T
    result: Rows = gram - gram.mean(0) - gram.mean(1, keepdims=True) + gram.mean()
    return result


def _alignment(first: Rows, second: Rows) -> float:
    size = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float((first * second).sum()) / size if size > 1e-12 else 0.0
