"""Fréchet distance of picture features, where there are enough pictures."""

import torch
from torch import Tensor

from detour.errors import ShapeMismatch

PICTURES_A_WIDTH = 2
"""Pictures that each set needs for each dimension of a feature. With fewer than one, a covariance of D × D numbers
is singular and the distance of two sets of one distribution is mostly bias.
"""


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Fréchet distance of two sets of features, each taken as a Gaussian: ``|m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½)``.

    The formula of FID, on the judge's features of length one instead of Inception's: its figures do not compare with
    published FIDs.

    Args:
        x: (N, D), two rows or more.
        y: (M, D), same space.

    Returns:
        0 for sets of equal mean and covariance, at most 4 for features of length one.

    Raises:
        ShapeMismatch: the widths differ, or a set has fewer than two rows.

    Source: Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ShapeMismatch(
            f"feature sets of shapes {tuple(x.shape)} and {tuple(y.shape)} have no Fréchet distance."
        )
    x, y = x.double(), y.double()
    first, second = torch.atleast_2d(torch.cov(x.T)), torch.atleast_2d(torch.cov(y.T))
    # The trace of (C₁ C₂)^½ is that of (C₁^½ C₂ C₁^½)^½, which is symmetric: its root is real.
    root = _root(first)
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    means = (x.mean(0) - y.mean(0)).square().sum()
    return float((means + first.trace() + second.trace() - 2 * shared).clamp_min(0))


def why_no_frechet(*sets: Tensor) -> str | None:
    """Sentence on why a set has too few pictures; ``None`` where the distance is meaningful.

    Args:
        sets: (N, D) features each.
    """
    fewest, width = min(len(one) for one in sets), sets[0].shape[1]
    needed = PICTURES_A_WIDTH * width
    if fewest >= needed:
        return None
    return (
        f"The Fréchet distance was left out: features of width {width} need {needed} pictures in each set, "
        f"the smallest has {fewest}."
    )


def _root(symmetric: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(symmetric)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
