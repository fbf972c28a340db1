import math
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.layers import DoraLayer
from detour.verbs.doctor.adapter_rules import (
    AdapterFacts,
    change_shares,
    examine_adapter,
    examine_size,
    gather_adapter_facts,
)

KEY = "unet.a"


def rules(**values: object) -> set[str]:
    facts = {"where": "x", "rank": 4, "used": 4, "last_over_first": 0.1, "shares": {"unet": 0.05}}
    return {finding.rule for finding in examine_adapter(AdapterFacts(**{**facts, **values}))}


@pytest.mark.parametrize(
    ("rule", "fires", "silent"),
    [
        ("adapter-of-another-family", {"misfit": "it is SDXL's."}, {}),
        ("adapter-not-finite", {"finite": False}, {}),
        ("adapter-changes-nothing", {"changes": False}, {}),
        ("change-large", {"shares": {"unet": 0.21}}, {"shares": {"unet": 0.19}}),
        ("change-large", {"shares": {"unet": 0.11}, "weight": -2}, {"shares": {"unet": 0.3}, "weight": 0.5}),
        ("change-large", {"shares": {"unet": 0.21}}, {"shares": {}}),
        ("change-too-large", {"shares": {"unet": 0.31}}, {"shares": {"unet": 0.29}}),
        ("change-too-large", {"shares": {"unet": 0.1, "text_encoder": 0.4}}, {"shares": {"unet": 0.1}}),
        ("rank-unused", {"rank": 64, "used": 16}, {"rank": 64, "used": 17}),
        ("rank-unused", {"rank": 16, "used": 2}, {"rank": 8, "used": 1}),
        ("rank-tight", {"last_over_first": 0.51}, {"last_over_first": 0.49}),
        ("rank-tight", {"last_over_first": 1.0}, {"last_over_first": 1.0, "rank": 1}),
    ],
)  # fmt: skip
def test_a_rule_fires_and_is_silent(rule: str, fires: dict[str, object], silent: dict[str, object]) -> None:
    assert rule in rules(**fires)
    assert rule not in rules(**silent)


def test_the_weight_that_is_advised_is_one_that_is_borne() -> None:
    [finding] = examine_size({"unet": 0.5}, weight=1.5, where="x")
    assert "weight of 0.4 or less" in finding.fix
    assert not list(examine_size({"unet": 0.5}, weight=0.4, where="x"))


@pytest.fixture
def models() -> Mapping[str, nn.Module]:
    torch.manual_seed(0)
    return {"unet": nn.ModuleDict({"a": nn.Linear(24, 32), "b": nn.Conv2d(8, 16, 3)})}


def lora(rank: int, out: int, *shape: int, alpha: float = 4.0) -> LoraLayer:
    up = torch.randn(out, rank, *(1 for _ in shape[1:]))
    return LoraLayer(down=torch.randn(rank, *shape), up=up, alpha=alpha)


def test_shares_are_those_of_the_dense_changes_over_all_weights(models: Mapping[str, nn.Module]) -> None:
    layers = {"unet.a": lora(4, 32, 24, alpha=6.0), "unet.b": lora(3, 16, 8, 3, 3)}
    weights = {key: models["unet"].get_submodule(key).weight.detach() for key in ("a", "b")}
    size = torch.cat([weight.flatten() for weight in weights.values()]).norm()
    both = torch.cat([layer.delta().flatten() for layer in layers.values()]).norm()
    found = change_shares(Adapter(layers, {}), models)
    assert found["unet"] == pytest.approx(float(both / size), rel=1e-5)
    one = change_shares(
        Adapter({"unet.b": layers["unet.b"]}, {}), models
    )  # "a" counts with its weights alone
    assert one["unet"] == pytest.approx(float(layers["unet.b"].delta().norm() / size), rel=1e-5)


def test_an_attached_adapter_does_not_count_as_the_base(models: Mapping[str, nn.Module]) -> None:
    from detour.adapters.attach import attach_adapter

    adapter = Adapter({"unet.a": lora(4, 32, 24)}, {})
    before = change_shares(adapter, models)
    attach_adapter(models, adapter, 1.0)
    assert change_shares(adapter, models) == before


def test_of_a_dora_the_change_of_direction_counts(models: Mapping[str, nn.Module]) -> None:
    change = lora(4, 32, 24)
    dora = DoraLayer(change=change, magnitude=torch.ones(32))
    assert change_shares(Adapter({KEY: dora}, {}), models) == change_shares(
        Adapter({KEY: change}, {}), models
    )


def test_facts_count_the_directions_in_use(models: Mapping[str, nn.Module]) -> None:
    one = torch.outer(torch.randn(16), torch.randn(24))
    flat = LoraLayer(down=one, up=torch.randn(32, 16), alpha=16.0)  # sixteen equal directions: rank one
    facts = gather_adapter_facts(Adapter({KEY: flat}, {}), where="x", models=models)
    assert (facts.rank, facts.used) == (16, 1)
    assert facts.last_over_first < 1e-6
    assert facts.shares.keys() == {"unet"}
    found = {finding.rule for finding in examine_adapter(facts)}
    assert "rank-unused" in found


def test_facts_tell_what_changes_nothing_and_what_is_not_finite() -> None:
    still = LoraLayer(down=torch.randn(4, 24), up=torch.zeros(32, 4), alpha=4.0)
    broken = LoraLayer(down=torch.full((4, 24), math.nan), up=torch.zeros(32, 4), alpha=4.0)
    of = {
        name: gather_adapter_facts(Adapter({KEY: layer}, {}), where="x")
        for name, layer in {"still": still, "broken": broken}.items()
    }
    assert (of["still"].changes, of["still"].finite) == (False, True)
    assert (of["broken"].changes, of["broken"].finite) == (True, False)
    dora = DoraLayer(change=broken, magnitude=torch.ones(32))
    assert not gather_adapter_facts(Adapter({KEY: dora}, {}), where="x").finite
