import pytest
import torch

from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.compose import concatenate, pieces_of, ties, truncate, truncated_sum
from detour.errors import AdapterError, ConfigError, ShapeMismatch

KEY, CONV = "unet.mid_block.a", "unet.conv_in"


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


def test_the_concatenation_is_the_weighted_sum_whatever_the_ranks_and_alphas() -> None:
    a = Adapter({KEY: linear(0), CONV: conv(1)})
    b = Adapter({KEY: linear(2, rank=2, alpha=16.0), CONV: conv(3)})
    both = concatenate([(a, 0.8), (b, -0.5)])
    for key in (KEY, CONV):
        expected = 0.8 * a.layers[key].delta() - 0.5 * b.layers[key].delta()
        torch.testing.assert_close(both.layers[key].delta(), expected)
    assert both.layers[KEY].rank == 5


def test_a_layer_of_one_adapter_alone_keeps_its_factors() -> None:
    a, b = Adapter({KEY: linear(0)}), Adapter({CONV: conv(1)})
    both = concatenate([(a, 0.5), (b, 0.0)])
    assert list(both.layers) == [KEY]
    assert both.layers[KEY].alpha == 3.0
    assert torch.equal(both.plain_layers()[KEY].down, linear(0).down)


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


def test_a_change_of_nothing_can_be_truncated() -> None:
    zero = LoraLayer(down=torch.ones(2, 3), up=torch.zeros(4, 2), alpha=2.0)
    cut = truncate(zero, energy=0.9)
    assert cut.kept == 1.0
    assert not cut.layer.delta().any()


def test_what_cannot_be_composed_is_refused() -> None:
    with pytest.raises(ShapeMismatch, match="same base"):
        concatenate([(Adapter({KEY: linear(0)}), 1.0), (Adapter({KEY: linear(0, wide=11)}), 1.0)])
    with pytest.raises(AdapterError, match="every weight is 0"):
        pieces_of([(Adapter({KEY: linear(0)}), 0.0)])
    for wrong in ({"rank": 0}, {"energy": 0.0}, {"energy": 1.5}):
        with pytest.raises(ConfigError):
            truncate(linear(0), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        ties([(linear(0), 1.0)], density=0.0, rank=1)
