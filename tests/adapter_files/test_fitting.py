from pathlib import Path

import pytest
import torch

from detour.adapter_files import check_fits
from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.targets import adaptable_layers
from detour.bases.base import Base, open_base
from detour.errors import AdapterError
from tests.adapter_files.examples import adapter_for, small_adapter
from tests.adapter_files.test_algorithms import whole_unet


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return open_base(str(tiny_base))


def test_adapter_on_every_layer_of_the_base_fits(base: Base) -> None:
    check_fits(adapter_for(adaptable_layers(base.meta_network())), base)
    check_fits(small_adapter(text=True), base)


@pytest.mark.parametrize(("width", "family"), [(768, "sd1"), (1024, "sd2"), (2048, "sdxl")])
def test_adapter_for_another_family_names_both_widths_and_the_family(
    base: Base, width: int, family: str
) -> None:
    with pytest.raises(
        AdapterError, match=rf"adapter 'neon' .*width {width}\).* has 32. Choose .* family '{family}'"
    ):
        check_fits(small_adapter(width=width), base)


def test_adapter_for_an_unknown_width_is_refused_too(base: Base) -> None:
    with pytest.raises(AdapterError, match=r"another base .*width 77.*the base it was made for"):
        check_fits(small_adapter(width=77), base)


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        ("unet.down_blocks.3.resnets.0.conv1", (8, 8), "has no layer 'down_blocks.3"),
        ("unet.conv_out", (9, 4), "maps 9 to 4"),
        ("text_encoder.encoder.layers.5.mlp.fc1", (32, 64), "is layer 6 of a text encoder that has 2"),
        ("text_encoder.encoder.layers.1.mlp.fc1", (32, 32), "maps 32 to 32 features, 32 to 64 here"),
        ("text_encoder_2.encoder.layers.0.mlp.fc1", (32, 64), "'text_encoder_2', a part that"),
    ],
)
def test_layer_that_the_base_has_not_is_named(
    base: Base, key: str, shape: tuple[int, int], words: str
) -> None:
    layer = LoraLayer(down=torch.ones(1, shape[0]), up=torch.ones(shape[1], 1), alpha=1.0)
    with pytest.raises(AdapterError, match=rf"does not fit base.*{words}"):
        check_fits(Adapter({key: layer}), base)


@pytest.mark.parametrize("kind", ["dora", "loha"])
def test_layers_of_other_algorithms_are_held_against_the_base_too(
    base: Base, tiny_base: Path, kind: str
) -> None:
    from diffusers import UNet2DConditionModel

    adapter = whole_unet(UNet2DConditionModel.from_pretrained(tiny_base / "unet"), kind)
    check_fits(adapter, base)
    key = "unet.conv_out" if kind == "loha" else "unet.mid_block.resnets.0.conv1"
    with pytest.raises(AdapterError, match="does not fit base"):
        check_fits(Adapter({key: adapter.layers["unet.conv_in"]}), base)


def test_an_adapter_of_a_part_that_the_base_has_not_is_told_so_by_its_files_name(base: Base) -> None:
    """SD 3's second attention is named as the cross-attention of a UNet is."""
    layer = LoraLayer(down=torch.ones(1, 16), up=torch.ones(16, 1), alpha=1.0)
    adapter = Adapter({"transformer.transformer_blocks.0.attn2.to_k": layer})
    with pytest.raises(AdapterError, match=r"adapter 'a\.safetensors' does not fit .* 'transformer', a part"):
        check_fits(adapter, base, called="a.safetensors")
