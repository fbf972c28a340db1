"""DoRA, LoHa and LoKr on disk: what is written is what is read, by us and by the libraries that others use."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from detour.adapter_files import read_adapter, write_adapter
from detour.adapter_files.container import encode
from detour.adapters.adapter import Adapter
from detour.adapters.attach import attach_adapter
from detour.adapters.delta import largest_relative_difference
from detour.adapters.layers import DoraLayer, Layer, LoraLayer
from detour.adapters.lycoris_layers import LohaLayer, LokrLayer
from detour.adapters.targets import adaptable_layers
from detour.errors import AdapterError
from tests.adapter_files.examples import SD1, adapter_for
from tests.adapters.kinds import (
    CONV,
    CONV_KINDS,
    EVERY,
    IDS,
    LINEAR,
    dora,
    loha,
    lokr,
    lokr_whole,
    lora,
    numbers,
)

KEY = {LINEAR: "unet.mid_block.attentions.0.proj_in", CONV: "unet.mid_block.resnets.0.conv1"}


def save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.write_bytes(encode(tensors, metadata or {}))
    return path


def assert_equal(first: Adapter, second: Adapter) -> None:
    assert set(first.layers) == set(second.layers)
    for key, layer in first.layers.items():
        other = second.layers[key]
        assert (layer.kind, layer.alpha) == (other.kind, other.alpha)
        assert set(layer.tensors) == set(other.tensors)
        for name, tensor in layer.tensors.items():
            assert torch.equal(tensor, other.tensors[name]), name


@pytest.mark.parametrize(("name", "make", "shape"), EVERY, ids=IDS)
def test_kohya_file_keeps_every_tensor_of_every_kind(tmp_path: Path, name, make, shape) -> None:  # type: ignore[no-untyped-def]
    adapter = Adapter({KEY[shape]: make(shape)})
    back = read_adapter(write_adapter(tmp_path / f"{name}.safetensors", adapter, family=SD1))
    assert_equal(adapter, back)
    assert largest_relative_difference(adapter, back) == 0.0


def test_kohya_file_names_are_those_of_lycoris(tmp_path: Path) -> None:
    adapter = Adapter(
        {KEY[LINEAR]: dora(LINEAR), KEY[CONV]: CONV_KINDS["loha_tucker"](CONV), "unet.conv_in": lokr(CONV)}
    )
    path = write_adapter(tmp_path / "a.safetensors", adapter, family=SD1)
    shapes = {name: tuple(tensor.shape) for name, tensor in safetensors.torch.load(path.read_bytes()).items()}
    linear, conv = "lora_unet_mid_block_attentions_0_proj_in", "lora_unet_mid_block_resnets_0_conv1"
    assert shapes == {
        f"{linear}.alpha": (), f"{linear}.lora_down.weight": (3, 6), f"{linear}.lora_up.weight": (8, 3),
        f"{linear}.dora_scale": (8, 1),
        f"{conv}.alpha": (), f"{conv}.hada_w1_a": (2, 6), f"{conv}.hada_w1_b": (2, 4), f"{conv}.hada_t1": (2, 2, 3, 3),
        f"{conv}.hada_w2_a": (2, 6), f"{conv}.hada_w2_b": (2, 4), f"{conv}.hada_t2": (2, 2, 3, 3),
        "lora_unet_conv_in.alpha": (), "lora_unet_conv_in.lokr_w1": (2, 2),
        "lora_unet_conv_in.lokr_w2_a": (3, 3), "lora_unet_conv_in.lokr_w2_b": (3, 18),
    }  # fmt: skip
    metadata = read_adapter(path).metadata
    assert metadata["ss_network_module"] == "lycoris.kohya"
    assert json.loads(metadata["ss_network_args"])["dora_wd"] == "True"


def test_plain_files_name_kohyas_own_module(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.safetensors", Adapter({KEY[LINEAR]: lora(LINEAR)}), family=SD1)
    assert read_adapter(path).metadata["ss_network_module"] == "networks.lora"


@pytest.mark.parametrize("file_format", ["kohya", "diffusers", "peft"])
def test_dora_is_the_same_through_all_three_formats(tmp_path: Path, file_format: str) -> None:
    adapter = Adapter({KEY[LINEAR]: dora(LINEAR), KEY[CONV]: dora(CONV)})
    path = write_adapter(tmp_path / "a.safetensors", adapter, file_format=file_format, family=SD1)  # type: ignore[arg-type]
    back = read_adapter(path)
    if file_format != "diffusers":
        assert_equal(adapter, back)
        return
    for key, layer in back.layers.items():  # the scale of the direction stands in the factors
        assert layer.alpha == layer.rank
        assert torch.equal(layer.magnitude, adapter.layers[key].magnitude)
        torch.testing.assert_close(layer.change.delta(), adapter.layers[key].change.delta())


@pytest.mark.parametrize(("name", "make", "shape"), [case for case in EVERY if "loha" in case[0]])
def test_loha_is_the_same_in_a_peft_folder(tmp_path: Path, name, make, shape) -> None:  # type: ignore[no-untyped-def]
    adapter = Adapter({KEY[shape]: make(shape)})
    assert_equal(
        adapter, read_adapter(write_adapter(tmp_path / name, adapter, file_format="peft", family=SD1))
    )


@pytest.mark.parametrize(
    ("layers", "file_format", "words"),
    [
        ({KEY[LINEAR]: loha(LINEAR)}, "diffusers", "is loha, which this format cannot hold"),
        (
            {KEY[LINEAR]: lokr(LINEAR), KEY[CONV]: lora(CONV)},
            "peft",
            "is lokr, which this format cannot hold",
        ),
        ({KEY[LINEAR]: dora(LINEAR), KEY[CONV]: lora(CONV)}, "peft", "1 of 2 layers of the unet are DoRA"),
        (
            {KEY[LINEAR]: dora(LINEAR), KEY[CONV]: lora(CONV)},
            "diffusers",
            "1 of 2 layers of the unet are DoRA",
        ),
        (
            {KEY[LINEAR]: DoraLayer(change=loha(LINEAR), magnitude=torch.ones(8))},
            "diffusers",
            "is DoRA around loha, which this format cannot hold",
        ),
    ],
)
def test_what_a_format_cannot_hold_is_not_written(
    tmp_path: Path, layers: dict[str, Layer], file_format: str, words: str
) -> None:
    with pytest.raises(AdapterError, match=words):
        write_adapter(tmp_path / "a.safetensors", Adapter(layers), file_format=file_format, family=SD1)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_part_that_cannot_be_held_leaves_no_other_part_behind(tmp_path: Path) -> None:
    layers = {KEY[LINEAR]: lora(LINEAR), "text_encoder.encoder.layers.0.mlp.fc1": lokr(LINEAR)}
    with pytest.raises(AdapterError, match="is a LoKr that no PEFT folder can hold"):
        write_adapter(tmp_path / "a", Adapter(layers), file_format="peft", family=SD1)
    assert not list(tmp_path.iterdir())


NAME = "lora_unet_mid_block_attentions_0_proj_in"


def as_kohya(layer: Layer) -> dict[str, torch.Tensor]:
    prefix = {"loha": "hada_", "lokr": "lokr_"}[layer.kind]
    return {f"{NAME}.{prefix}{name}": tensor for name, tensor in layer.tensors.items()}


def test_without_alpha_the_scale_is_one(tmp_path: Path) -> None:
    for layer in (loha(LINEAR), lokr(LINEAR)):
        back = read_adapter(save(tmp_path / "a.safetensors", as_kohya(layer))).layers[KEY[LINEAR]]
        assert back.alpha == back.rank


def test_two_whole_lokr_matrices_have_scale_one_whatever_alpha_says(tmp_path: Path) -> None:
    """As in LyCORIS and ComfyUI; a scale that is not one is written into the first matrix."""
    layer = lokr_whole(LINEAR)
    tensors = as_kohya(layer) | {f"{NAME}.alpha": torch.tensor(100.0)}
    back = read_adapter(save(tmp_path / "a.safetensors", tensors)).layers[KEY[LINEAR]]
    assert torch.equal(back.delta(), layer.delta())
    doubled = Adapter({KEY[LINEAR]: LokrLayer(w1=layer.w1, w2=layer.w2, alpha=2 * layer.alpha)})
    path = write_adapter(tmp_path / "b.safetensors", doubled, family=SD1)
    assert largest_relative_difference(doubled, read_adapter(path)) < 1e-7


def test_dora_around_loha_is_read(tmp_path: Path) -> None:
    tensors = as_kohya(loha(LINEAR)) | {
        f"{NAME}.alpha": torch.tensor(5.0),
        f"{NAME}.dora_scale": torch.ones(8, 1),
    }
    layer = read_adapter(save(tmp_path / "a.safetensors", tensors)).layers[KEY[LINEAR]]
    assert isinstance(layer, DoraLayer)
    assert isinstance(layer.change, LohaLayer)


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (torch.ones(1, 6), "a magnitude for each of 6 inputs"),
        (torch.ones(1, 6, 1, 1), "a magnitude for each of 6 inputs"),
        (torch.ones(7, 1), r"magnitudes of shape \(7, 1\) for 8 outputs"),
        (torch.ones(8, 2), r"magnitudes of shape \(8, 2\) for 8 outputs"),
    ],
)
def test_dora_that_is_not_per_output_is_refused_with_the_reason(
    tmp_path: Path, scale: torch.Tensor, words: str
) -> None:
    layer = lora(LINEAR)
    tensors = {
        f"{NAME}.lora_down.weight": layer.down,
        f"{NAME}.lora_up.weight": layer.up,
        f"{NAME}.dora_scale": scale,
    }
    with pytest.raises(AdapterError, match=words):
        read_adapter(save(tmp_path / "a.safetensors", tensors))


def test_a_layer_of_two_algorithms_is_refused(tmp_path: Path) -> None:
    tensors = as_kohya(loha(LINEAR)) | as_kohya(lokr(LINEAR))
    with pytest.raises(AdapterError, match="mixes factors of several algorithms"):
        read_adapter(save(tmp_path / "a.safetensors", tensors))


def test_rank_stabilised_scale_is_folded_into_alpha_and_said(tmp_path: Path) -> None:
    layer = lora(LINEAR)
    folder = write_adapter(tmp_path / "a", Adapter({KEY[LINEAR]: layer}), file_format="peft", family=SD1)
    config = json.loads((folder / "adapter_config.json").read_text()) | {"use_rslora": True}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    from peft import PeftModel

    model = nn.Module()
    model.mid_block = nn.Module()
    model.mid_block.attentions = nn.ModuleList([nn.Module()])
    model.mid_block.attentions[0].proj_in = nn.Linear(LINEAR[1], LINEAR[0])
    theirs = PeftModel.from_pretrained(model, folder).base_model.model.mid_block.attentions[0].proj_in
    back = read_adapter(folder)
    assert torch.allclose(back.layers[KEY[LINEAR]].delta(), theirs.get_delta_weight("default"), atol=1e-6)
    assert back.layers[KEY[LINEAR]].alpha == pytest.approx(layer.alpha * 3**0.5)
    assert back.metadata["detour.rslora"] == "folded into alpha"
    again = read_adapter(write_adapter(tmp_path / "b.safetensors", back, family=SD1))
    assert largest_relative_difference(back, again) < 1e-7


def test_rank_stabilised_scale_of_a_diffusers_file_is_folded_too(tmp_path: Path) -> None:
    layer = lora(LINEAR)
    config = {"unet.r": 3, "unet.lora_alpha": 5.0, "unet.use_rslora": True}
    tensors = {f"{KEY[LINEAR]}.lora_A.weight": layer.down, f"{KEY[LINEAR]}.lora_B.weight": layer.up}
    path = save(tmp_path / "a.safetensors", tensors, {"lora_adapter_metadata": json.dumps(config)})
    adapter = read_adapter(path)
    assert adapter.layers[KEY[LINEAR]].alpha == pytest.approx(5.0 * 3**0.5)
    assert adapter.metadata["detour.rslora"] == "folded into alpha"


@pytest.mark.parametrize("kind", ["loha", "lokr", "lokr_whole"])
def test_we_read_the_loha_and_lokr_folders_that_peft_writes(tmp_path: Path, kind: str) -> None:
    from peft import LoHaConfig, LoKrConfig, get_peft_model

    model = nn.Module()
    model.conv_in, model.mid_block = nn.Conv2d(4, 6, 3), nn.Module()
    model.mid_block.attentions = nn.ModuleList([nn.Module()])
    model.mid_block.attentions[0].proj_in = nn.Linear(6, 8)
    patterns = (
        {"rank_pattern": {"conv_in": 2}, "alpha_pattern": {"conv_in": 5}} if kind != "lokr_whole" else {}
    )
    make = LoHaConfig if kind == "loha" else LoKrConfig
    config = make(r=1 if kind == "lokr" else 8, alpha=3, target_modules=["conv_in", "proj_in"], **patterns)
    theirs = get_peft_model(model, config)
    for index, (name, parameter) in enumerate(theirs.named_parameters()):
        if "hada_" in name or "lokr_" in name:
            parameter.data.copy_(numbers(*parameter.shape, seed=index))
    theirs.save_pretrained(tmp_path / "a")
    back = read_adapter(tmp_path / "a")
    for key, layer in back.layers.items():
        expected = theirs.base_model.model.get_submodule(key.removeprefix("unet.")).get_delta_weight(
            "default"
        )
        assert layer.kind == kind.partition("_")[0]
        assert torch.allclose(layer.delta().reshape(expected.shape), expected, atol=1e-5), key
    through_kohya = read_adapter(write_adapter(tmp_path / "b.safetensors", back, family=SD1))
    assert len(back.layers) == 2
    assert largest_relative_difference(back, through_kohya) < 1e-6


@pytest.fixture(scope="module")
def tiny_unet(tiny_base: Path):  # type: ignore[no-untyped-def]
    from diffusers import UNet2DConditionModel

    return lambda: UNet2DConditionModel.from_pretrained(tiny_base / "unet").eval().requires_grad_(False)


def answer(unet) -> torch.Tensor:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 7, 32, generator=generator)
    with torch.no_grad():
        return unet(x, 500, text).sample


def whole_unet(unet, kind: str) -> Adapter:  # type: ignore[no-untyped-def]
    """A layer of ``kind`` on every layer of the UNet."""
    plain = adapter_for(adaptable_layers(unet)).layers
    layers: dict[str, Layer] = {}
    for index, (key, layer) in enumerate(plain.items()):
        assert isinstance(layer, LoraLayer)
        if kind == "dora":
            layers[key] = DoraLayer(
                change=layer, magnitude=1.0 + numbers(layer.out_features, seed=index).abs()
            )
        else:
            inputs = layer.down[0].numel()
            a = [numbers(layer.out_features, layer.rank, seed=2 * index + s) for s in (0, 1)]
            b = [numbers(layer.rank, inputs, seed=2 * index + s) for s in (0, 1)]
            layers[key] = LohaLayer(w1_a=a[0], w2_a=a[1], w1_b=b[0], w2_b=b[1], alpha=layer.alpha / 8)
    return Adapter(layers)


@pytest.mark.parametrize("kind", ["dora", "loha"])
def test_peft_loads_our_folder_of_every_layer_with_the_same_effect(
    tmp_path: Path, tiny_unet, kind: str
) -> None:  # type: ignore[no-untyped-def]
    from peft import PeftModel

    ours = tiny_unet()
    plain, adapter = answer(ours), whole_unet(ours, kind)
    attach_adapter({"unet": ours}, adapter)
    folder = write_adapter(tmp_path / "a", adapter, file_format="peft", family=SD1)
    theirs = PeftModel.from_pretrained(tiny_unet(), folder)
    assert torch.allclose(answer(theirs), answer(ours), atol=2e-5)
    assert (answer(ours) - plain).abs().mean() > 0.05


def test_diffusers_loads_our_dora_with_the_same_effect(tmp_path: Path, tiny_unet) -> None:  # type: ignore[no-untyped-def]
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    ours = tiny_unet()
    adapter = whole_unet(ours, "dora")
    attach_adapter({"unet": ours}, adapter)
    path = write_adapter(tmp_path, adapter, file_format="diffusers", family=SD1)
    theirs = tiny_unet()
    state, alphas, metadata = Loader.lora_state_dict(
        str(path), unet_config=theirs.config, return_lora_metadata=True
    )
    assert any("lora_magnitude_vector" in name for name in state)
    Loader.load_lora_into_unet(state, alphas, theirs, metadata=metadata)
    assert torch.allclose(answer(theirs), answer(ours), atol=2e-5)
