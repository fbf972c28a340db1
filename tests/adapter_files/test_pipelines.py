"""Files written here give the same pictures in other people's pipelines: 1 step of 255, fp32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detour.adapter_files import write_adapter
from detour.adapters.adapter import Adapter
from detour.adapters.attach import attach_adapter
from detour.adapters.layers import LoraLayer
from detour.adapters.targets import adaptable_layers
from detour.bases.families import FAMILIES
from tests.adapter_files.examples import SD1, SDXL
from tests.tiny_base import make_tiny_sdxl

Load = Callable[[], Any]
ONE_STEP = 1.001 / 255


def draw(pipe: Any) -> np.ndarray:  # type: ignore[type-arg]
    """(1, 64, 64, 3) in [0, 1]."""
    pipe.set_progress_bar_config(disable=True)
    start = torch.Generator().manual_seed(0)
    made = pipe(
        "red fish",
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=start,
        output_type="np",
        height=64,
        width=64,
    )
    return np.asarray(made.images)


def lora_on(pipe: Any, parts: tuple[str, ...]) -> Adapter:
    """Every layer of the parts, ranks that differ, one alpha that is no rank: what all formats can say."""
    generator = torch.Generator().manual_seed(3)
    layers = {}
    for part in parts:
        for index, layer in enumerate(adaptable_layers(getattr(pipe, part))):
            rank = 2 + index % 2
            down = (
                (rank, layer.in_features, *layer.kernel)
                if layer.kind == "conv"
                else (rank, layer.in_features)
            )
            up = (layer.out_features, rank, 1, 1) if layer.kind == "conv" else (layer.out_features, rank)
            layers[f"{part}.{layer.path}"] = LoraLayer(
                down=0.1 * torch.randn(down, generator=generator),
                up=0.1 * torch.randn(up, generator=generator),
                alpha=6.0,
            )
    return Adapter(layers)


@pytest.fixture(scope="module")
def sd1(tiny_base: Path) -> Load:
    from diffusers import StableDiffusionPipeline

    return lambda: StableDiffusionPipeline.from_pretrained(tiny_base)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Load:
    from diffusers import StableDiffusionXLPipeline

    folder = make_tiny_sdxl(tmp_path_factory.mktemp("bases") / "xl")
    return lambda: StableDiffusionXLPipeline.from_pretrained(folder)


def drawn_here(load: Load, parts: tuple[str, ...]) -> tuple[Adapter, np.ndarray]:  # type: ignore[type-arg]
    """The adapter and its picture as attached here; each part has an effect of its own."""
    pipe = load()
    picture, adapter = draw(pipe), lora_on(pipe, parts)
    for part in parts:
        mine = {key: layer for key, layer in adapter.layers.items() if key.startswith(f"{part}.")}
        attach_adapter({part: getattr(pipe, part)}, Adapter(mine))
        before, picture = picture, draw(pipe)
        assert np.abs(picture - before).max() > 5 / 255, part
    return adapter, picture


@pytest.mark.parametrize("file_format", ["kohya", "diffusers"])
def test_sd1_file_with_text_encoder_draws_the_same_in_diffusers(
    tmp_path: Path, sd1: Load, file_format: str
) -> None:
    adapter, expected = drawn_here(sd1, ("unet", "text_encoder"))
    path = write_adapter(tmp_path / "a.safetensors", adapter, file_format=file_format, family=SD1)  # type: ignore[arg-type]
    pipe = sd1()
    pipe.load_lora_weights(str(path))
    assert np.abs(draw(pipe) - expected).max() <= ONE_STEP


def test_sd1_peft_folders_draw_the_same_in_peft(tmp_path: Path, sd1: Load) -> None:
    from peft import PeftModel

    adapter, expected = drawn_here(sd1, ("unet", "text_encoder"))
    folder = write_adapter(tmp_path / "a", adapter, file_format="peft", family=SD1)
    pipe = sd1()
    for part in ("unet", "text_encoder"):
        PeftModel.from_pretrained(getattr(pipe, part), folder / part)  # wraps the layers in place
    assert np.abs(draw(pipe) - expected).max() <= ONE_STEP


def test_sdxl_file_with_both_text_encoders_draws_the_same_in_diffusers(tmp_path: Path, sdxl: Load) -> None:
    adapter, expected = drawn_here(sdxl, ("unet", "text_encoder", "text_encoder_2"))
    path = write_adapter(tmp_path / "a.safetensors", adapter, file_format="diffusers", family=SDXL)
    pipe = sdxl()
    pipe.load_lora_weights(str(path))
    assert np.abs(draw(pipe) - expected).max() <= ONE_STEP


def test_diffusers_finds_every_attention_layer_of_our_sdxl_kohya_names(tmp_path: Path) -> None:
    """On SDXL's true block structure with narrow layers: diffusers translates the original block names back."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin as Loader

    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 8, 8),
        layers_per_block=2,
        transformer_layers_per_block=[1, 2, 2],
        cross_attention_dim=16,
        attention_head_dim=2,
        use_linear_projection=True,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
    )
    layers = {
        key: layer for key, layer in lora_on(_Holder(unet), ("unet",)).layers.items() if ".attentions." in key
    }
    path = write_adapter(tmp_path / "a.safetensors", Adapter(layers), family=SDXL)
    state, alphas = Loader.lora_state_dict(str(path), unet_config=unet.config)[:2]
    Loader.load_lora_into_unet(state, alphas, unet)
    for key, layer in layers.items():
        wrapper = unet.get_submodule(key.removeprefix("unet."))
        assert torch.allclose(wrapper.get_delta_weight("default_0"), layer.delta(), atol=1e-6), key


@pytest.mark.parametrize("file_format", ["kohya", "diffusers"])
def test_diffusers_finds_every_layer_of_our_sd2_files(tmp_path: Path, file_format: str) -> None:
    """SD 2's UNet differs from SD 1's in its linear projections and its heads."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=2,
        cross_attention_dim=16,
        attention_head_dim=[1, 2],
        use_linear_projection=True,
        norm_num_groups=4,
    )
    adapter = lora_on(_Holder(unet), ("unet",))
    path = write_adapter(tmp_path / "a.safetensors", adapter, file_format=file_format, family=FAMILIES["sd2"])  # type: ignore[arg-type]
    state, alphas, metadata = Loader.lora_state_dict(
        str(path), unet_config=unet.config, return_lora_metadata=True
    )
    Loader.load_lora_into_unet(state, alphas, unet, metadata=metadata)
    for key, layer in adapter.layers.items():
        wrapper = unet.get_submodule(key.removeprefix("unet."))
        assert torch.allclose(wrapper.get_delta_weight("default_0"), layer.delta(), atol=1e-6), key


class _Holder:
    def __init__(self, unet: torch.nn.Module) -> None:
        self.unet = unet
