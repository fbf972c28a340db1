"""Our names of every layer of the true models against lists made from the published rules."""

from functools import cache
from typing import Any

import pytest
import torch

from detour.adapter_files.fused import join_layers
from detour.adapter_files.names import kohya_key, layer_key
from detour.adapters.adapter import LoraLayer, part_of, path_of
from detour.adapters.targets import adaptable_layers
from detour.bases.base import open_base
from detour.bases.families import FAMILIES
from detour.bases.parts import empty_part
from detour.bases.transformer_names import place_of
from tests.adapter_files.reference_keys import make

UNETS = {"sd1": "sd15", "sd2": "sd21", "sdxl": "sdxl"}


@pytest.mark.parametrize("family", list(make.FAMILIES))
def test_the_kept_lists_are_what_the_rules_give(family: str) -> None:
    assert make.stored(family) == make.names_of(family)
    assert len(set(make.stored(family))) == len(make.stored(family)) > 250


@cache
def keys_of(family: str) -> tuple[str, ...]:
    """Every Linear and convolution of the true classes, text embeddings' projections aside."""
    if family in UNETS:
        base = open_base(UNETS[family])
        models = {part: empty_part(part, base.config(part)) for part in ("unet", *base.family.text_parts)}
    else:
        models = {"transformer": transformer(family)}
    return tuple(
        f"{part}.{layer.path.removeprefix('text_model.')}"
        for part, model in models.items()
        for layer in adaptable_layers(model)
        if layer.path != "text_projection"
    )


def transformer(family: str) -> Any:
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

    with torch.device("meta"):
        if family == "flux":
            return FluxTransformer2DModel(guidance_embeds=True)
        large = family == "sd3.5-large"
        return SD3Transformer2DModel(
            num_layers=38 if large else 24, num_attention_heads=38 if large else 24, attention_head_dim=64,
            caption_projection_dim=2432 if large else 1536, joint_attention_dim=4096, pos_embed_max_size=4,
            dual_attention_layers=() if large else tuple(range(13)), qk_norm="rms_norm",
        )  # fmt: skip


@pytest.mark.parametrize("family", list(UNETS))
def test_every_layer_of_the_true_unet_and_text_encoders_has_its_published_name(family: str) -> None:
    prefixes = FAMILIES[family].kohya_text_prefixes
    names = {kohya_key(key, family=family, text_prefixes=prefixes) for key in keys_of(family)}
    assert names == set(make.stored(family))
    assert {layer_key(name) for name in make.stored(family)} == set(keys_of(family))


@pytest.mark.parametrize("family", ["flux", "sd3.5-medium", "sd3.5-large"])
def test_every_layer_of_the_true_transformers_has_its_published_name(family: str) -> None:
    known = family.partition(".")[0]
    originals = {place_of(known, path_of(key)).name for key in keys_of(family)}  # type: ignore[union-attr]
    names = {kohya_key(f"transformer.{name}", family=known, text_prefixes={}) for name in originals}
    assert names == {name for name in make.stored(family) if name.startswith("lora_unet_")}


@pytest.mark.parametrize("family", ["flux", "sd3.5-medium"])
def test_every_text_layer_of_a_transformer_family_has_its_published_name(family: str) -> None:
    known = FAMILIES[family.partition(".")[0]]  # type: ignore[index]
    for name in (name for name in make.stored(family) if name.startswith("lora_te")):
        key = layer_key(name)
        assert key is not None
        if known.name == "flux" and part_of(key) == "text_encoder_3":
            key = f"text_encoder_2.{path_of(key)}"  # Flux has two, and kohya calls the T5 te3 all the same
        assert kohya_key(key, family=known.name, text_prefixes=known.kohya_text_prefixes) == name


@pytest.mark.parametrize("family", ["sdxl", "flux", "sd3.5-medium"])
def test_the_original_names_with_their_dots_are_the_same_layers(family: str) -> None:
    """As ComfyUI writes and reads them."""
    from detour.adapter_files.kohya import _parse

    for name in make.FAMILIES[family]["lora_unet"]:
        expected = layer_key("lora_unet_" + name.replace(".", "_"))
        assert _parse(f"diffusion_model.{name}.lora_A.weight") == (expected, "down")


def test_joining_uses_the_published_names() -> None:
    layer = LoraLayer(down=torch.ones(1, 4), up=torch.ones(4, 1), alpha=1.0)
    block = "single_transformer_blocks.37"
    joined = join_layers({f"{block}.attn.to_q": layer, f"{block}.proj_out": layer}, "flux")
    assert {f"lora_unet_{name.replace('.', '_')}" for name in joined} <= set(make.stored("flux"))
