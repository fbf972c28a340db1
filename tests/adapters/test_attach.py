import warnings

import pytest
import torch
from torch import nn

from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.attach import attach_adapter, attach_new
from detour.adapters.delta import lora_delta
from detour.errors import AdapterError, ShapeMismatch
from tests.adapters.small_model import LAYERS, PATHS, At, random_adapter, small_input, small_model


def new(model: nn.Module, layers=LAYERS, **settings):  # type: ignore[no-untyped-def]
    return attach_new(
        model, "unet", layers, **{"rank": 4, "alpha": 4.0, "dropout": 0.0, "seed": 0} | settings
    )


def test_fresh_adapter_leaves_the_output_as_it_was_bit_for_bit() -> None:
    model, x = small_model(), small_input()
    before = model(x)
    new(model)
    assert torch.equal(model(x), before)


def test_factors_have_the_shapes_of_their_layers_and_a_stable_order() -> None:
    attached = new(small_model())
    shapes = {key: (tuple(down.shape), tuple(up.shape)) for key, (down, up) in attached.factors.items()}
    assert list(shapes) == [f"unet.{path}" for path in PATHS]
    assert shapes["unet.conv_in"] == ((4, 3, 3, 3), (8, 4, 1, 1))
    assert shapes["unet.blocks.0.to_out.0"] == ((4, 8), (6, 4))
    assert [id(p) for p in attached.parameters()] == [
        id(p) for pair in attached.factors.values() for p in pair
    ]
    assert all(parameter.requires_grad for parameter in attached.parameters())


@pytest.mark.parametrize("init", ["kaiming", "gaussian"])
def test_start_of_a_layer_depends_on_seed_and_path_alone(init: str) -> None:
    alone = new(small_model(), [At("proj_in")], init=init).factors["unet.proj_in"][0]
    torch.randn(100)
    among = new(small_model(), list(reversed(LAYERS)), init=init).factors["unet.proj_in"][0]
    other = new(small_model(), [At("proj_in")], init=init, seed=1).factors["unet.proj_in"][0]
    assert torch.equal(alone, among)
    assert not torch.equal(alone, other)


def test_layers_of_one_shape_start_differently() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    first, second = new(model, [At("0"), At("1")]).factors.values()
    assert not torch.equal(first[0], second[0])


def test_start_has_the_spread_that_peft_gives_it() -> None:
    model = nn.Sequential(nn.Linear(400, 10)).requires_grad_(False)
    down = attach_new(model, "unet", [At("0")], rank=50, alpha=1.0).factors["unet.0"][0]
    assert down.abs().max() <= 1 / 20 < 1.01 * down.abs().max()  # uniform within 1/sqrt(400)
    model = nn.Sequential(nn.Linear(400, 10)).requires_grad_(False)
    down = attach_new(model, "unet", [At("0")], rank=50, alpha=1.0, init="gaussian").factors["unet.0"][0]
    assert down.std().item() == pytest.approx(1 / 50, rel=0.05)


def test_attaching_does_not_use_up_the_callers_random_numbers() -> None:
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    new(small_model())
    assert torch.equal(torch.randn(4), expected)


def test_adapter_weights_are_float32_beside_a_bfloat16_base_and_the_output_keeps_the_bases_dtype() -> None:
    model = small_model().to(torch.bfloat16)
    attached = new(model)
    with torch.no_grad():
        for _, up in attached.factors.values():
            up.normal_(generator=torch.Generator().manual_seed(0))
    y = model(small_input().to(torch.bfloat16))
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 and p.grad.dtype == torch.float32 for p in attached.parameters())
    assert all(p.grad.abs().sum() > 0 for p in attached.parameters())


def test_loaded_factors_are_not_rounded_to_the_bases_bfloat16() -> None:
    adapter = random_adapter()
    factors = attach_adapter({"unet": small_model().to(torch.bfloat16)}, adapter).factors
    assert all(torch.equal(down, adapter.layers[key].down) for key, (down, _) in factors.items())
    assert all(torch.equal(up, adapter.layers[key].up) for key, (_, up) in factors.items())


def test_forward_and_gradients_equal_pefts_own_model() -> None:
    from peft import LoraConfig, get_peft_model

    ours, x = small_model(), small_input()
    attached = new(ours, alpha=7.0)
    with torch.no_grad():
        for _, up in attached.factors.values():
            up.normal_(std=0.2, generator=torch.Generator().manual_seed(0))
    config = LoraConfig(r=4, lora_alpha=7.0, target_modules=list(PATHS))
    theirs = get_peft_model(small_model(), config)
    tensors = dict(theirs.base_model.model.named_parameters())
    pairs = []
    with torch.no_grad():
        for path in PATHS:
            for ours_p, letter in zip(attached.factors[f"unet.{path}"], "AB", strict=True):
                pairs.append((ours_p, tensors[f"{path}.lora_{letter}.default.weight"]))
                pairs[-1][1].copy_(ours_p)
    y_ours, y_theirs = ours(x), theirs(x)
    y_ours.square().sum().backward()
    y_theirs.square().sum().backward()
    assert torch.equal(y_ours, y_theirs)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)


def test_detach_puts_the_same_plain_modules_back() -> None:
    model, x = small_model(), small_input()
    before, keys, modules = model(x), list(model.state_dict()), dict(model.named_modules())
    attached = new(model)
    for _, up in attached.factors.values():
        up.data.fill_(1.0)
    assert not torch.equal(model(x), before)
    attached.detach()
    assert torch.equal(model(x), before)
    assert list(model.state_dict()) == keys
    assert dict(model.named_modules()) == modules
    assert not hasattr(model, "peft_config")


def test_detach_gives_the_base_its_trainability_back() -> None:
    model = small_model().requires_grad_(True)
    attached = new(model)
    assert not any(p.requires_grad for n, p in model.named_parameters() if ".lora_" not in n)
    attached.detach()
    assert all(p.requires_grad for p in model.parameters())


def test_attached_adapter_adds_alpha_over_rank_times_its_delta() -> None:
    model = nn.Sequential(nn.Linear(5, 3)).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    layer = LoraLayer(
        down=torch.randn(2, 5, generator=generator), up=torch.randn(3, 2, generator=generator), alpha=8.0
    )
    x = torch.randn(4, 5, generator=generator)
    before = model(x)
    attached = attach_adapter({"unet": model}, Adapter({"unet.0": layer}), 0.5)
    expected = before + 0.5 * x @ lora_delta(layer.down, layer.up, alpha=8.0).T
    assert torch.allclose(model(x), expected, atol=1e-5)
    attached.set_weight(0.0)
    assert torch.allclose(model(x), before)


def test_what_is_attached_comes_back_with_its_ranks_and_alphas() -> None:
    adapter = random_adapter()
    back = attach_adapter({"unet": small_model()}, adapter, 0.3).to_adapter({"a": "b"})
    assert back.metadata == {"a": "b"}
    for key, layer in adapter.layers.items():
        assert torch.equal(back.layers[key].down, layer.down)
        assert torch.equal(back.layers[key].up, layer.up)
        assert back.layers[key].alpha == layer.alpha


def test_adapter_copy_does_not_change_with_the_live_factors() -> None:
    attached = new(small_model())
    copy = attached.to_adapter()
    attached.factors["unet.conv_in"][0].data.fill_(9.0)
    assert not (copy.layers["unet.conv_in"].down == 9.0).any()


def test_load_writes_into_the_live_parameters() -> None:
    source, target = new(small_model(), seed=5), new(small_model(), seed=6)
    live = target.parameters()
    target.load(source.to_adapter())
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), live, strict=True))
    with pytest.raises(AdapterError, match="attached ones differ"):
        target.load(Adapter({}))


def test_two_adapters_work_at_once_and_leave_in_any_order() -> None:
    x = small_input()
    models = {"unet": small_model()}
    plain = models["unet"](x)
    first = attach_adapter(models, random_adapter(2), name="a")
    only_first = models["unet"](x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = attach_adapter(models, random_adapter(3), name="b.c")
        both = models["unet"](x)
        with second.disabled():
            assert torch.equal(models["unet"](x), only_first)
        with first.disabled(), second.disabled():
            assert torch.equal(models["unet"](x), plain)
        assert torch.equal(models["unet"](x), both)
        first.detach()
    only_second = models["unet"](x)
    reference = {"unet": small_model()}
    attach_adapter(reference, random_adapter(3), name="z")
    assert torch.equal(only_second, reference["unet"](x))
    second.detach()
    assert torch.equal(models["unet"](x), plain)


def test_second_adapter_does_not_freeze_the_one_in_training() -> None:
    model = small_model()
    training = new(model)
    loaded = attach_adapter({"unet": model}, random_adapter(), name="loaded")
    assert all(parameter.requires_grad for parameter in training.parameters())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    loaded.detach()
    assert all(parameter.requires_grad for parameter in training.parameters())


def test_disabled_comes_back_when_the_body_raises() -> None:
    model, x = small_model(), small_input()
    attached = attach_adapter({"unet": model}, random_adapter())
    with_adapter = model(x)
    with pytest.raises(KeyError), attached.disabled():
        raise KeyError
    assert torch.equal(model(x), with_adapter)


def test_dropout_follows_the_models_mode() -> None:
    model, x = small_model(), small_input()
    attached = new(model, dropout=0.5)
    for _, up in attached.factors.values():
        up.data.fill_(1.0)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_a_path_is_not_taken_for_the_end_of_another() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "deep": nn.ModuleDict({"a": nn.Linear(2, 2)})})
    attach_new(model, "unet", [At("a")], rank=1, alpha=1.0)
    assert type(model["deep"]["a"]) is nn.Linear
    assert type(model["a"]) is not nn.Linear


def test_linear_factors_fit_a_one_by_one_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1)).requires_grad_(False)
    flat = LoraLayer(down=torch.ones(1, 4), up=torch.ones(4, 1), alpha=1.0)
    attached = attach_adapter({"unet": model}, Adapter({"unet.0": flat}))
    assert tuple(attached.factors["unet.0"][0].shape) == (1, 4, 1, 1)


def test_old_text_prefix_in_the_model_is_found() -> None:
    model = nn.ModuleDict({"text_model": nn.ModuleDict({"fc1": nn.Linear(2, 2)})})
    layer = LoraLayer(down=torch.ones(1, 2), up=torch.ones(2, 1), alpha=1.0)
    attached = attach_adapter({"text_encoder": model}, Adapter({"text_encoder.fc1": layer}))
    assert list(attached.factors) == ["text_encoder.fc1"]


def test_wrong_width_names_both_and_changes_nothing() -> None:
    model = small_model()
    layers = dict(random_adapter().layers)
    layers["unet.blocks.0.to_q"] = LoraLayer(down=torch.ones(4, 9), up=torch.ones(8, 4), alpha=4.0)
    with pytest.raises(ShapeMismatch, match=r"maps 9 to 8 .* 8 to 8"):
        attach_adapter({"unet": model}, Adapter(layers))
    assert type(model.conv_in) is nn.Conv2d


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        (Adapter({}), "no layers"),
        (
            Adapter(
                {"unet.blocks.0.to_qq": LoraLayer(down=torch.ones(1, 8), up=torch.ones(8, 1), alpha=1.0)}
            ),
            "to_q'",
        ),
        (
            Adapter({"text_encoder.a": LoraLayer(down=torch.ones(1, 8), up=torch.ones(8, 1), alpha=1.0)}),
            "text_encoder",
        ),
    ],
)
def test_adapter_that_does_not_belong_here_is_refused_by_name(adapter: Adapter, words: str) -> None:
    with pytest.raises(AdapterError, match=words):
        attach_adapter({"unet": small_model()}, adapter)


def test_name_in_use_is_refused() -> None:
    models = {"unet": small_model()}
    attach_adapter(models, random_adapter(), name="a")
    with pytest.raises(AdapterError, match="'a' is attached already"):
        attach_adapter(models, random_adapter(), name="a")


def test_new_adapter_on_nothing_or_on_an_unknown_layer_is_refused() -> None:
    with pytest.raises(AdapterError, match="nothing to adapt"):
        new(small_model(), [])
    with pytest.raises(AdapterError, match="no layer 'mid'"):
        new(small_model(), [At("mid")])
