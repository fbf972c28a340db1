"""LoHa and LoKr against LyCORIS's formulas, written out, and against PEFT's own modules."""

import pytest
import torch
from torch import Tensor, nn

from detour.adapters.lycoris_layers import LohaLayer, LokrLayer
from detour.errors import ShapeMismatch
from tests.adapters.kinds import (
    CONV,
    LINEAR,
    loha,
    loha_tucker,
    lokr,
    lokr_both,
    lokr_tucker,
    lokr_whole,
    numbers,
)


def test_loha_is_the_element_wise_product_of_two_low_rank_matrices() -> None:
    """lycoris/functional/loha.py: ``(w1d @ w1u) * (w2d @ w2u) * (alpha / rank)``."""
    layer = loha(LINEAR)
    for row in range(LINEAR[0]):
        for column in range(LINEAR[1]):
            first = sum(float(layer.w1_a[row, r] * layer.w1_b[r, column]) for r in range(2))
            second = sum(float(layer.w2_a[row, r] * layer.w2_b[r, column]) for r in range(2))
            assert float(layer.delta()[row, column]) == pytest.approx(first * second * 2.5, abs=1e-6)


def test_tucker_core_of_loha_joins_both_factors_at_each_place_of_the_kernel() -> None:
    """lycoris/functional/general.py, ``rebuild_tucker``: "i j ..., i p, j r -> p r ..."."""
    layer, place = loha_tucker(CONV), (0, 2)
    expected = torch.ones(CONV[:2])
    for core, a, b in ((layer.t1, layer.w1_a, layer.w1_b), (layer.t2, layer.w2_a, layer.w2_b)):
        assert core is not None
        expected = expected * (a.T @ core[:, :, place[0], place[1]] @ b)
    assert torch.allclose(layer.delta()[:, :, place[0], place[1]], 2.5 * expected, atol=1e-6)


@pytest.mark.parametrize("make", [lokr, lokr_both, lokr_whole])
def test_lokr_is_made_of_blocks_of_the_second_matrix_scaled_by_the_first(make) -> None:  # type: ignore[no-untyped-def]
    """lycoris/functional/lokr.py: ``torch.kron(w1, w2) * scale``; scale 1 where both are whole."""
    layer = make(LINEAR)
    first = layer.w1 if layer.w1 is not None else layer.w1_a @ layer.w1_b
    second = layer.w2 if layer.w2 is not None else layer.w2_a @ layer.w2_b
    scale = 1.0 if make is lokr_whole else 5.0 / 3.0
    rows = [torch.cat([first[i, j] * second for j in range(2)], dim=1) for i in range(2)]
    assert torch.allclose(layer.delta(), scale * torch.cat(rows), atol=1e-6)


@pytest.mark.parametrize("make", [lokr, lokr_both, lokr_whole, lokr_tucker])
def test_lokr_of_a_convolution_is_the_kronecker_product_at_each_place_of_the_kernel(make) -> None:  # type: ignore[no-untyped-def]
    layer = make(CONV)
    first = layer.w1 if layer.w1 is not None else layer.w1_a @ layer.w1_b
    if layer.w2 is not None:
        second = layer.w2
    elif layer.t2 is not None:
        second = torch.einsum("ijhw,ip,jr->prhw", layer.t2, layer.w2_a, layer.w2_b)
    else:
        second = (layer.w2_a @ layer.w2_b).reshape(CONV[0] // 2, CONV[1] // 2, 3, 3)
    scale = 1.0 if make is lokr_whole else 5.0 / 3.0
    delta = layer.delta().reshape(CONV)
    for place in ((0, 0), (1, 2)):
        expected = scale * torch.kron(first, second[:, :, place[0], place[1]].contiguous())
        assert torch.allclose(delta[:, :, place[0], place[1]], expected, atol=1e-6)


def in_peft(kind: str, settings: dict[str, object]):  # type: ignore[no-untyped-def]
    """PEFT's wrapper of a Linear or convolution with random factors, what it holds, and its ΔW."""
    from peft import LoHaConfig, LoKrConfig, get_peft_model

    shape = settings.pop("shape")
    module = nn.Linear(LINEAR[1], LINEAR[0]) if shape == LINEAR else nn.Conv2d(CONV[1], CONV[0], 3)
    config = {"loha": LoHaConfig, "lokr": LoKrConfig}[kind]
    model = get_peft_model(nn.ModuleDict({"x": module}), config(target_modules=["x"], **settings))
    wrapper = model.base_model.model["x"]
    prefix = "hada_" if kind == "loha" else "lokr_"
    factors: dict[str, Tensor] = {}
    for name in wrapper.adapter_layer_names:
        holder = getattr(wrapper, name)
        if "default" in holder:
            factors[name.removeprefix(prefix)] = holder["default"].data.copy_(
                numbers(*holder["default"].shape, seed=len(factors))
            )
    return factors, wrapper.get_delta_weight("default").detach()


@pytest.mark.parametrize(
    "settings",
    [
        {"shape": LINEAR, "r": 2, "alpha": 7},
        {"shape": CONV, "r": 2, "alpha": 7},
        {"shape": CONV, "r": 2, "alpha": 7, "use_effective_conv2d": True},
    ],
)
def test_loha_changes_the_weight_as_pefts_own_module_does(settings: dict[str, object]) -> None:
    factors, expected = in_peft("loha", dict(settings))
    layer = LohaLayer(alpha=7.0, **factors)
    assert ("t1" in factors) == bool(settings.get("use_effective_conv2d"))
    assert torch.allclose(layer.delta().reshape(expected.shape), expected, atol=1e-6)
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"shape": LINEAR, "r": 1, "alpha": 3}, {"w1", "w2_a", "w2_b"}),
        ({"shape": LINEAR, "r": 1, "alpha": 3, "decompose_both": True}, None),
        ({"shape": LINEAR, "r": 8, "alpha": 3}, {"w1", "w2"}),
        ({"shape": CONV, "r": 1, "alpha": 3}, {"w1", "w2_a", "w2_b"}),
        ({"shape": CONV, "r": 1, "alpha": 3, "use_effective_conv2d": True}, {"w1", "w2_a", "w2_b", "t2"}),
        ({"shape": CONV, "r": 8, "alpha": 3}, {"w1", "w2"}),
    ],
)
def test_lokr_changes_the_weight_as_pefts_own_module_does(
    settings: dict[str, object], names: set[str] | None
) -> None:
    factors, expected = in_peft("lokr", dict(settings))
    assert names is None or set(factors) == names
    layer = LokrLayer(alpha=3.0, **factors)
    if layer.is_whole:  # PEFT scales two whole matrices by alpha / r, with the rank of its config
        layer = LokrLayer(alpha=3.0 / 8 * layer.rank, **factors)
    assert torch.allclose(layer.delta().reshape(expected.shape), expected, atol=1e-6)
    assert expected.abs().max() > 0.01


@pytest.mark.parametrize(
    "change",
    [
        {"w1_a": torch.ones(8, 3)},
        {"w2_b": torch.ones(2, 5)},
        {"w2_a": torch.ones(7, 2)},
        {"t1": torch.ones(2, 2, 3, 3)},
        {"w1_b": torch.ones(2)},
        {
            "w1_a": torch.ones(8, 0),
            "w1_b": torch.ones(0, 6),
            "w2_a": torch.ones(8, 0),
            "w2_b": torch.ones(0, 6),
        },
    ],
)
def test_factors_that_make_no_loha_are_refused(change: dict[str, Tensor]) -> None:
    with pytest.raises(ShapeMismatch, match="do"):
        LohaLayer(**{"alpha": 1.0, **loha(LINEAR).tensors, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "factors",
    [
        {},
        {"w1": (2, 2)},
        {"w1": (2, 2), "w1_a": (2, 1), "w2": (2, 2)},
        {"w1": (2, 2), "w2": (2, 2), "t2": (1, 1, 3, 3)},
        {"w1": (2, 2, 1, 1), "w2": (2, 2)},
        {"w1": (2, 2), "w2": (4,)},
        {"w1": (2, 2), "w2_a": (4, 3), "w2_b": (2, 4)},
        {"w1": (2, 2), "w2_a": (3, 4), "w2_b": (3, 4), "t2": (2, 3, 3, 3)},
        {"w1": (0, 2), "w2": (2, 2)},
    ],
)
def test_factors_that_make_no_lokr_are_refused(factors: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ShapeMismatch, match="do not make one LoKr layer"):
        LokrLayer(alpha=1.0, **{name: torch.ones(shape) for name, shape in factors.items()})
