"""Each row of a batch with adapters of its own answers as if they were attached, whatever stands beside it."""

import itertools
import random

import pytest
import torch
from torch import Tensor, nn

from detour.adapters.adapter import Adapter
from detour.adapters.attach import attach_adapter
from detour.adapters.layers import DoraLayer, Layer
from detour.adapters.mixed import RowGroup, RowPlan, plan_rows
from detour.adapters.prepared import RANK_CLASSES, LowRank, prepare, rank_class
from detour.errors import AdapterError, ShapeMismatch
from tests.adapters.kinds import CONV_KINDS, LINEAR_KINDS, dora_loha, numbers

MODELS = ("unet",)
CONV, POINT, LINEAR = (32, 16, 3, 3), (32, 32, 1, 1), (64, 32)
"""Sizes that vector units divide, as those of any real network."""


class Network(nn.Module):
    """Convolutions of both sizes and Linear layers, one of which sees (N, features) alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CONV[1], CONV[0], 3, stride=2, padding=1)
        self.point = nn.Conv2d(POINT[1], POINT[0], 1)
        self.linear = nn.Linear(LINEAR[1], LINEAR[0])
        self.flat = nn.Linear(LINEAR[1], LINEAR[0], bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.point(torch.tanh(self.conv(x)))
        return self.linear(x.flatten(2).transpose(1, 2)) + self.flat(x.mean(dim=(2, 3)))[:, None]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network().eval().requires_grad_(False)


def adapters() -> dict[str, Adapter]:
    """One of each algorithm on every layer, and ranks from 1 to 40 of plain LoRA."""
    makes = {**CONV_KINDS, "dora_loha": dora_loha}
    found = {}
    for name, make in makes.items():
        layers: dict[str, Layer] = {"unet.conv": make(CONV)}
        if name in LINEAR_KINDS or name == "dora_loha":
            layers |= {"unet.linear": make(LINEAR), "unet.flat": make(LINEAR), "unet.point": make(POINT)}
        found[name] = Adapter(layers)
    for rank in (1, 4, 7, 16, 40):
        found[f"rank{rank}"] = Adapter(
            {key: plain(rank, found["lora"].layers[key], key) for key in found["lora"].layers}
        )
    return found


def plain(rank: int, like: Layer, key: str) -> Layer:
    down, up = like.tensors["down"], like.tensors["up"]
    seed = rank + len(key)
    return type(like)(
        down=numbers(rank, *down.shape[1:], seed=seed),
        up=numbers(up.shape[0], rank, *up.shape[2:], seed=seed),
        alpha=3.0,
    )  # type: ignore[call-arg]


ADAPTERS = adapters()
NAMES = sorted(ADAPTERS)


def picture(seed: int, rows: int) -> Tensor:
    return numbers(rows, CONV[1], 8, 8, seed=seed)


def attached(model: nn.Module, chosen: tuple[tuple[str, float], ...], x: Tensor) -> Tensor:
    """What the existing way makes of it: PEFT and hooks on the model."""
    on = [
        attach_adapter({"unet": model}, ADAPTERS[name], strength, name=f"a{index}")
        for index, (name, strength) in enumerate(chosen)
    ]
    try:
        return model(x)
    finally:
        for one in on:
            one.detach()


def mixed(model: nn.Module, batch, width: int) -> list[Tensor]:  # type: ignore[no-untyped-def]
    """(adapters with strengths, rows) of each picture, padded to ``width`` rows."""
    ready = {name: prepare({"unet": model}, ADAPTERS[name]) for chosen, _ in batch for name, _ in chosen}
    groups = [RowGroup(len(x), tuple((ready[name], s) for name, s in chosen)) for chosen, x in batch]
    rows = torch.cat([x for _, x in batch])
    rows = torch.cat([rows, rows[:1].expand(width - len(rows), -1, -1, -1)])
    with torch.no_grad(), plan_rows(groups, MODELS).active():
        answers = model(rows)
    return list(answers[: sum(len(x) for _, x in batch)].split([len(x) for _, x in batch]))


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strength", [1.0, 0.4, -0.7])
def test_a_row_is_drawn_as_if_its_adapter_were_attached(model: nn.Module, name: str, strength: float) -> None:
    others = [name for name in NAMES if name.startswith(("lora", "dora", "loha"))]
    batch = [(((name, strength),), picture(1, 2)), ((), picture(2, 1)), (((others[0], 1.0),), picture(3, 3))]
    mine, none, other = mixed(model, batch, 8)
    assert relative(mine, attached(model, ((name, strength),), picture(1, 2))) < 1e-5
    assert relative(none, model(picture(2, 1))) < 1e-5
    assert relative(other, attached(model, ((others[0], 1.0),), picture(3, 3))) < 1e-5
    assert relative(mine, model(picture(1, 2))) > 1e-2


@pytest.mark.parametrize(
    "pair", list(itertools.combinations(["lora", "dora", "loha", "lokr_both", "rank40"], 2))
)
def test_several_adapters_on_one_row_add_up_as_attached(model: nn.Module, pair: tuple[str, str]) -> None:
    chosen = ((pair[0], 0.8), (pair[1], 0.5))
    batch = [(chosen, picture(4, 2)), (((pair[1], 1.0),), picture(5, 2))]
    mine, _ = mixed(model, batch, 4)
    assert relative(mine, attached(model, chosen, picture(4, 2))) < 1e-5


def merged(model: nn.Module, chosen, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """What the model makes of rows that fill a pass, with the changes in copies of its weights."""
    ready = tuple((prepare({"unet": model}, ADAPTERS[name]), strength) for name, strength in chosen)
    plan = plan_rows([RowGroup(len(x), ready)], MODELS, merge=True)
    assert plan.weights
    assert not plan.hooks
    with torch.no_grad(), plan.active():
        return model(x)


@pytest.mark.parametrize("chosen", [*[((name, 0.7),) for name in NAMES], (("dora", 0.8), ("loha", 0.5))])
def test_a_merged_plan_adds_what_hooks_add(model: nn.Module, chosen: tuple[tuple[str, float], ...]) -> None:
    x = picture(4, 2)
    assert relative(merged(model, chosen, x), attached(model, chosen, x)) < 1e-5
    assert relative(merged(model, chosen, x), model(x)) > 1e-2


def test_a_merged_plan_leaves_the_weights_as_they_were(model: nn.Module) -> None:
    before = {name: (one, one.clone()) for name, one in model.named_parameters()}
    merged(model, (("lora", 1.0),), picture(4, 2))
    plan = plan_rows([RowGroup(2, ((prepare({"unet": model}, ADAPTERS["lora"]), 1.0),))], MODELS, merge=True)
    with pytest.raises(RuntimeError), plan.active():
        model(torch.zeros(2, 99, 8, 8))
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is one and torch.equal(one, value) for name, (one, value) in before.items())


def test_weights_are_copied_in_fp32_alone_and_for_one_group_within_the_memory(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(one: nn.Module, num: int = 1) -> RowPlan:
        ready = prepare({"unet": one}, ADAPTERS["lora"])
        return plan_rows([RowGroup(2, ((ready, 1.0),))] * num, MODELS, merge=True)

    with torch.random.fork_rng():
        half = Network().eval().to(torch.bfloat16)
    assert plan(model).weights
    for hooked in (plan(half), plan(model, 2)):
        assert hooked.hooks
        assert not hooked.weights
    monkeypatch.setattr("detour.adapters.mixed.MERGED_BYTES", 100)
    assert not plan(model).weights


def test_two_doras_on_one_row_add_up_as_attached(model: nn.Module) -> None:
    chosen = (("dora", 0.8), ("dora", 0.5))
    (mine,) = mixed(model, [(chosen, picture(4, 2))], 4)
    assert relative(mine, attached(model, chosen, picture(4, 2))) < 1e-5


def test_a_row_has_the_same_bits_whatever_its_neighbours_and_its_slot(model: nn.Module) -> None:
    draw = random.Random(3)
    pool = [
        (
            tuple(
                (name, draw.choice([1.0, 0.6])) for name in draw.sample(NAMES, draw.choice([0, 1, 1, 1, 2]))
            ),
            rows,
        )
        for rows in (1, 2, 2, 2, 3) * 6
    ]
    pictures = [picture(100 + index, rows) for index, (_, rows) in enumerate(pool)]
    alone = [mixed(model, [(chosen, x)], 8)[0] for (chosen, _), x in zip(pool, pictures, strict=True)]
    for _ in range(60):
        batch: list[int] = []
        for index in draw.sample(range(len(pool)), len(pool)):
            if sum(pool[i][1] for i in [*batch, index]) <= 8:
                batch.append(index)
        for index, answer in zip(
            batch, mixed(model, [(pool[i][0], pictures[i]) for i in batch], 8), strict=True
        ):
            assert torch.equal(answer, alone[index]), pool[index]


def test_nothing_is_left_on_the_model_and_strength_zero_is_the_base(model: nn.Module) -> None:
    x = picture(6, 2)
    before = model(x)
    (answer,) = mixed(model, [((("lora", 0.0), ("dora", 0.0)), x)], 2)
    assert torch.equal(answer, before)
    mixed(model, [((("lora", 1.0),), x)], 2)
    assert torch.equal(model(x), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_failing_pass_leaves_nothing_on_the_model(model: nn.Module) -> None:
    plan = plan_rows([RowGroup(2, ((prepare({"unet": model}, ADAPTERS["lora"]), 1.0),))], MODELS)
    with pytest.raises(RuntimeError), plan.active():
        model(torch.zeros(2, 99, 8, 8))
    assert not any(module._forward_hooks for module in model.modules())


def test_ranks_are_padded_by_the_adapter_alone() -> None:
    assert [rank_class(rank) for rank in (1, 4, 5, 16, 17, 128, 129, 300)] == [4, 4, 8, 16, 32, 128, 256, 384]
    assert all(rank_class(rank) == rank for rank in RANK_CLASSES)


def test_the_bases_dtype_is_kept(model: nn.Module) -> None:
    with torch.random.fork_rng():
        half = Network().eval().to(torch.bfloat16)
    groups = [
        RowGroup(1, ((prepare({"unet": half}, ADAPTERS[name]), 1.0),)) for name in ("lora", "dora", "lokr")
    ]
    with torch.no_grad(), plan_rows(groups, MODELS).active():
        assert half(picture(1, 4).to(torch.bfloat16)).dtype == torch.bfloat16


def test_a_layer_that_sees_fewer_rows_than_the_batch_is_named(model: nn.Module) -> None:
    plan = plan_rows([RowGroup(4, ((prepare({"unet": model}, ADAPTERS["lora"]), 1.0),))], MODELS)
    with torch.no_grad(), plan.active(), pytest.raises(AdapterError, match="2 rows where the batch has 4"):
        model(picture(1, 2))


def test_what_does_not_fit_is_refused_when_it_is_prepared(model: nn.Module) -> None:
    with pytest.raises(ShapeMismatch, match=r"'unet.linear' maps"):
        prepare({"unet": model}, Adapter({"unet.linear": ADAPTERS["lora"].layers["unet.point"]}))
    with pytest.raises(AdapterError, match="no layer 'gone'"):
        prepare({"unet": model}, Adapter({"unet.gone": ADAPTERS["lora"].layers["unet.linear"]}))
    with pytest.raises(AdapterError, match="no layers"):
        prepare({"unet": model}, Adapter({}))


def test_plain_lora_and_dora_are_stacked_and_the_rest_is_not(model: nn.Module) -> None:
    stacked = {
        name: all(
            isinstance(one, LowRank) for one in prepare({"unet": model}, adapter).changes["unet"].values()
        )
        for name, adapter in ADAPTERS.items()
    }
    assert {name for name, is_low in stacked.items() if is_low} == {"lora", "dora"} | {
        n for n in NAMES if "rank" in n
    }
    assert isinstance(ADAPTERS["dora"].layers["unet.linear"], DoraLayer)
