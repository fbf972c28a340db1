import pytest
import torch

from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.blocks import block_of
from detour.adapters.overlap import (
    RELATED,
    SHARED_MOST,
    LayerOverlap,
    OverlapSum,
    interference_of,
    over_chance_by,
    verdict_of,
)

KEY, OTHER = "unet.mid_block.a", "unet.up_blocks.1.b"


def unit(row: int, column: int, size: float = 1.0) -> LoraLayer:
    """One direction: reads input ``column``, writes output ``row``."""
    down, up = torch.zeros(1, 6), torch.zeros(6, 1)
    down[0, column], up[row, 0] = 1.0, size
    return LoraLayer(down=down, up=up, alpha=1.0)


def random_layer(seed: int, rank: int = 3) -> LoraLayer:
    generator = torch.Generator().manual_seed(seed)
    return LoraLayer(
        down=torch.randn(rank, 12, generator=generator),
        up=torch.randn(9, rank, generator=generator),
        alpha=5.0,
    )


def overlap_of(a: LoraLayer, b: LoraLayer, weight_a: float = 1.0, weight_b: float = 1.0) -> LayerOverlap:
    """What is found of one layer, by what the commands call."""
    found = OverlapSum(weight_a, weight_b)
    found.add(KEY, a, b)
    return found.interference().layers[KEY]


def test_an_adapter_and_itself_share_all_and_amplify() -> None:
    one = overlap_of(random_layer(0), random_layer(0))
    assert (one.outputs, one.inputs, one.cosine, one.shared) == pytest.approx((1, 1, 1, 1), abs=1e-5)
    assert one.cancelled == pytest.approx(-1.0, abs=1e-5)


def test_an_adapter_and_its_opposite_cancel() -> None:
    one = overlap_of(random_layer(0), random_layer(0), 1.0, -1.0)
    assert one.cosine == pytest.approx(-1.0, abs=1e-5)
    assert one.cancelled == pytest.approx(1.0, abs=1e-5)


def test_the_same_outputs_from_other_inputs_are_not_shared() -> None:
    one = overlap_of(unit(0, 0), unit(0, 1))
    assert (one.outputs, one.inputs, one.cosine, one.shared) == pytest.approx((1, 0, 0, 0), abs=1e-5)


def test_figures_are_those_of_the_dense_changes() -> None:
    a, b = random_layer(0), random_layer(1, rank=2)
    one = overlap_of(a, b, 0.8, 0.3)
    first, second = 0.8 * a.delta().double(), 0.3 * b.delta().double()
    before = first.square().sum() + second.square().sum()
    assert one.cosine == pytest.approx(
        float((first * second).sum() / (first.norm() * second.norm())), rel=1e-4
    )
    assert one.cancelled == pytest.approx(float(1 - (first + second).square().sum() / before), rel=1e-4)

    def into(inner: torch.Tensor, outer: torch.Tensor) -> torch.Tensor:
        rows = torch.linalg.pinv(outer) @ outer
        columns = outer @ torch.linalg.pinv(outer)
        return (columns @ inner @ rows).square().sum()

    rank_limited = [torch.linalg.svd(x, full_matrices=False) for x in (first, second)]
    first, second = (
        u[:, :k] @ s[:k].diag() @ v[:k] for (u, s, v), k in zip(rank_limited, (3, 2), strict=True)
    )
    expected = float((into(first, second) + into(second, first)) / before)
    assert one.shared == pytest.approx(expected, rel=1e-3)


def test_random_directions_share_what_chance_says() -> None:
    """The unit of the summary: over many pairs of random changes it is one."""
    pairs = [overlap_of(random_layer(seed), random_layer(seed + 1, rank=2)) for seed in range(0, 400, 2)]
    shared = sum(one.shared * one.energy for one in pairs)
    chance = sum(one.chance * one.energy for one in pairs)
    assert shared / chance == pytest.approx(1.0, abs=0.1)


def test_an_adapter_goes_together_with_itself_against_its_opposite_and_apart_from_other_layers() -> None:
    a = Adapter({KEY: random_layer(0, rank=1)})
    same = interference_of(a, a, 1.0, 1.0)
    assert (same.verdict, same.shared) == ("together", pytest.approx(1.0))
    assert same.interference == pytest.approx(9 * 12)
    assert "add up" in same.suggestion
    undone = interference_of(a, a, 1.0, -1.0)
    assert (undone.verdict, undone.cancelled) == ("against", pytest.approx(1.0))
    apart = interference_of(a, Adapter({OTHER: random_layer(0)}), 1.0, 1.0)
    assert (apart.verdict, apart.interference, apart.layers) == ("apart", 0.0, {})
    assert "as they are" in apart.suggestion


def test_layers_of_one_adapter_alone_dilute_the_summary() -> None:
    a = Adapter({KEY: unit(0, 0)})
    b = Adapter({KEY: unit(0, 0), OTHER: unit(1, 1)})
    assert interference_of(a, b, 1.0, 1.0).shared == pytest.approx(2 / 3)


def test_the_suggestion_names_the_block_or_the_weight() -> None:
    a = Adapter({KEY: unit(0, 0), OTHER: unit(0, 0)})
    b = Adapter({KEY: unit(0, 0, 2.0), OTHER: unit(1, 1)})
    found = interference_of(a, b, 1.0, 1.0, names=("neon", "cat"))
    assert "block mid: switch that off in neon" in found.suggestion
    strong = Adapter({KEY: unit(0, 0, 10.0)})
    loud = interference_of(Adapter({KEY: unit(0, 0)}), strong, 1.0, 1.0, names=("neon", "cat"))
    assert "cat is 10.0 times as strong" in loud.suggestion
    assert "at weight 0.1 they are even" in loud.suggestion
    assert loud.imbalance == pytest.approx(100.0)


def test_verdicts_follow_the_stated_thresholds() -> None:
    assert verdict_of(RELATED - 0.1, 0.1, -0.1) == "apart"
    assert verdict_of(RELATED, 0.1, -0.1) == "together"
    assert verdict_of(RELATED, 0.1, 0.1) == "against"
    assert verdict_of(2.0, SHARED_MOST, -0.1) == "together"


def test_groups_of_layers_are_counted_by_energy() -> None:
    a = Adapter({KEY: unit(0, 0), OTHER: unit(0, 0)})
    b = Adapter({KEY: unit(0, 0), OTHER: unit(1, 1)})
    found = interference_of(a, b, 1.0, 1.0).layers
    assert over_chance_by(found, block_of) == {"mid": pytest.approx(36.0), "up.1": 0.0}
    assert over_chance_by(found, lambda _: "all") == {"all": pytest.approx(18.0)}
