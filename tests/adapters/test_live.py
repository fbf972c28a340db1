"""Methods in training: each starts as no change, adds what its file says, and has PEFT's gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detour.adapters.arithmetic import count
from detour.adapters.attach import Attached, attach_new
from detour.adapters.delta import merge_into
from detour.adapters.gradient_proof import hash_base, prove_gradients
from detour.adapters.layers import LoraLayer
from detour.adapters.start import base_factors, split_size
from detour.adapters.targets import adaptable_layers
from detour.errors import AdapterError
from tests.adapters.small_model import At

PATHS = ("conv", "point", "first", "second")
LINEAR = ("first", "second")


class Net(nn.Module):
    """A strided 3×3 convolution, a 1×1 one, and two Linear layers, one without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 12, 3, stride=2, padding=1)
        self.point = nn.Conv2d(12, 16, 1)
        self.first = nn.Linear(16, 20, bias=False)
        self.second = nn.Linear(20, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.point(torch.tanh(self.conv(x))).flatten(2).transpose(1, 2)
        return self.second(torch.tanh(self.first(x)))


def net(seed: int = 0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net().eval().requires_grad_(False)


X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
METHODS: dict[str, dict[str, Any]] = {
    "dora": {"method": "dora"},
    "loha": {"method": "loha"},
    "loha-dense": {"method": "loha", "rank": 12},
    "lokr": {"method": "lokr", "rank": 1},
    "lokr-factor": {"method": "lokr", "lokr_factor": 2},
    "lokr-whole": {"method": "lokr", "rank": 12},
    "pissa": {"init": "pissa", "paths": LINEAR},
    "olora": {"init": "olora", "paths": LINEAR},
}
every = pytest.mark.parametrize("name", METHODS)


def attach(model: nn.Module, which: str, **settings: Any) -> Attached:
    chosen = {"rank": 2, "alpha": 5.0, **METHODS[which], **settings}
    paths = chosen.pop("paths", PATHS)
    return attach_new(model, "unet", [At(path) for path in paths], **chosen)


def shake(attached: Attached, size: float = 0.2) -> None:
    """Move every factor, as training would."""
    for index, factor in enumerate(attached.parameters()):
        factor.data += size * torch.randn(factor.shape, generator=torch.Generator().manual_seed(index))


@every
def test_a_fresh_adapter_changes_nothing(name: str) -> None:
    """Bit for bit, but for PiSSA and OLoRA, whose two equal terms are computed one by one."""
    model = net()
    before, digest = model(X), hash_base(model)
    attach(model, name)
    if name in ("pissa", "olora"):
        torch.testing.assert_close(model(X), before, rtol=0.0, atol=1e-6)
    else:
        assert torch.equal(model(X), before)
    assert hash_base(model) == digest


@every
def test_what_is_exported_merges_to_the_same_function(name: str) -> None:
    model, merged = net(), net()
    plain = model(X)
    attached = attach(model, name)
    shake(attached)
    merge_into({"unet": merged}, attached.to_adapter())
    torch.testing.assert_close(model(X), merged(X), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(X), plain, atol=1e-2)


@every
def test_every_factor_gets_a_gradient_and_the_base_none(name: str) -> None:
    model = net()
    attached = attach(model, name)
    before = [factor.detach().clone() for factor in attached.parameters()]
    report = prove_gradients(model, attached, lambda: model(X).square().mean())
    assert report.adapter_tensors_with_gradient == len(attached.parameters()) >= 4
    assert all(torch.equal(a, b) for a, b in zip(attached.parameters(), before, strict=True))


@every
def test_switched_off_and_detached_it_is_the_base_and_weights_scale_the_change(name: str) -> None:
    model = net()
    plain, trainable = model(X), [p.requires_grad for p in model.parameters()]
    attached = attach(model, name)
    shake(attached)
    with attached.disabled():
        assert torch.equal(model(X), plain)
    attached.set_weight(0.0)
    assert torch.equal(model(X), plain)
    attached.set_weight(0.5)
    merged = net()
    merge_into({"unet": merged}, attached.to_adapter(), 0.5)
    torch.testing.assert_close(model(X), merged(X), rtol=1e-4, atol=1e-5)
    attached.detach()
    assert torch.equal(model(X), plain)
    assert [p.requires_grad for p in model.parameters()] == trainable
    assert not any(module._forward_hooks for module in model.modules())


@every
def test_a_copy_loads_into_a_fresh_one_and_starts_are_a_function_of_the_seed(name: str) -> None:
    first, second = attach(net(), name), attach(net(), name)
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    shake(first)
    second.load(first.to_adapter())
    assert all(torch.equal(a, b) for a, b in pairs)
    if name not in ("pissa", "olora"):
        other = attach(net(), name, seed=7)
        assert not all(
            torch.equal(a, b) for a, b in zip(second.parameters(), other.parameters(), strict=True)
        )


@every
def test_it_learns_another_models_answers(name: str) -> None:
    model = net()
    attached = attach(model, name)
    shake(attached)
    wanted = model(X).detach()
    attached.detach()
    attached = attach(model, name)
    optimizer = torch.optim.Adam(attached.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = (model(X) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def peft_model(config: Any) -> Any:
    from peft import inject_adapter_in_model

    return inject_adapter_in_model(config, net())


def peft_config(name: str, paths: tuple[str, ...]) -> Any:
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    rank = METHODS[name].get("rank", 2)
    kind: Any = {"loha": LoHaConfig, "lokr": LoKrConfig}.get(name.partition("-")[0], LoraConfig)
    settings: dict[str, Any] = {"alpha": 5.0}
    if name == "lokr-whole":
        settings = {"alpha": float(rank)}  # PEFT scales two whole matrices by alpha / r, LyCORIS by 1
    if kind is LoraConfig:
        settings = {"lora_alpha": 5.0, "use_dora": name == "dora"}
        settings |= {"init_lora_weights": name} if name in ("pissa", "olora") else {}
    if name.startswith("lokr"):
        settings["decompose_factor"] = METHODS[name].get("lokr_factor", -1)
    return kind(r=rank, target_modules=list(paths), **settings)


PEFT_NAMES = {"down": "lora_A.default.weight", "up": "lora_B.default.weight"}
PEFT_NAMES |= {"magnitude": "lora_magnitude_vector.default.weight"}
PEFT_NAMES |= {name: f"hada_{name}.default" for name in ("w1_a", "w1_b", "w2_a", "w2_b")}


@every
def test_answers_and_gradients_are_those_of_pefts_own_module(name: str) -> None:
    paths = METHODS[name].get("paths", PATHS)
    ours, theirs = net(), peft_model(peft_config(name, paths))
    attached = attach(ours, name)
    tensors = dict(theirs.named_parameters())
    names = (
        PEFT_NAMES
        if not name.startswith("lokr")
        else {n: f"lokr_{n}.default" for n in ("w1", "w2", "w2_a", "w2_b")}
    )
    pairs = [
        (factor, tensors[f"{key.removeprefix('unet.')}.{names[part]}"])
        for (key, part), factor in attached.named_factors.items()
    ]
    if name in (
        "pissa",
        "olora",
    ):  # singular vectors are unique but for their sign, which both take from LAPACK
        for factor, other in pairs:
            torch.testing.assert_close(other.data, factor.data, rtol=1e-4, atol=1e-5)
    shake(attached)
    for factor, other in pairs:
        other.data.copy_(factor.detach().reshape(other.shape))
    y_ours, y_theirs = ours(X), theirs(X)
    torch.testing.assert_close(y_ours, y_theirs, rtol=1e-4, atol=1e-5)
    y_ours.square().sum().backward()
    y_theirs.square().sum().backward()
    for factor, other in pairs:
        assert factor.grad is not None
        difference = (factor.grad - other.grad.reshape(factor.shape)).norm() / factor.grad.norm()
        assert difference < 1e-5


@pytest.mark.parametrize("name", ["dora", "loha", "lokr", "pissa"])
def test_under_autocast_masters_stay_fp32_and_answers_stay_near(name: str) -> None:
    model, half = net(), net().to(torch.bfloat16)
    for one in (model, half):
        shake(attach(one, name), 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        answer = half(X.bfloat16())
        answer.float().square().mean().backward()
    assert answer.dtype == torch.bfloat16
    torch.testing.assert_close(answer.float(), model(X), rtol=0.1, atol=0.1)
    drawn = half(X.bfloat16())  # as a picture is drawn: no autocast
    assert drawn.dtype == torch.bfloat16
    torch.testing.assert_close(drawn.float(), model(X), rtol=0.1, atol=0.1)


def test_magnitudes_start_at_the_norm_of_each_outputs_weights() -> None:
    model = net()
    magnitude = attach(model, "dora").named_factors[("unet.conv", "magnitude")]
    assert torch.allclose(magnitude, model.conv.weight.flatten(1).norm(dim=1))
    assert magnitude.dtype == torch.float32


def test_pissa_leaves_as_plain_lora_of_twice_the_rank_and_begins_at_the_largest_directions() -> None:
    model = net()
    attached = attach(model, "pissa")
    layer = attached.to_adapter().layers["unet.first"]
    assert isinstance(layer, LoraLayer)
    assert (layer.rank, layer.alpha) == (4, 10.0)
    assert layer.delta().abs().max() < 1e-7
    down, up = base_factors(model.first.weight, rank=2, init="pissa", scale=2.5, key="")
    left = torch.linalg.svdvals(model.first.weight - 2.5 * up @ down)
    torch.testing.assert_close(left[:3], torch.linalg.svdvals(model.first.weight)[2:5], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(up.T @ up, torch.diag((up * up).sum(0)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 7, 12, 20, 36, 64, 127, 160, 224, 320, 640, 768, 1280])
@pytest.mark.parametrize("factor", [None, 1, 2, 3, 4, 8, 16, 1000])
def test_sizes_split_as_peft_splits_them(size: int, factor: int | None) -> None:
    from peft.tuners.lokr.layer import factorization

    assert split_size(size, factor) == tuple(factorization(size, factor or -1))


def test_a_live_layer_stands_beside_others_and_a_taken_name_is_refused() -> None:
    model = net()
    lora = attach_new(model, "unet", [At("first")], rank=2, alpha=2.0, name="lora")
    plain = model(X)
    dora = attach(model, "dora", name="dora")
    assert torch.equal(model(X), plain)
    shake(dora)
    with dora.disabled():
        assert torch.equal(model(X), plain)
    with pytest.raises(AdapterError, match="'dora' is attached already"):
        attach(model, "loha", name="dora")
    dora.detach()
    lora.detach()
    assert torch.equal(model(X), net()(X))


def test_what_a_method_cannot_do_is_refused_and_leaves_the_model_as_it_was() -> None:
    model = net()
    for words, name, settings in (
        (
            "'unet.conv' is a convolution; pissa starts Linear layers only",
            "pissa",
            {"paths": ("first", "conv")},
        ),
        ("has rank 16, so olora cannot take 17", "olora", {"rank": 17}),
        ("dropout is for plain LoRA", "dora", {"dropout": 0.1}),
    ):
        with pytest.raises(AdapterError, match=words):
            attach(model, name, **settings)
        assert not any(module._forward_hooks for module in model.modules())
        assert torch.equal(model(X), net()(X))


def test_a_method_that_reads_the_frozen_weight_refuses_a_quantised_one() -> None:
    model = net()
    model.first.weight = nn.Parameter(torch.zeros(20, 16, dtype=torch.uint8), requires_grad=False)
    for name in ("dora", "pissa"):
        with pytest.raises(AdapterError, match="is quantised; DoRA, PiSSA and OLoRA read"):
            attach(model, name, paths=("first",))
    attach(model, "loha", paths=("first",))


def test_loading_another_kind_or_another_start_is_refused() -> None:
    dora, loha = attach(net(), "dora"), attach(net(), "loha")
    with pytest.raises(AdapterError, match="is loha in the adapter and another kind as attached"):
        dora.load(loha.to_adapter())
    with pytest.raises(AdapterError, match="another shape, rank or alpha"):
        dora.load(attach(net(), "dora", alpha=4.0).to_adapter())
    with pytest.raises(AdapterError, match="began from another start"):
        attach(net(), "pissa").load(attach(net(3), "pissa").to_adapter())


@pytest.mark.parametrize("name", ["dora", "loha", "lokr", "lokr-whole"])
def test_arithmetic_counts_what_is_attached(name: str) -> None:
    model = net()
    rank = METHODS[name].get("rank", 2)
    expected = count(adaptable_layers(model), rank, METHODS[name]["method"])
    assert sum(factor.numel() for factor in attach(model, name).parameters()) == expected
