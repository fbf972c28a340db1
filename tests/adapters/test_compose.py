import pytest
import torch

from detour.adapters.adapter import LoraLayer
from detour.adapters.compose import side_by_side, ties, truncate, truncate_matrix, truncated_sum
from detour.errors import ConfigError, ShapeMismatch

KEY = "unet.mid_block.a"


def linear(seed: int, *, rank: int = 3, alpha: float = 6.0, wide: int = 10) -> LoraLayer:
    generator = torch.Generator().manual_seed(seed)
    return LoraLayer(
        down=torch.randn(rank, wide, generator=generator),
        up=torch.randn(8, rank, generator=generator),
        alpha=alpha,
    )


def conv(seed: int) -> LoraLayer:
    generator = torch.Generator().manual_seed(seed)
    return LoraLayer(
        down=torch.randn(2, 4, 3, 3, generator=generator),
        up=torch.randn(6, 2, 1, 1, generator=generator),
        alpha=1.0,
    )


@pytest.mark.parametrize(("a", "b"), [(linear(0), linear(2, rank=2, alpha=16.0)), (conv(1), conv(3))])
def test_factors_side_by_side_are_the_weighted_sum_whatever_the_ranks_and_alphas(
    a: LoraLayer, b: LoraLayer
) -> None:
    both = side_by_side(KEY, [(a, 0.8), (b, -0.5)])
    torch.testing.assert_close(both.delta(), 0.8 * a.delta() - 0.5 * b.delta())
    assert both.rank == a.rank + b.rank


def test_a_layer_of_one_adapter_alone_keeps_its_factors() -> None:
    alone = side_by_side(KEY, [(linear(0), 0.5)])
    assert alone.alpha == 3.0
    assert torch.equal(alone.down, linear(0).down)


def test_truncation_is_the_best_of_its_rank_and_says_what_it_keeps() -> None:
    layer = linear(0, rank=6)
    dense = layer.delta().double()
    left, values, right = torch.linalg.svd(dense, full_matrices=False)
    cut = truncate(layer, rank=2)
    best = left[:, :2] @ values[:2].diag() @ right[:2]
    torch.testing.assert_close(cut.layer.delta().double(), best, rtol=1e-4, atol=1e-4)
    assert cut.kept == pytest.approx(float(values[:2].square().sum() / values.square().sum()))
    assert cut.layer.rank == 2


def test_energy_takes_as_few_directions_as_keep_the_share() -> None:
    layer = LoraLayer(down=torch.eye(4, 10), up=torch.diag(torch.tensor([4.0, 3, 2, 1])), alpha=4.0)
    assert [truncate(layer, energy=share).layer.rank for share in (0.5, 0.84, 0.9, 0.99, 1.0)] == [
        1,
        3,
        3,
        4,
        4,
    ]
    assert truncate(layer, energy=0.84).kept == pytest.approx(29 / 30)


def test_a_convolution_keeps_its_kernel() -> None:
    cut = truncate(conv(0), rank=2)
    assert cut.layer.kernel == (3, 3)
    torch.testing.assert_close(cut.layer.delta(), conv(0).delta())


def test_a_sum_that_is_truncated_at_its_full_rank_is_the_sum() -> None:
    a, b = linear(0), linear(1)
    cut = truncated_sum([(a, 0.8), (b, 0.3)], rank=6)
    torch.testing.assert_close(cut.layer.delta(), 0.8 * a.delta() + 0.3 * b.delta(), rtol=1e-4, atol=1e-4)
    assert cut.kept == pytest.approx(1.0)


def test_ties_trims_elects_and_takes_the_mean_of_those_that_agree() -> None:
    """By hand: 2×2 changes, of each the two largest weights are kept."""
    first = LoraLayer(down=torch.eye(2), up=torch.tensor([[4.0, 1.0], [-3.0, 0.5]]), alpha=2.0)
    second = LoraLayer(down=torch.eye(2), up=torch.tensor([[2.0, 0.1], [5.0, 0.2]]), alpha=2.0)
    merged = ties([(first, 1.0), (second, 1.0)], density=0.5, rank=2)
    torch.testing.assert_close(
        merged.layer.delta(), torch.tensor([[3.0, 0.0], [5.0, 0.0]]), atol=1e-6, rtol=0
    )
    half = ties([(first, 0.5), (second, 0.5)], density=0.5, rank=2)
    torch.testing.assert_close(half.layer.delta(), merged.layer.delta() / 2, atol=1e-6, rtol=0)


def test_ties_of_a_large_layer_keeps_nearly_what_can_be_kept_and_always_the_same() -> None:
    """Above a small size the leading directions are iterated for, not taken from a whole decomposition."""
    generator = torch.Generator().manual_seed(0)
    decay = torch.linspace(0, -3, 16).exp()
    pieces = [
        (LoraLayer(down=torch.randn(16, 300, generator=generator), up=up * decay, alpha=16.0), 1.0)
        for up in torch.randn(2, 260, 16, generator=generator)
    ]
    merged = ties(pieces, density=0.5, rank=8)
    whole = ties(pieces, density=0.5, rank=260).layer.delta().double()
    values = torch.linalg.svdvals(whole).square()
    best = float(values[:8].sum() / values.sum())
    assert 0.98 * best < merged.kept <= best + 1e-6
    lost = float((merged.layer.delta() - whole).square().sum() / whole.square().sum())
    assert merged.kept == pytest.approx(1 - lost, abs=1e-4)
    assert torch.equal(ties(pieces, density=0.5, rank=8).layer.up, merged.layer.up)


def test_a_change_of_nothing_can_be_truncated() -> None:
    zero = LoraLayer(down=torch.ones(2, 3), up=torch.zeros(4, 2), alpha=2.0)
    cut = truncate(zero, energy=0.9)
    assert cut.kept == 1.0
    assert not cut.layer.delta().any()


def test_what_cannot_be_composed_is_refused() -> None:
    with pytest.raises(ShapeMismatch, match="same base"):
        side_by_side(KEY, [(linear(0), 1.0), (linear(0, wide=11), 1.0)])
    for wrong in ({"rank": 0}, {"energy": 0.0}, {"energy": 1.5}):
        with pytest.raises(ConfigError):
            truncate(linear(0), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        ties([(linear(0), 1.0)], density=0.0, rank=1)


@pytest.mark.parametrize("shape", [(8, 10), (10, 8), (6, 4, 3, 3), (24, 1, 1, 1)])
@pytest.mark.parametrize("energy", [None, 0.7])
def test_a_dense_change_is_taken_apart_as_a_whole_decomposition_does(
    shape: tuple[int, ...], energy: float | None
) -> None:
    change = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    kernel = shape[2:]
    like = LoraLayer(
        down=torch.zeros(1, shape[1], *kernel), up=torch.zeros(shape[0], 1, *(1 for _ in kernel)), alpha=1.0
    )
    cut = truncate_matrix(change, like, rank=3, energy=energy)
    left, values, right = torch.linalg.svd(change.flatten(1), full_matrices=False)
    shares = values.square().cumsum(0) / values.square().sum()
    rank = min(3, len(values)) if energy is None else min(3, int((shares >= energy).int().argmax()) + 1)
    assert cut.layer.rank == rank
    assert cut.kept == pytest.approx(float(shares[rank - 1]), rel=1e-12)
    assert cut.energy == pytest.approx(float(values.square().sum()), rel=1e-12)
    best = (left[:, :rank] * values[:rank]) @ right[:rank]
    torch.testing.assert_close(cut.layer.delta().flatten(1), best.float(), rtol=0, atol=1e-5)


def test_nothing_is_taken_apart_to_nothing() -> None:
    cut = truncate_matrix(torch.zeros(8, 10), linear(0), rank=2, energy=0.9)
    assert cut.kept == 1.0
    assert not cut.layer.delta().any()
