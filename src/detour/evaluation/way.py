"""Share of the way from the base's pictures to the references that an adapter's went, with a test of chance."""

from dataclasses import dataclass

import numpy as np

from detour.errors import ShapeMismatch
from detour.evaluation import limits
from detour.evaluation.reading import Indices, Rows

BANDWIDTH = 0.7
"""Width of the Gaussian kernel, as in :mod:`detour.evaluation.distance`."""

NO_ROOM = 1e-6
"""Squared discrepancy up to which base and references count as the same."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """Share of the way from the base's pictures (0) to the references (1), in the judge's features.

    Attributes:
        share: of the distance that is gone: ``1 − d(adapter, references) / d(base, references)`` with unbiased squared
            maximum mean discrepancies, so that two sets of true pictures lie at 1 on average, however few.
        low: lower limit of it, 95 % on that side, over references and prompts drawn again; ``None`` where there are
            too few references, or the way is too short, for limits to mean anything.
        high: upper limit of it; ``None`` likewise.
        room: d(base, references): how far the references are from what the base draws anyway.
        p_room: share of relabellings after which base and references are as far apart.
        p_nearer: share of exchanges within pairs after which the adapter's pictures are as much nearer.
        nearer: share of the prompts whose pictures are nearer to the references than to the base's pictures.
        references: that were compared with.
    """

    share: float
    low: float | None
    high: float | None
    room: float
    p_room: float
    p_nearer: float
    nearer: float
    references: int


def measure_way(adapter: Rows, base: Rows, references: Rows, *, seeds: int = 1, seed: int = 0) -> Way:
    """Measure how far the adapter's pictures went from the base's to the references.

    Prompts are the samples: pictures of one prompt are alike, so they are exchanged and drawn again together, and are
    not compared with each other.

    Args:
        adapter: (P × seeds, D) features of length one, prompt-major.
        base: (P × seeds, D) of the same prompts and seeds.
        references: (M, D), two or more.
        seeds: pictures of each prompt.
        seed: of permutations and of drawing again.

    Raises:
        ShapeMismatch: the sides do not pair up, or there are fewer than two prompts or references.
    """
    if adapter.shape != base.shape or len(adapter) % seeds or min(len(adapter) // seeds, len(references)) < 2:
        raise ShapeMismatch(
            f"{adapter.shape} and {base.shape} pictures with {references.shape} references: no way to measure."
        )
    count, total = len(adapter) // seeds, len(references)
    kernel = _by_prompt(_kernel(np.concatenate([adapter, base, references])), 2 * count, seeds)
    mine, theirs = np.arange(count), count + np.arange(count)
    true = 2 * count + np.arange(total)
    rng = np.random.default_rng(seed)
    whole = [_members(len(kernel), rows[None]) for rows in (mine, theirs, true)]
    left, room = (float(_mmd(kernel, side, whole[2])[0]) for side in whole[:2])
    pairs = rng.integers(0, count, (limits.NUM_RESAMPLES, count))
    some = _members(len(kernel), true[rng.integers(0, total, (limits.NUM_RESAMPLES, total))])
    apart = _mmd(kernel, _members(len(kernel), theirs[pairs]), some)
    shares = 1 - _mmd(kernel, _members(len(kernel), mine[pairs]), some) / np.maximum(apart, NO_ROOM)
    p_room = _two_sample_p(kernel, theirs, true, room, rng)
    limited = total >= limits.FIRM_REFERENCES_MIN and p_room <= limits.GAIN_P_MAX
    limited = limited and float(np.quantile(apart, 0.05)) > NO_ROOM
    to_base = kernel[np.ix_(mine, theirs)]
    toward = kernel[np.ix_(mine, true)].mean(1) - (to_base.sum(1) - np.diag(to_base)) / max(count - 1, 1)
    return Way(
        share=1 - left / room if room > NO_ROOM else 0.0,
        low=float(np.quantile(shares, 0.05)) if limited else None,
        high=float(np.quantile(shares, 0.95)) if limited else None,
        room=room,
        p_room=p_room,
        p_nearer=_nearer(kernel, mine, theirs, true, rng),
        nearer=float(np.mean(toward > 0)),
        references=total,
    )


def _kernel(rows: Rows) -> Rows:
    squares = (rows**2).sum(1)
    distances = squares[:, None] + squares[None] - 2 * rows @ rows.T
    result: Rows = np.exp(-np.maximum(distances, 0) / (2 * BANDWIDTH**2))
    return result


def _by_prompt(kernel: Rows, prompts: int, seeds: int) -> Rows:
    """Mean kernel of the pictures of each pair of prompts, with ones on the diagonal; references stay single.

    Args:
        kernel: (prompts × seeds + M) squared.
        prompts: of both sides together.
        seeds: pictures of each.

    Returns:
        (prompts + M) squared.
    """
    single = len(kernel) - prompts * seeds
    mean = np.zeros((prompts + single, len(kernel)))
    mean[:prompts, : prompts * seeds] = np.kron(np.eye(prompts), np.full(seeds, 1 / seeds))
    mean[prompts:, prompts * seeds :] = np.eye(single)
    result: Rows = mean @ kernel @ mean.T
    np.fill_diagonal(result, 1.0)
    return result


def _mmd(kernel: Rows, first: Rows, second: Rows) -> Rows:
    """Unbiased squared MMD of many pairs of sets at once.

    Args:
        kernel: (T, T) with ones on the diagonal.
        first: (R, T) how often each row is in the first set; a row that is there twice is not compared with itself.
        second: (R, T) the same of the second set.

    Returns:
        (R,).
    """

    def within(counts: Rows) -> Rows:
        inside = np.einsum("rt,rt->r", counts @ kernel, counts) - (counts**2).sum(1)
        pairs = counts.sum(1) ** 2 - (counts**2).sum(1)
        result: Rows = np.where(pairs > 0, inside / np.maximum(pairs, 1), 1.0)
        return result

    across = np.einsum("rt,rt->r", first @ kernel, second) / (first.sum(1) * second.sum(1))
    result: Rows = within(first) + within(second) - 2 * across
    return result


def _members(total: int, rows: Indices) -> Rows:
    """Counts (R, total) of the indices in each row of ``rows`` (R, n)."""
    counts = np.zeros((len(rows), total))
    np.add.at(counts, (np.arange(len(rows))[:, None], rows), 1.0)
    return counts


def _p_value(observed: float, drawn: Rows) -> float:
    return (1 + int((drawn >= observed - 1e-12).sum())) / (len(drawn) + 1)


def _two_sample_p(
    kernel: Rows, first: Indices, second: Indices, observed: float, rng: np.random.Generator
) -> float:
    pooled = np.concatenate([first, second])
    mixed = np.stack([rng.permutation(pooled) for _ in range(limits.NUM_PERMUTATIONS)])
    here, there = (_members(len(kernel), rows) for rows in np.split(mixed, [len(first)], axis=1))
    return _p_value(observed, _mmd(kernel, here, there))


def _nearer(kernel: Rows, mine: Indices, theirs: Indices, true: Indices, rng: np.random.Generator) -> float:
    """One-sided p-value that the adapter's pictures are nearer to the references, by exchanges within pairs.

    Source: Gretton et al. 2012, JMLR 13, section 4.
    """
    swapped = np.concatenate(
        [np.zeros((1, len(mine)), bool), rng.random((limits.NUM_PERMUTATIONS, len(mine))) < 0.5]
    )
    total = len(kernel)
    references = np.repeat(_members(total, true[None]), len(swapped), axis=0)
    near, far = (
        _mmd(kernel, _members(total, np.where(chosen, theirs, mine)), references)
        for chosen in (swapped, ~swapped)
    )
    gains = far - near
    return _p_value(float(gains[0]), gains[1:])
