import pytest
import torch

from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.analysis import (
    relative_difference,
    relative_differences,
    singular_values,
    spectrum,
    thin_svd,
)
from detour.adapters.delta import lora_delta
from detour.errors import ShapeMismatch


def linear(seed: int, *, rank: int = 4, alpha: float = 6.0, wide: int = 20, tall: int = 12) -> LoraLayer:
    generator = torch.Generator().manual_seed(seed)
    return LoraLayer(
        down=torch.randn(rank, wide, generator=generator),
        up=torch.randn(tall, rank, generator=generator),
        alpha=alpha,
    )


def conv(seed: int, *, rank: int = 3) -> LoraLayer:
    generator = torch.Generator().manual_seed(seed)
    return LoraLayer(
        down=torch.randn(rank, 5, 3, 3, generator=generator),
        up=torch.randn(7, rank, 1, 1, generator=generator),
        alpha=1.5,
    )


def dense(layer: LoraLayer) -> torch.Tensor:
    return lora_delta(layer.down, layer.up, alpha=layer.alpha).flatten(1).double()


@pytest.mark.parametrize(
    "layer", [linear(0), conv(1), linear(2, rank=30)], ids=["linear", "conv", "over-full"]
)
def test_singular_values_are_those_of_the_dense_change(layer: LoraLayer) -> None:
    expected = torch.linalg.svdvals(dense(layer))
    found = singular_values(layer)
    torch.testing.assert_close(found, expected[: len(found)], rtol=1e-5, atol=1e-5)
    assert expected[len(found) :].sum() < 1e-4


@pytest.mark.parametrize("layer", [linear(0), conv(1)], ids=["linear", "conv"])
def test_thin_svd_multiplies_back_to_the_change(layer: LoraLayer) -> None:
    svd = thin_svd(layer)
    torch.testing.assert_close(svd.left @ svd.values.diag() @ svd.right, dense(layer), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(svd.left.T @ svd.left, torch.eye(layer.rank).double())
    torch.testing.assert_close(svd.right @ svd.right.T, torch.eye(layer.rank).double())


def test_figures_of_equal_directions_count_them() -> None:
    """Four orthonormal directions of one strength: stable rank 4, a quarter of the energy in each."""
    layer = LoraLayer(down=torch.eye(4, 9), up=3 * torch.eye(8, 4), alpha=4.0)
    figures = spectrum([layer])
    assert figures.norm == pytest.approx(6.0)
    assert figures.stable_rank == pytest.approx(4.0)
    assert figures.first_share == pytest.approx(0.25)
    assert figures.first_four_share == pytest.approx(1.0)


def test_norms_of_several_layers_add_up_by_energy() -> None:
    layers = [linear(0), conv(1)]
    assert spectrum(layers).norm == pytest.approx(sum(dense(one).square().sum() for one in layers) ** 0.5)


def test_a_change_of_nothing_has_no_figures() -> None:
    layer = LoraLayer(down=torch.ones(2, 3), up=torch.zeros(4, 2), alpha=1.0)
    assert (spectrum([layer]).norm, spectrum([layer]).stable_rank) == (0.0, 0.0)


def test_relative_difference_is_that_of_the_dense_changes() -> None:
    a, b = linear(0), linear(3, rank=2)
    expected = float((dense(a) - dense(b)).norm() / dense(a).norm())
    assert relative_difference(a, b) == pytest.approx(expected, rel=1e-5)


def test_other_factors_of_the_same_change_differ_by_rounding_alone() -> None:
    a = linear(0)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))[0]
    b = LoraLayer(down=turn @ a.down, up=a.up @ turn.T, alpha=a.alpha)
    assert 0 < relative_difference(a, b) < 1e-6


def test_an_alpha_that_was_lost_is_seen() -> None:
    a = linear(0, alpha=16.0)
    b = LoraLayer(down=a.down, up=a.up, alpha=4.0)
    assert relative_difference(a, b) == pytest.approx(0.75)


def test_a_missing_layer_is_a_whole_difference_unless_it_changes_nothing() -> None:
    zero = LoraLayer(down=torch.ones(1, 2), up=torch.zeros(2, 1), alpha=1.0)
    a = Adapter({"unet.x": linear(0), "unet.zero": zero})
    b = Adapter({"unet.y": linear(1)})
    assert relative_differences(a, b) == {"unet.x": 1.0, "unet.y": float("inf"), "unet.zero": 0.0}


def test_changes_of_other_shapes_are_refused_by_name() -> None:
    with pytest.raises(ShapeMismatch, match=r"'unet\.x': a change of 12×20 against one of 12×21"):
        relative_differences(Adapter({"unet.x": linear(0)}), Adapter({"unet.x": linear(0, wide=21)}))
