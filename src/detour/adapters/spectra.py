"""Singular values of a layer's change for every algorithm, from its factors wherever they allow it."""

import torch
from torch import Tensor

from detour.adapters.analysis import singular_values, svd_of_product
from detour.adapters.layers import DoraLayer, Layer, LoraLayer
from detour.adapters.lycoris_layers import LohaLayer, LokrLayer


def singular_values_of(layer: Layer) -> Tensor:
    """(k,) float64, falling; of a DoRA, those of its change of direction.

    A LoHa is a sum of rank² outer products, a LoKr's values are the products of those of its two matrices. LoHa in
    Tucker form is taken apart densely.

    Source: Horn & Johnson 1991, Topics in Matrix Analysis, theorem 4.2.15 (Kronecker) and section 5.1 (Hadamard).
    """
    if isinstance(layer, DoraLayer):
        return singular_values_of(layer.change)
    if isinstance(layer, LoraLayer):
        return singular_values(layer)
    scale = abs(layer.alpha) / layer.rank
    if isinstance(layer, LokrLayer):
        first, second = (torch.linalg.svdvals(matrix.double().flatten(1)) for matrix in layer.matrices)
        return torch.outer(first, second).flatten().sort(descending=True).values * scale
    if (
        isinstance(layer, LohaLayer)
        and layer.t1 is None
        and layer.rank**2 < min(layer.out_features, layer.in_features)
    ):
        up = torch.einsum("oi,oj->oij", layer.w1_a.double(), layer.w2_a.double()).flatten(1)
        down = torch.einsum("ik,jk->ijk", layer.w1_b.double(), layer.w2_b.double()).flatten(0, 1)
        return svd_of_product(down, up).values * scale
    return torch.linalg.svdvals(layer.delta().double().flatten(1))
