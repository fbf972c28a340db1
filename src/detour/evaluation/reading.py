"""Scores of a judge on pictures of an unknown style, with the common offset of the style removed.

All functions are pure and take NumPy arrays of the judge's features, rows of length one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detour.errors import ShapeMismatch

Rows = NDArray[np.float64]
Indices = NDArray[np.int64]

Places = NDArray[np.integer[Any]]
"""Indices of rows."""

SAME_TEXT = 1 - 1e-6
"""Cosine from which two captions count as equal, so that the other one is no wrong answer."""


SETS = 8
"""Number of random sets into which pictures are divided."""


def centred(features: Rows) -> Rows:
    """Subtract the mean of the other rows from each row, and scale to length one.

    A style moves all of its pictures the same way in a judge's features; what is left tells them apart. The mean
    leaves the row itself out, so that a row has no part in what is taken off it. Never use it on pictures of one
    subject, whose mean is the subject.

    Args:
        features: (N, D); fewer than two rows, or rows that do not differ, come back as zeros.

    Returns:
        float64 (N, D).
    """
    rows = np.asarray(features, np.float64)
    if len(rows) < 2:
        return np.zeros_like(rows)
    return unit(rows - (rows.sum(0) - rows) / (len(rows) - 1))


def unit(rows: Rows) -> Rows:
    """Scale rows to length one; a row of zeros stays zero."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    result: Rows = np.where(length > 1e-9, rows / np.maximum(length, 1e-9), 0.0)
    return result


def caption_margins(pictures: Rows, captions: Rows, *, scale: float) -> Rows:
    """Log-odds margin of every caption for every picture: its score less the log of the mean of the others' odds.

    Captions equal to the one that is scored are no alternatives to it.

    Args:
        pictures: (N, D) centred features.
        captions: (N, D) centred features, row i of picture i.
        scale: of the judge's logits; 100 for the published CLIP models.

    Returns:
        float64 (N, N): entry (i, j) is the margin of caption j for picture i; the diagonal holds the own captions'. A
        column without alternatives is zero.

    Raises:
        ShapeMismatch: not one caption a picture.
    """
    if pictures.shape != captions.shape:
        raise ShapeMismatch(f"{pictures.shape} pictures and {captions.shape} captions do not pair up.")
    scores = scale * pictures @ captions.T
    other = (captions @ captions.T < SAME_TEXT) & np.any(captions != 0, axis=1)
    margins = np.zeros_like(scores)
    for column in range(len(captions)):
        if other[column].any():
            margins[:, column] = scores[:, column] - _log_mean_exp(scores[:, other[column]])
    return margins


def word_margins(pictures: Rows, phrases: Rows, *, scale: float) -> Rows:
    """Log-odds margin of every word that can stand in one slot of a picture's prompt.

    Args:
        pictures: (N, D) centred features.
        phrases: (N, K, D) features of the prompt with each of the K words in the slot; their mean is removed here.
        scale: of the judge's logits.

    Returns:
        float64 (N, K).

    Raises:
        ShapeMismatch: not K phrases a picture.
    """
    if phrases.ndim != 3 or len(phrases) != len(pictures) or phrases.shape[2:] != pictures.shape[1:]:
        raise ShapeMismatch(f"{pictures.shape} pictures and {phrases.shape} phrases do not go together.")
    moved = unit(phrases - phrases.reshape(-1, phrases.shape[2]).mean(0))
    scores = scale * np.einsum("nd,nkd->nk", pictures, moved)
    count = scores.shape[1]
    others = ~np.eye(count, dtype=bool)
    rest = [_log_mean_exp(scores[:, others[word]]) for word in range(count)]
    return scores - np.stack(rest, axis=1)


def advantages(margins: Rows, own: Indices) -> Rows:
    """Margin of the right answer minus the mean of the wrong ones', picture by picture.

    Zero on average for pictures that show nothing of what was asked for, whatever the judge likes.

    Args:
        margins: (N, K) of :func:`caption_margins` or :func:`word_margins`.
        own: int (N,), which of the K answers is right.

    Returns:
        float64 (N,).
    """
    right = margins[np.arange(len(margins)), own]
    result: Rows = right - (margins.sum(1) - right) / max(margins.shape[1] - 1, 1)
    return result


def in_sets_of(size: int, count: int, score: Callable[[NDArray[np.int64]], Rows], *, seed: int = 0) -> Rows:
    """Scores of ``count`` pictures, read in random sets of ``size`` of them, and averaged over the sets.

    The fewer pictures are read together, the more of each one their common mean takes away, and the fewer wrong
    captions there are. Two sides compare only when they were read in sets of one size.

    Args:
        size: of a set; a larger one than ``count`` means all of them.
        count: of pictures.
        score: gives the scores of the pictures whose indices it is handed, in their order: (n,), or (n, K) of K scores.
        seed: of the sets.

    Returns:
        float64 (count,) or (count, K).
    """
    everything = np.arange(count)
    if size >= count:
        return score(everything)
    rng = np.random.default_rng(seed)
    total: Rows | None = None
    times = np.zeros(count)
    for _ in range(SETS):
        order = rng.permutation(count)
        for start in range(0, count, size):
            chosen = order[min(start, count - size) :][:size]
            scores = score(chosen)
            total = np.zeros((count, *scores.shape[1:])) if total is None else total
            total[chosen] += scores
            times[chosen] += 1
    assert total is not None, "there is at least one set"
    result: Rows = (total.T / times).T
    return result


def over_seeds(scores: Rows, seeds: int) -> Rows:
    """Means over the pictures of each prompt: (prompts × seeds,) prompt-major to (prompts,).

    Raises:
        ShapeMismatch: not ``seeds`` scores a prompt.
    """
    if len(scores) % seeds:
        raise ShapeMismatch(f"{len(scores)} scores are not {seeds} of each prompt.")
    means: Rows = scores.reshape(-1, seeds).mean(1)
    return means


def _log_mean_exp(scores: Rows) -> Rows:
    top = scores.max(1, keepdims=True)
    result: Rows = (top + np.log(np.exp(scores - top).mean(1, keepdims=True)))[:, 0]
    return result
