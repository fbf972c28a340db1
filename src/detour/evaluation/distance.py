"""Distance of two sets of pictures in the judge's features, with tests of whether it is chance."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detour.errors import ShapeMismatch

BANDWIDTH = 0.7
"""Width of the Gaussian kernel for features of length one (distances 0 to 2). It is fixed so that figures of
different runs compare. One prompt in two scenes lies about 0.2 apart, in two styles 0.5 to 1.4, two prompts 1.3;
``docs/log.md`` has the widths that were compared."""

CMMD_BANDWIDTH = 10.0
CMMD_SCALE = 1000.0
"""Kernel width and factor of the published CMMD."""

NUM_PERMUTATIONS = 999
"""Number of permutations of a test; the smallest p-value is 0.001."""


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
    _require_comparable(x, y)
    kernel = _kernel(torch.cat([x, y]), bandwidth)
    return float(_squared_mmd(kernel, torch.arange(len(x) + len(y)) < len(x)))


def cmmd(x: Tensor, y: Tensor) -> float:
    """Style distance on the scale of the published CMMD: width 10, times 1000, features of length one.

    At this width the kernel is nearly linear, ``1 - |a - b|² / 200``: CMMD is ten times the squared distance of the two
    mean features, to 2 % or better. It tells means apart and little else. Figures compare only between sets of equal
    sizes, with the judge of the publication (``openai/clip-vit-large-patch14-336``), and then only roughly: it squeezes
    pictures into a square where CLIP's own preprocessing, which is followed here, crops them.

    Args:
        x: (N, D) features of length one.
        y: (M, D), same space.

    Returns:
        0 for equal sets, below 40.

    Raises:
        ShapeMismatch: the widths differ or a set is empty.

    Source: Jayasumana et al. 2024, arXiv:2401.09603, section 4, and the authors' code.
    """
    return CMMD_SCALE * style_distance(x, y, bandwidth=CMMD_BANDWIDTH)


def two_sample_p_value(
    x: Tensor,
    references: Tensor,
    *,
    strata: tuple[Sequence[int], Sequence[int]] | None = None,
    num_permutations: int = NUM_PERMUTATIONS,
    seed: int = 0,
    bandwidth: float = BANDWIDTH,
) -> float:
    """Share of random exchanges of labels with a distance at least as large as that of a set to its references.

    Args:
        x: (N, D) features of length one.
        references: (M, D), same space.
        strata: what each row of the two sets shows (the number of its prompt): labels are exchanged only among rows
            that show the same, so that contents cannot tell the sets apart. ``None`` exchanges freely; then hand in one
            picture a prompt, for pictures of one prompt are not independent, and expect other contents to be told.
        num_permutations: exchanges; the smallest value possible is ``1 / (num_permutations + 1)``.
        seed: of the exchanges.
        bandwidth: as in :func:`style_distance`.

    Returns:
        p-value of "both sets come from one distribution", with the observed labelling counted in.

    Raises:
        ShapeMismatch: the widths differ, a set is empty, or not one stratum a row.

    Source: Gretton et al. 2012, JMLR 13, section 4.
    """
    _require_comparable(x, references)
    mine, theirs = strata or ([0] * len(x), [0] * len(references))
    if (len(mine), len(theirs)) != (len(x), len(references)):
        raise ShapeMismatch(
            f"{len(mine)} and {len(theirs)} strata for {len(x)} and {len(references)} pictures: each needs its own."
        )
    kernel = _kernel(torch.cat([x, references]), bandwidth)
    first = torch.arange(len(x) + len(references)) < len(x)
    shuffled = _shuffled_labels(first, torch.tensor([*mine, *theirs]), num_permutations, seed)
    return _p_value(_squared_mmd(kernel, first), _squared_mmd(kernel, shuffled))


def nearer_p_value(
    adapter: Tensor,
    base: Tensor,
    references: Tensor,
    *,
    seeds: int = 1,
    num_permutations: int = NUM_PERMUTATIONS,
    seed: int = 0,
    bandwidth: float = BANDWIDTH,
) -> float:
    """Share of random exchanges within pairs after which the first set is at least as much nearer to the references.

    Row i of both sets belongs to one prompt and seed, so labels are exchanged within pairs; exchanging them freely
    would compare prompts. One-sided: an adapter that goes away from the references gets a value near one.

    Args:
        adapter: (N, D) features of length one.
        base: (N, D), the same prompts and seeds in the same order.
        references: (M, D), same space.
        seeds: rows in a row that belong to one prompt; they are exchanged together.
        num_permutations: exchanges; the smallest value possible is ``1 / (num_permutations + 1)``.
        seed: of the exchanges.
        bandwidth: as in :func:`style_distance`.

    Returns:
        p-value of "the adapter's pictures are no nearer than the base's", with the observed labelling counted in.

    Raises:
        ShapeMismatch: the sets do not pair up, or the widths differ.

    Source: Gretton et al. 2012, JMLR 13, section 4; Phipson & Smyth 2010 for the added one.
    """
    _require_pairs(adapter, base, seeds)
    _require_comparable(adapter, references)
    count = len(adapter)
    kernel = _kernel(torch.cat([adapter, base, references]), bandwidth)
    kept = _kept_pairs(count, seeds, num_permutations, seed)
    observed = torch.ones(1, count, dtype=torch.bool)

    them = torch.ones(len(references), dtype=torch.bool)

    def gain(first: Tensor) -> Tensor:
        """How much nearer the chosen side of each pair lies than the other, (P,); ``first`` is bool (P, N)."""
        seen = torch.cat([torch.zeros(2 * count, dtype=torch.bool), them]).expand(len(first), -1)
        nobody = torch.zeros(len(first), len(references), dtype=torch.bool)
        near = _means(kernel, torch.cat([first, ~first, nobody], dim=1), seen)
        far = _means(kernel, torch.cat([~first, first, nobody], dim=1), seen)
        return far - near

    return _p_value(gain(observed)[0], gain(kept))


def _require_comparable(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise ShapeMismatch(
            f"feature sets of shapes {tuple(x.shape)} and {tuple(y.shape)} cannot be compared."
        )


def _require_pairs(x: Tensor, y: Tensor, seeds: int) -> None:
    if x.shape != y.shape or x.ndim != 2 or not len(x) or seeds < 1 or len(x) % seeds:
        raise ShapeMismatch(
            f"feature sets of shapes {tuple(x.shape)} and {tuple(y.shape)} do not pair up with {seeds} seeds a prompt."
        )


def _kernel(features: Tensor, bandwidth: float) -> Tensor:
    wide = features.double()
    # By differences, not by dot products: those lose the digits in which near-equal sets differ.
    squared = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist").square()
    return torch.exp(-squared / (2 * bandwidth**2))


def _squared_mmd(kernel: Tensor, first: Tensor) -> Tensor:
    """Squared MMD of each labelling: kernel (K, K), first bool (…, K) → (…)."""
    return _means(kernel, first, ~first)


def _means(kernel: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Squared distance of the mean embeddings of two sets of rows, with weights 1/n and -1/m."""
    one, two = first.double(), second.double()
    weights = one / one.sum(-1, keepdim=True) - two / two.sum(-1, keepdim=True)
    return ((weights @ kernel) * weights).sum(-1)


def _kept_pairs(count: int, seeds: int, num_permutations: int, seed: int) -> Tensor:
    """Which pairs keep their order, bool (permutations, count); pairs of one prompt are exchanged together."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.rand(count // seeds, generator=generator) < 0.5 for _ in range(num_permutations)]
    return torch.stack(drawn).repeat_interleave(seeds, dim=1)


def _shuffled_labels(first: Tensor, strata: Tensor, num_permutations: int, seed: int) -> Tensor:
    """Labels shuffled among the rows of each stratum, bool (permutations, K)."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = first.repeat(num_permutations, 1)
    for stratum in strata.unique():
        rows = (strata == stratum).nonzero()[:, 0]
        orders = torch.rand(num_permutations, len(rows), generator=generator).argsort(dim=1)
        shuffled[:, rows] = first[rows][orders]
    return shuffled


def _p_value(observed: Tensor, exchanged: Tensor) -> float:
    # An equal split scores the same up to the order of its sums.
    at_least = int((exchanged >= observed - 1e-12).sum())
    return (at_least + 1) / (len(exchanged) + 1)
