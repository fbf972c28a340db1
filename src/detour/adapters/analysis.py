"""What an adapter's change is made of, computed from the factors: a dense ``ΔW`` is never built.

With ``up = Qu·Ru`` and ``downᵀ = Qd·Rd`` the singular values of ``up @ down`` are those of the small
``Ru·Rdᵀ``. All of it runs in float64: factors are thin, and differences of nearly equal changes must not
drown in rounding.

Source: Golub & Van Loan, Matrix Computations, 4th ed., section 5.4 (QR before SVD).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from detour.adapters.adapter import Adapter, Layer, LoraLayer
from detour.adapters.delta import largest_relative_difference
from detour.errors import ShapeMismatch


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Figures of one change, or of several changes taken together.

    Attributes:
        norm: Frobenius norm of ``ΔW``.
        stable_rank: ``‖ΔW‖² / σ₁²``: how many directions carry the change; 0 where there is none.
        first_share: share of the energy ``‖ΔW‖²`` in the first direction.
        first_four_share: share of the energy in the first four directions.
    """

    norm: float
    stable_rank: float
    first_share: float
    first_four_share: float


@dataclass(frozen=True, kw_only=True)
class ThinSvd:
    """``ΔW = left @ diag(values) @ right``, as far as the factors' rank goes.

    Attributes:
        left: (out, k) float64, orthonormal columns.
        values: (k,) float64, falling.
        right: (k, in · kh · kw) float64, orthonormal rows.
    """

    left: Tensor
    values: Tensor
    right: Tensor


def flat_factors(layer: LoraLayer, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """(down, up) as matrices (rank, in · kh · kw) and (out, rank), the scale multiplied into ``up``."""
    return layer.down.to(dtype).flatten(1), layer.up.to(dtype).flatten(1) * layer.scale


def thin_svd(layer: LoraLayer, dtype: torch.dtype = torch.float64) -> ThinSvd:
    """Singular value decomposition of a layer's change, from its factors.

    Args:
        layer: any rank.
        dtype: of the computation and the result; float32 does for figures in per cent and takes a sixth.
    """
    return svd_of_product(*flat_factors(layer, dtype))


def svd_of_product(down: Tensor, up: Tensor) -> ThinSvd:
    """Singular value decomposition of ``up @ down``.

    Args:
        down: (rank, in).
        up: (out, rank).
    """
    up_q, up_r = torch.linalg.qr(up)
    down_q, down_r = torch.linalg.qr(down.T)
    left, values, right = torch.linalg.svd(up_r @ down_r.T, full_matrices=False)
    return ThinSvd(left=up_q @ left, values=values, right=right @ down_q.T)


def singular_values(layer: LoraLayer) -> Tensor:
    """(min(rank, in · kh · kw, out),) float64, falling."""
    down, up = flat_factors(layer)
    return _values_of_product(down, up)


def _values_of_product(down: Tensor, up: Tensor) -> Tensor:
    up_r = torch.linalg.qr(up, mode="r").R
    down_r = torch.linalg.qr(down.T, mode="r").R
    return torch.linalg.svdvals(up_r @ down_r.T)


def spectrum(layers: Iterable[LoraLayer]) -> Spectrum:
    """Figures of several layers taken together, by :func:`spectrum_of_values`."""
    return spectrum_of_values(singular_values(layer) for layer in layers)


def spectrum_of_values(values: Iterable[Tensor]) -> Spectrum:
    """Figures of several changes taken together: energies add up, so large changes count for more.

    The stable rank is the energy over the energy of the first directions.

    Args:
        values: singular values of each, falling.
    """
    total = first = first_four = 0.0
    for one in values:
        energies = one.square()
        total += float(energies.sum())
        first += float(energies[:1].sum())
        first_four += float(energies[:4].sum())
    if total == 0.0:
        return Spectrum(norm=0.0, stable_rank=0.0, first_share=0.0, first_four_share=0.0)
    return Spectrum(
        norm=total**0.5,
        stable_rank=total / first,
        first_share=first / total,
        first_four_share=first_four / total,
    )


def relative_difference(a: LoraLayer, b: LoraLayer) -> float:
    """``‖ΔWa - ΔWb‖ / ‖ΔWa‖``; 0 where they are equal, infinite where only ``a`` is zero.

    Raises:
        ShapeMismatch: they belong to layers of different shapes.
    """
    wide, tall = a.down.flatten(1).shape[1], a.out_features
    if (wide, tall) != (b.down.flatten(1).shape[1], b.out_features):
        raise ShapeMismatch(
            f"a change of {tall}×{wide} against one of {b.out_features}×{b.down.flatten(1).shape[1]}."
        )
    if a.down.shape == b.down.shape and torch.equal(a.down, b.down):
        if torch.equal(a.up, b.up) and a.alpha == b.alpha:
            return 0.0
        # What rounding leaves of factors side by side: nothing cancels in this product, so no QR is needed.
        down, up = flat_factors(a, torch.float32)
        gram = down @ down.T
        difference, norm = (
            _norm_by_gram(gram, up - flat_factors(b, torch.float32)[1]),
            _norm_by_gram(gram, up),
        )
    else:
        down_a, up_a = flat_factors(a)
        down_b, up_b = flat_factors(b)
        difference = _norm_of_product(torch.cat([down_a, down_b]), torch.cat([up_a, -up_b], dim=1))
        norm = _norm_of_product(down_a, up_a)
    if norm > 0.0:
        return difference / norm
    return float("inf") if difference > 0.0 else 0.0


def relative_differences(a: Adapter, b: Adapter) -> dict[str, float]:
    """Layer key → relative difference of the change; a layer that one of them lacks counts as zero there.

    Layers that are not plain LoRA are compared densely.

    Raises:
        ShapeMismatch: a layer has another shape in the other adapter.
    """
    found = {}
    for key in sorted(set(a.layers) | set(b.layers)):
        first, second = a.layers.get(key), b.layers.get(key)
        try:
            if isinstance(first, LoraLayer) and isinstance(second, LoraLayer):
                found[key] = relative_difference(first, second)
            else:
                found[key] = largest_relative_difference(_alone(key, first), _alone(key, second))
        except ShapeMismatch as error:
            raise ShapeMismatch(f"'{key}': {error}") from error
    return found


def _alone(key: str, layer: Layer | None) -> Adapter:
    return Adapter({} if layer is None else {key: layer})


def _norm_of_product(down: Tensor, up: Tensor) -> float:
    up_r = torch.linalg.qr(up, mode="r").R
    down_r = torch.linalg.qr(down.T, mode="r").R
    return float(torch.linalg.matrix_norm(up_r @ down_r.T))


def _norm_by_gram(down_gram: Tensor, up: Tensor) -> float:
    """‖up @ down‖ from ``down @ down.T``, in their precision: a tenth of the work of two QR decompositions."""
    return float((down_gram * (up.T @ up)).sum().clamp_min(0.0).sqrt())
