import pytest
import torch

from detour.adapters.blocks import (
    KINDS_IN_ORDER,
    block_of,
    blocks_in_order,
    kind_of,
    parse_block_weights,
    weigh_layer,
    weight_of_blocks,
)
from detour.adapters.layers import DoraLayer
from detour.errors import AdapterError, ConfigError
from tests.adapters.kinds import EVERY, IDS

KEYS = {
    "unet.down_blocks.0.attentions.0.proj_in": "down.0",
    "unet.down_blocks.10.attentions.0.proj_in": "down.10",
    "unet.mid_block.attentions.0.proj_in": "mid",
    "unet.up_blocks.1.resnets.0.conv1": "up.1",
    "unet.up_blocks.2.resnets.0.conv1": "up.2",
    "unet.conv_in": "rest",
    "unet.time_embedding.linear_1": "rest",
    "text_encoder.encoder.layers.0.mlp.fc1": "text_encoder",
    "text_encoder_2.encoder.layers.0.mlp.fc1": "text_encoder_2",
}
FLUX = {
    "transformer.x_embedder": "rest",
    "transformer.transformer_blocks.2.attn.to_q": "block.2",
    "transformer.single_transformer_blocks.10.proj_out": "single.10",
}


def test_every_layer_stands_in_its_block() -> None:
    assert {key: block_of(key) for key in KEYS | FLUX} == KEYS | FLUX
    assert blocks_in_order(FLUX) == ["rest", "block.2", "single.10"]


def test_blocks_are_told_the_way_the_latents_go() -> None:
    assert blocks_in_order(KEYS) == [
        "rest", "down.0", "down.10", "mid", "up.1", "up.2", "text_encoder", "text_encoder_2",
    ]  # fmt: skip


def test_the_nearer_name_of_a_block_wins() -> None:
    found = weight_of_blocks(KEYS, parse_block_weights("up=0.5, up.2=0.25, mid=0, text_encoder=-1"))
    expected = {"up.1": 0.5, "up.2": 0.25, "mid": 0.0, "text_encoder": -1.0}
    assert found == {key: expected.get(block, 1.0) for key, block in KEYS.items()}


@pytest.mark.parametrize(("name", "make", "shape"), EVERY, ids=IDS)
def test_a_weight_multiplies_the_change_of_every_kind_but_dora(name, make, shape) -> None:  # type: ignore[no-untyped-def]
    layer = make(shape)
    assert weigh_layer("unet.x", layer, 1.0) is layer
    if isinstance(layer, DoraLayer):
        with pytest.raises(AdapterError, match=r"unet\.x.*dora"):
            weigh_layer("unet.x", layer, 0.5)
        return
    torch.testing.assert_close(weigh_layer("unet.x", layer, -0.5).delta(), -0.5 * layer.delta())


def test_every_layer_has_a_kind_that_pictures_know() -> None:
    kinds = {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0": "self out",
        "unet.up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": "cross k",
        "unet.mid_block.attentions.0.transformer_blocks.3.ff.net.0.proj": "feed-forward",
        "unet.mid_block.attentions.0.proj_in": "in/out",
        "unet.mid_block.resnets.0.time_emb_proj": "time",
        "unet.mid_block.resnets.0.conv_shortcut": "conv",
        "unet.time_embedding.linear_1": "other",
        "text_encoder.encoder.layers.0.self_attn.q_proj": "self q",
        "text_encoder.encoder.layers.0.mlp.fc1": "feed-forward",
        "transformer.transformer_blocks.0.attn.to_add_out": "attn out",
        "transformer.transformer_blocks.0.norm1.linear": "other",
    }
    assert {key: kind_of(key) for key in kinds} == kinds
    assert set(kinds.values()) <= set(KINDS_IN_ORDER)


@pytest.mark.parametrize("text", ["down", "down=", "down=x", "=1", "down=nan", "down=1,down=2", "", ","])
def test_what_is_no_list_of_weights_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_block_weights(text)


def test_a_block_without_layers_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no layers in block 'middle'.*mid"):
        weight_of_blocks(KEYS, [("middle", 1.0)])
    with pytest.raises(ConfigError, match=r"up\.7"):
        weight_of_blocks(KEYS, [("up.7", 1.0)])


def test_nothing_left_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing would be left"):
        weight_of_blocks(["unet.mid_block.x"], [("mid", 0.0)])
