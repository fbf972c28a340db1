"""What is written is read back as the same adapter, by us and by the libraries that others use."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from detour.adapter_files import read_adapter, write_adapter
from detour.adapter_files.container import encode
from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.attach import attach_adapter
from detour.adapters.delta import largest_relative_difference
from detour.adapters.targets import adaptable_layers
from detour.errors import AdapterError
from tests.adapter_files.examples import (
    SD1,
    SDXL,
    adapter_for,
    assert_same,
    assert_same_change,
    small_adapter,
)

FORMATS = ("kohya", "diffusers", "peft")


def save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.write_bytes(encode(tensors, metadata or {}))
    return path


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("text", [False, True])
def test_round_trip_keeps_factors_ranks_and_alphas(tmp_path: Path, file_format: str, text: bool) -> None:
    adapter = small_adapter(text=text)
    path = write_adapter(tmp_path / "a.safetensors", adapter, file_format=file_format, family=SD1)  # type: ignore[arg-type]
    back = read_adapter(path)
    assert back.metadata["modelspec.title"] == "neon"
    if file_format != "diffusers":
        assert_same(adapter, back)
        assert largest_relative_difference(adapter, back) == 0.0
        return
    for key, layer in back.layers.items():
        before = adapter.layers[key]
        assert layer.alpha == layer.rank == before.rank
        assert torch.equal(layer.down, before.down)
    assert largest_relative_difference(adapter, back) < 1e-6


@pytest.mark.parametrize("file_format", FORMATS)
def test_same_adapter_gives_the_same_bytes(tmp_path: Path, file_format: str) -> None:
    def files(name: str, adapter: Adapter) -> list[bytes]:
        path = write_adapter(tmp_path / name, adapter, file_format=file_format, family=SD1)  # type: ignore[arg-type]
        return [file.read_bytes() for file in sorted(path.rglob("*")) or [path]]

    adapter = small_adapter()
    turned = Adapter(dict(reversed(adapter.layers.items())), dict(reversed(adapter.metadata.items())))
    assert files("a", adapter) == files("b", turned)


def test_sdxl_with_both_text_encoders_comes_back(tmp_path: Path) -> None:
    layers = dict(small_adapter().layers)
    layer = LoraLayer(down=torch.ones(1, 4), up=torch.ones(4, 1), alpha=1.0)
    layers |= {f"{part}.encoder.layers.0.mlp.fc1": layer for part in ("text_encoder", "text_encoder_2")}
    path = write_adapter(tmp_path / "a.safetensors", Adapter(layers), family=SDXL)
    assert_same(Adapter(layers), read_adapter(path))
    assert any(
        name.startswith("lora_unet_input_blocks_1_1_") for name in safetensors.torch.load(path.read_bytes())
    )


def test_a_file_converted_through_all_formats_is_the_same_adapter(tmp_path: Path) -> None:
    """PEFT and kohya keep alpha; diffusers' form has it in the factors, exactly for powers of two."""
    adapter = current = small_adapter(text=True)
    for index, file_format in enumerate((*FORMATS, "kohya")):
        path = write_adapter(tmp_path / str(index), current, file_format=file_format, family=SD1)  # type: ignore[arg-type]
        current = read_adapter(path)
    assert_same_change(adapter, current)


@pytest.mark.parametrize(("dtype", "error"), [("fp16", 1e-3), ("bf16", 1e-2)])
def test_half_precision_files_lose_rounding_only_and_no_alpha(
    tmp_path: Path, dtype: str, error: float
) -> None:
    adapter = small_adapter(alpha=0.1)
    full = write_adapter(tmp_path / "full.safetensors", adapter, family=SD1)
    half = write_adapter(tmp_path / "half.safetensors", adapter, family=SD1, dtype=dtype)  # type: ignore[arg-type]
    back = read_adapter(half)
    assert 0 < largest_relative_difference(adapter, back) < error
    assert back.layers["unet.conv_in"].alpha == 1.5
    key = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    assert back.layers[key].alpha == pytest.approx(0.1, rel=1e-7)
    assert half.stat().st_size < 0.75 * full.stat().st_size


def test_values_that_half_precision_cannot_hold_are_not_written(tmp_path: Path) -> None:
    large = Adapter(
        {"unet.conv_out": LoraLayer(down=torch.full((1, 4), 1e6), up=torch.ones(4, 1), alpha=1.0)}
    )
    with pytest.raises(AdapterError, match=r"'unet.conv_out' does not fit torch.float16"):
        write_adapter(tmp_path / "a.safetensors", large, family=SD1, dtype="fp16")
    assert not list(tmp_path.iterdir())


def test_nothing_to_write_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no layers"):
        write_adapter(tmp_path / "a.safetensors", Adapter({}), family=SD1)


def test_kohya_file_without_alpha_has_scale_one(tmp_path: Path) -> None:
    name = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{name}.lora_down.weight": torch.ones(4, 8), f"{name}.lora_up.weight": torch.ones(8, 4)}
    layer = read_adapter(save(tmp_path / "a.safetensors", tensors)).layers[
        "unet.mid_block.attentions.0.proj_in"
    ]
    assert layer.scale == 1.0


def test_cp_form_is_folded_into_the_same_convolution(tmp_path: Path) -> None:
    name = "lora_unet_conv_in"
    down, mid, up = torch.randn(2, 4, 1, 1), torch.randn(2, 2, 3, 3), torch.randn(8, 2, 1, 1)
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_mid.weight": mid, f"{name}.lora_up.weight": up}
    layer = read_adapter(save(tmp_path / "a.safetensors", tensors)).layers["unet.conv_in"]
    x = torch.randn(1, 4, 6, 6)
    conv = torch.nn.functional.conv2d
    assert torch.allclose(conv(conv(x, layer.down), layer.up), conv(conv(conv(x, down), mid), up), atol=1e-4)


@pytest.mark.parametrize(
    "names",
    [
        ("{}.to_q.lora.down.weight", "{}.to_q.lora.up.weight"),
        ("{}.to_q.lora_A.weight", "{}.to_q.lora_B.weight"),
        ("{}.to_q.lora_A.default.weight", "{}.to_q.lora_B.default.weight"),
        ("{}.processor.to_q_lora.down.weight", "{}.processor.to_q_lora.up.weight"),
    ],
)
@pytest.mark.parametrize("prefix", ["unet.", ""])
def test_every_naming_that_diffusers_had_is_read(tmp_path: Path, names: tuple[str, str], prefix: str) -> None:
    module = f"{prefix}mid_block.attentions.0.transformer_blocks.0.attn1"
    down, up = (name.format(module) for name in names)
    path = save(tmp_path / "a.safetensors", {down: torch.ones(2, 8), up: torch.ones(8, 2)})
    layer = read_adapter(path).layers["unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"]
    assert (layer.rank, layer.scale) == (2, 1.0)


def test_old_text_names_of_diffusers_are_read(tmp_path: Path) -> None:
    module = "text_encoder.text_model.encoder.layers.0.self_attn.k_proj.lora_linear_layer"
    path = save(
        tmp_path / "a.safetensors",
        {f"{module}.down.weight": torch.ones(2, 8), f"{module}.up.weight": torch.ones(8, 2)},
    )
    assert list(read_adapter(path).layers) == ["text_encoder.encoder.layers.0.self_attn.k_proj"]


def test_rank_stabilised_scale_is_kept(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", small_adapter(), file_format="peft", family=SD1)
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"use_rslora": True, "alpha_pattern": {}, "lora_alpha": 8}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    layers = read_adapter(folder).layers
    assert layers["unet.conv_in"].scale == pytest.approx(8 / 2**0.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "OFT"}, "its peft_type is 'OFT'; LORA, LOHA, LOKR are supported"),
        ({"use_dora": True}, "has no magnitudes, which its use_dora asks for"),
        ({"r": 0}, "its r is 0"),
        ({"bias": "all"}, "trains biases"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "no plain layer path"),
        ({"alpha_pattern": []}, ""),
        ({"alpha_pattern": {"conv_in": True}}, "expected a number"),
    ],
)
def test_peft_settings_that_change_the_meaning_are_refused(tmp_path: Path, change: dict, words: str) -> None:  # type: ignore[type-arg]
    folder = write_adapter(tmp_path / "a", small_adapter(), file_format="peft", family=SD1)
    config = json.loads((folder / "adapter_config.json").read_text()) | change
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if not words:
        read_adapter(folder)
        return
    with pytest.raises(AdapterError, match=words):
        read_adapter(folder)


def test_peft_folder_that_is_not_whole_or_links_out_is_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", small_adapter(), file_format="peft", family=SD1)
    (folder / "adapter_config.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(AdapterError, match=r"needs adapter_config\.json beside it"):
        read_adapter(folder)
    (folder / "adapter_config.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(AdapterError, match="a link that leads out"):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lora_unet_conv_in.hada_w1_a", "'unet.conv_in' has no hada_w1_b"),
        ("lora_unet_conv_in.lokr_w1", "do not make one LoKr layer"),
        ("lora_unet_conv_in.dora_scale", "has no down factor"),
        ("lora_unet_conv_in.oft_blocks", "OFT and BOFT are not supported"),
        ("lora_unet_conv_in.diff", "whole differences of weights"),
        ("lora_unet_double_blocks_0_img_attn_norm_query_norm.scale", "control adapters"),
        ("transformer.blocks.0.attn.to_q.lora_A.weight", "no layer of SD 1, SD 2, SDXL, SD 3 or Flux"),
        ("model.diffusion_model.input_blocks.0.0.weight", "a whole model"),
        ("unet.nonsense.lora_A.weight", "no layer of SD 1"),
        ("lora_unet_conv_in.extra", "no algorithm known here has such a tensor"),
    ],
)
def test_tensors_that_cannot_be_placed_are_refused_with_the_reason(
    tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(AdapterError, match=words):
        read_adapter(save(tmp_path / "a.safetensors", {name: torch.ones(2, 2)}))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"lora_unet_conv_in.lora_down.weight": torch.ones(2, 4)}, "has no up factor"),
        ({"lora_unet_conv_in.alpha": torch.ones(1)}, "has no down factor"),
        (
            {
                "lora_unet_conv_in.lora_down.weight": torch.ones(2, 4),
                "lora_unet_conv_in.lora_up.weight": torch.ones(4, 3),
            },
            "do not make one low-rank layer",
        ),
        ({"lora_unet_conv_in.alpha": torch.ones(2)}, "a.safetensors: 'lora_unet_conv_in.alpha' has 2 numbers"),
        (
            {"lora_unet_conv_in.alpha": torch.ones(1), "lora_unet_input_blocks_0_0.alpha": torch.ones(1)},
            "under different names",
        ),
        (
            {"unet.conv_in.lora_A.weight": torch.ones(1, 1), "conv_in.lora_A.weight": torch.ones(1, 1)},
            "stands there twice",
        ),
        ({}, "no adapter layers"),
    ],
)  # fmt: skip
def test_layers_that_are_not_whole_are_refused(tmp_path: Path, tensors: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(AdapterError, match=words):
        read_adapter(save(tmp_path / "a.safetensors", tensors))


def test_rank_above_the_limit_is_refused(tmp_path: Path) -> None:
    name = "lora_unet_conv_in"
    tensors = {f"{name}.lora_down.weight": torch.ones(5000, 1), f"{name}.lora_up.weight": torch.ones(1, 5000)}
    with pytest.raises(AdapterError, match="rank 5,000, the limit is 4,096"):
        read_adapter(save(tmp_path / "a.safetensors", tensors))


def test_folder_with_one_file_is_read_and_with_two_is_asked_about(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a.safetensors", small_adapter(), family=SD1)
    assert_same(read_adapter(tmp_path), small_adapter())
    write_adapter(tmp_path / "b.safetensors", small_adapter(), family=SD1)
    with pytest.raises(AdapterError, match=r"2 adapter files. Name one"):
        read_adapter(tmp_path)


@pytest.fixture(scope="module")
def tiny_unet(tiny_base: Path):  # type: ignore[no-untyped-def]
    from diffusers import UNet2DConditionModel

    return lambda: UNet2DConditionModel.from_pretrained(tiny_base / "unet").eval().requires_grad_(False)


def answer(unet) -> torch.Tensor:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 7, 32, generator=generator)
    with torch.no_grad():
        return unet(x, 500, text).sample


def adapted(tiny_unet, *, one_alpha: bool = False):  # type: ignore[no-untyped-def]
    """An adapter on every layer of the tiny UNet, and what the UNet answers with it."""
    unet = tiny_unet()
    plain = answer(unet)
    adapter = adapter_for(adaptable_layers(unet), one_alpha=one_alpha)
    attach_adapter({"unet": unet}, adapter)
    assert (answer(unet) - plain).abs().mean() > 0.05
    return adapter, answer(unet)


@pytest.fixture(scope="module")
def full(tiny_unet):  # type: ignore[no-untyped-def]
    return adapted(tiny_unet)


def loaded_by_diffusers(path: Path, unet):  # type: ignore[no-untyped-def]
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    state, alphas, metadata = Loader.lora_state_dict(
        str(path), unet_config=unet.config, return_lora_metadata=True
    )
    Loader.load_lora_into_unet(state, alphas, unet, metadata=metadata)
    return unet


def test_diffusers_loads_our_diffusers_file_with_the_same_effect(tmp_path: Path, tiny_unet, full) -> None:  # type: ignore[no-untyped-def]
    adapter, expected = full
    path = write_adapter(tmp_path, adapter, file_format="diffusers", family=SD1)
    assert path.name == "pytorch_lora_weights.safetensors"
    assert torch.allclose(answer(loaded_by_diffusers(path, tiny_unet())), expected, atol=1e-5)


def test_diffusers_loads_our_kohya_file_with_the_same_effect(tmp_path: Path, tiny_unet) -> None:  # type: ignore[no-untyped-def]
    """With one alpha for all: diffusers 0.42.1 loses those of attention layers where alphas differ."""
    adapter, expected = adapted(tiny_unet, one_alpha=True)
    path = write_adapter(tmp_path / "a.safetensors", adapter, family=SD1)
    assert_same(adapter, read_adapter(path))
    assert torch.allclose(answer(loaded_by_diffusers(path, tiny_unet())), expected, atol=1e-5)


def test_peft_loads_our_folder_with_the_same_effect(tmp_path: Path, tiny_unet, full) -> None:  # type: ignore[no-untyped-def]
    from peft import PeftModel

    adapter, expected = full
    folder = write_adapter(tmp_path / "a", adapter, file_format="peft", family=SD1)
    assert_same(adapter, read_adapter(folder))
    unet = PeftModel.from_pretrained(tiny_unet(), folder)
    assert torch.allclose(answer(unet), expected, atol=1e-5)


def test_we_read_what_diffusers_writes(tmp_path: Path, tiny_unet, full) -> None:  # type: ignore[no-untyped-def]
    adapter, _ = full
    unet = tiny_unet()
    unet.add_adapter(_config(adapter))
    named = dict(unet.named_parameters())
    with torch.no_grad():
        for key, layer in adapter.layers.items():
            path = key.removeprefix("unet.")
            named[f"{path}.lora_A.default.weight"].copy_(layer.down)
            named[f"{path}.lora_B.default.weight"].copy_(layer.up)
    unet.save_lora_adapter(tmp_path)
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    StableDiffusionPipeline.save_lora_weights(
        tmp_path / "pipe",
        unet_lora_layers=convert_state_dict_to_diffusers(get_peft_model_state_dict(unet)),
        unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
    )
    assert_same(adapter, read_adapter(tmp_path / "pipe"))


def _config(adapter: Adapter):  # type: ignore[no-untyped-def]
    from peft import LoraConfig

    from detour.adapter_files.lora_config import to_config

    return LoraConfig(
        **to_config({key.removeprefix("unet."): layer for key, layer in adapter.layers.items()})
    )
