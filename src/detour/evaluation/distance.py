"""How far two sets of pictures are apart in the judge's features, and whether that is chance."""

import torch
from torch import Tensor

from detour.errors import ShapeMismatch

BANDWIDTH = 0.7
"""Width of the Gaussian kernel for features of length one (distances 0 to 2). It is fixed so that figures of
different runs compare. One prompt in two scenes lies about 0.2 apart, in two styles 0.5 to 1.4, two prompts 1.3;
``docs/log.md`` has the widths that were compared."""


def style_distance(x: Tensor, y: Tensor, *, bandwidth: float = BANDWIDTH) -> float:
    """Biased squared maximum mean discrepancy with a Gaussian kernel.

    Biased on purpose: the unbiased estimate is negative in two thirds of the null trials at 32 pictures, and
    a ratio of it means nothing. The bias falls with the size of the sets, so compare at equal sizes.

    Args:
        x: (N, D) features of length one.
        y: (M, D), same space.
        bandwidth: σ of the kernel ``exp(-|a - b|² / 2σ²)``.

    Returns:
        0 for equal sets, at most 2.

    Raises:
        ShapeMismatch: the widths differ or a set is empty.

    Source: Gretton et al. 2012, JMLR 13, equation 5; for picture features Jayasumana et al. 2024,
    arXiv:2401.09603.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise ShapeMismatch(
            f"feature sets of shapes {tuple(x.shape)} and {tuple(y.shape)} cannot be compared."
        )
    kernel = _kernel(torch.cat([x, y]), bandwidth)
    return float(_biased(kernel, torch.arange(len(x) + len(y)) < len(x)))


def permutation_p_value(
    x: Tensor, y: Tensor, *, num_permutations: int = 999, seed: int = 0, bandwidth: float = BANDWIDTH
) -> float:
    """Share of random exchanges within pairs that lie at least as far apart as the two sets do.

    Row i of both sets belongs to one prompt and seed, so labels are exchanged within pairs. Exchanging them
    freely would compare prompts: two sets of the same prompts lie nearer to each other than any random split.

    Args:
        x: (N, D) features of length one.
        y: (N, D), same space, same prompts in the same order.
        num_permutations: exchanges; the smallest value possible is ``1 / (num_permutations + 1)``.
        seed: of the exchanges.
        bandwidth: as in :func:`style_distance`.

    Returns:
        p-value of "both sides draw alike", with the observed labelling counted in.

    Raises:
        ShapeMismatch: the sets do not pair up.

    Source: Gretton et al. 2012, JMLR 13, section 4; Phipson & Smyth 2010 for the added one.
    """
    if x.shape != y.shape or x.ndim != 2 or not len(x):
        raise ShapeMismatch(f"feature sets of shapes {tuple(x.shape)} and {tuple(y.shape)} do not pair up.")
    kernel = _kernel(torch.cat([x, y]), bandwidth)
    first = torch.arange(2 * len(x)) < len(x)
    observed = _biased(kernel, first)
    generator = torch.Generator().manual_seed(seed)
    at_least = 0
    for _ in range(num_permutations):
        kept = torch.rand(len(x), generator=generator) < 0.5
        # An equal split scores the same up to the order of its sums.
        at_least += bool(_biased(kernel, torch.cat([kept, ~kept])) >= observed - 1e-12)
    return (at_least + 1) / (num_permutations + 1)


def _kernel(features: Tensor, bandwidth: float) -> Tensor:
    wide = features.double()
    # By differences, not by dot products: those lose the digits in which near-equal sets differ.
    squared = (wide[:, None] - wide[None]).square().sum(-1)
    return torch.exp(-squared / (2 * bandwidth**2))


def _biased(kernel: Tensor, first: Tensor) -> Tensor:
    second = ~first
    return (
        kernel[first][:, first].mean()
        + kernel[second][:, second].mean()
        - 2 * kernel[first][:, second].mean()
    )
