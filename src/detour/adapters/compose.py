"""One adapter from several, or from one at a lower rank; all of it on the factors but TIES."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detour.adapters.adapter import LoraLayer
from detour.adapters.analysis import ThinSvd, flat_factors, svd_of_product, thin_svd
from detour.errors import AdapterError, ConfigError, ShapeMismatch

_MORE_DIRECTIONS, _ITERATIONS = 8, 2
"""Directions more than asked, and passes, of subspace iteration: what a merged change of flat spectrum keeps is within
a hundredth of the best."""

_SMALL_MATRIX = 192
"""Side up to which a decomposition in full costs no more."""


@dataclass(frozen=True, kw_only=True)
class Truncated:
    """A layer at a lower rank.

    Attributes:
        layer: its two factors share each direction's strength evenly; alpha is the rank.
        kept: share of the energy ``‖ΔW‖²`` that is left; 1 where there was none.
        energy: ``‖ΔW‖²`` before.
    """

    layer: LoraLayer
    kept: float
    energy: float


def side_by_side(key: str, pieces: Sequence[tuple[LoraLayer, float]]) -> LoraLayer:
    """The weighted sum of one layer's changes, exactly: factors stand side by side, so that ranks add up.

    Where one adapter alone has the layer, its factors are kept and alpha is multiplied.

    Args:
        key: named in errors.
        pieces: layers of one shape, with their weights.

    Raises:
        ShapeMismatch: they are of different bases.
    """
    first, weight = pieces[0]
    if len(pieces) == 1:
        return LoraLayer(down=first.down, up=first.up, alpha=first.alpha * weight)
    require_same_shape(key, [layer for layer, _ in pieces])
    down = torch.cat([layer.down.reshape(-1, *first.down.shape[1:]) for layer, _ in pieces])
    ups = [layer.up * (weight * layer.scale) for layer, weight in pieces]
    up = torch.cat([one.reshape(first.out_features, -1, *first.up.shape[2:]) for one in ups], dim=1)
    return LoraLayer(down=down, up=up, alpha=float(down.shape[0]))


def require_same_shape(key: str, layers: Sequence[LoraLayer]) -> None:
    """Raise where layers of one name change weights of different shapes.

    Raises:
        ShapeMismatch: names both.
    """
    shapes = {(layer.in_features, layer.out_features, layer.kernel) for layer in layers}
    if len(shapes) > 1:
        (a_in, a_out, _), (b_in, b_out, _) = sorted(shapes)[:2]
        raise ShapeMismatch(
            f"'{key}' maps {a_in} to {a_out} features in one adapter and {b_in} to {b_out} in another. "
            "Compose adapters of the same base."
        )


def require_small_enough(key: str, layer: LoraLayer, weight: float = 1.0) -> None:
    """Raise where a change is so large that its numbers may not fit float32, before they are computed with.

    Args:
        key: named in the error.
        layer: its change is at most ``|weight · scale| · ‖up‖ · ‖down‖``.
        weight: that it is multiplied by.

    Raises:
        AdapterError: it may overflow.
    """
    norms = [float(factor.double().norm()) for factor in (layer.up, layer.down)]
    largest = abs(weight * layer.scale) * norms[0] * norms[1]
    if not largest < torch.finfo(torch.float32).max:
        raise AdapterError(
            f"'{key}': its change would overflow (up to {largest:.1e}), so that nothing can be made of it. Use another "
            "adapter or a lower weight."
        )


def truncate(
    layer: LoraLayer,
    *,
    rank: int | None = None,
    energy: float | None = None,
    dtype: torch.dtype = torch.float64,
) -> Truncated:
    """The best approximation of a layer's change at a lower rank.

    Args:
        layer: any rank.
        rank: at most this many directions.
        energy: as few directions as keep this share of ``‖ΔW‖²``.
        dtype: of the computation; float32 does where the result is kept in half precision, in half of the time.

    Source: Eckart & Young 1936; on the factors as in :mod:`detour.adapters.analysis`.
    """
    return from_svd(thin_svd(layer, dtype), layer, rank=rank, energy=energy)


def from_svd(svd: ThinSvd, like: LoraLayer, *, rank: int | None, energy: float | None) -> Truncated:
    """The first directions of a decomposition as a layer shaped like ``like``.

    Raises:
        ConfigError: a rank below 1 or a share outside of (0, 1].
    """
    energies = svd.values.square()
    total = float(energies.sum())
    count = _num_kept(energies, rank, energy)
    roots = svd.values[:count].sqrt()
    up = (svd.left[:, :count] * roots).float().reshape(like.out_features, count, *like.up.shape[2:])
    down = (roots[:, None] * svd.right[:count]).float().reshape(count, *like.down.shape[1:])
    kept = float(energies[:count].sum()) / total if total > 0.0 else 1.0
    return Truncated(
        layer=LoraLayer(down=down.contiguous(), up=up.contiguous(), alpha=float(count)),
        kept=kept,
        energy=total,
    )


def truncate_matrix(change: Tensor, like: LoraLayer, *, rank: int, energy: float | None) -> Truncated:
    """The best approximation of a dense change at a lower rank.

    The directions are eigenvectors of the smaller Gram matrix: the share that they keep is that of a decomposition in
    full to twelve digits, in a sixteenth of its time for a 3×3 convolution. What is kept is counted on the change
    itself, projected on them, so that rounding in the directions would show.

    Args:
        change: (out, in, …), any float dtype.
        like: says whether factors are matrices or kernels.
        rank: at most this many directions.
        energy: as few directions as keep this share of ``‖ΔW‖²``.

    Raises:
        ConfigError: a rank below 1 or a share outside of (0, 1].

    Source: Golub & Van Loan, Matrix Computations, 4th ed., section 8.6.1.
    """
    matrix = change.flatten(1).double()
    is_wide = matrix.shape[0] <= matrix.shape[1]
    wide = matrix if is_wide else matrix.T
    energies, directions = torch.linalg.eigh(wide @ wide.T)
    count = _num_kept(energies.flip(0).clamp_min(0.0), rank, energy)
    basis = directions.flip(1)[:, :count]
    left, values, right = torch.linalg.svd(basis.T @ wide, full_matrices=False)
    left = basis @ left
    svd = ThinSvd(left=left, values=values, right=right)
    if not is_wide:
        svd = ThinSvd(left=right.T, values=values, right=left.T)
    cut = from_svd(svd, like, rank=count, energy=None)
    total = float(matrix.square().sum())
    kept = min(1.0, cut.energy / total) if total > 0.0 else 1.0
    return Truncated(layer=cut.layer, kept=kept, energy=total)


def _num_kept(energies: Tensor, rank: int | None, energy: float | None) -> int:
    """How many of the falling ``energies`` are kept, one at least."""
    if rank is not None and rank < 1:
        raise ConfigError(f"rank {rank}: choose at least 1.")
    if energy is not None and not 0.0 < energy <= 1.0:
        raise ConfigError(f"energy {energy:g}: a share between 0 and 1, e.g. 0.95.")
    total = float(energies.sum())
    count = len(energies) if rank is None else min(rank, len(energies))
    if energy is not None and total > 0.0:
        reached = energies.cumsum(0) >= energy * total * (1.0 - 1e-12)
        count = min(count, int(reached.int().argmax()) + 1)
    return max(count, 1)


def ties(pieces: Sequence[tuple[LoraLayer, float]], *, density: float, rank: int) -> Truncated:
    """TIES-merging of one layer's changes: trim, elect signs, mean of those that agree, then truncated.

    This one builds the layer's dense change, as signs are of single weights.

    Args:
        pieces: layers of one shape, with their weights.
        density: share of each change's weights, the largest ones, that is kept.
        rank: of the result; ``kept`` is counted against the dense merged change.

    Raises:
        ConfigError: a density outside of (0, 1].

    Source: Yadav et al. 2023, arXiv:2306.01708, section 4.
    """
    if not 0.0 < density <= 1.0:
        raise ConfigError(f"density {density:g}: a share between 0 and 1, e.g. 0.5.")
    changes = torch.stack([_trimmed(layer, density).mul_(weight) for layer, weight in pieces])
    elected = changes.sum(0).sign_()
    agreeing = (changes.sign() == elected) & (elected != 0)
    merged = changes.mul_(agreeing).sum(0).div_(agreeing.sum(0).clamp_min(1))
    del changes, elected, agreeing
    like = pieces[0][0]
    cut = from_svd(_leading_svd(merged, rank), like, rank=rank, energy=None)
    energy = float(merged.double().square().sum())
    kept = min(1.0, cut.energy * cut.kept / energy) if energy > 0 else 1.0
    return Truncated(layer=cut.layer, kept=kept, energy=energy)


def _trimmed(layer: LoraLayer, density: float) -> Tensor:
    """Dense float32 change with zeros for all but its largest numbers."""
    change = layer.delta().flatten(1)
    count = max(1, round(density * change.numel()))
    if count < change.numel():
        sizes = change.abs().flatten().numpy()
        threshold = float(np.partition(sizes, change.numel() - count)[change.numel() - count])
        change.mul_(change.abs() >= threshold)
    return change


def _leading_svd(matrix: Tensor, rank: int) -> ThinSvd:
    """The first ``rank`` directions of a dense matrix: exactly where it is small, else by subspace iteration.

    Source: Halko, Martinsson & Tropp 2011, arXiv:0909.4061, algorithm 4.4; a fixed seed, so that the same adapters give
    the same bytes.
    """
    smaller = min(matrix.shape)
    width = rank + _MORE_DIRECTIONS
    if smaller <= max(2 * width, _SMALL_MATRIX):
        left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
        return ThinSvd(left=left, values=values, right=right)
    start = torch.randn(matrix.shape[1], width, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(matrix @ start).Q
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    left, values, right = torch.linalg.svd((basis.T @ matrix).double(), full_matrices=False)
    return ThinSvd(left=basis.double() @ left, values=values, right=right)


def truncated_sum(
    pieces: Sequence[tuple[LoraLayer, float]],
    *,
    rank: int | None = None,
    energy: float | None = None,
    dtype: torch.dtype = torch.float64,
) -> Truncated:
    """The weighted sum of layers of one shape at a lower rank, from the factors; ``dtype`` as in :func:`truncate`."""
    factors = [flat_factors(layer, dtype) for layer, _ in pieces]
    down = torch.cat([down for down, _ in factors])
    up = torch.cat([up * weight for (_, up), (_, weight) in zip(factors, pieces, strict=True)], dim=1)
    return from_svd(svd_of_product(down, up), pieces[0][0], rank=rank, energy=energy)
