import pytest
import torch

from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.blocks import block_of, blocks_in_order, parse_block_weights, weigh_blocks
from detour.adapters.delta import lora_delta
from detour.errors import ConfigError

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


def adapter() -> Adapter:
    layer = LoraLayer(down=torch.ones(2, 3), up=torch.ones(4, 2), alpha=6.0)
    return Adapter(dict.fromkeys(KEYS, layer), {"modelspec.title": "neon"})


def change(adapter: Adapter, key: str) -> float:
    if key not in adapter.layers:
        return 0.0
    layer = adapter.layers[key]
    assert isinstance(layer, LoraLayer)
    return float(lora_delta(layer.down, layer.up, alpha=layer.alpha)[0, 0])


def test_every_layer_stands_in_its_block() -> None:
    assert {key: block_of(key) for key in KEYS} == KEYS


def test_blocks_are_told_the_way_the_latents_go() -> None:
    assert blocks_in_order(KEYS) == [
        "rest", "down.0", "down.10", "mid", "up.1", "up.2", "text_encoder", "text_encoder_2",
    ]  # fmt: skip


def test_a_block_weight_multiplies_the_change_and_the_nearer_name_wins() -> None:
    weighed = weigh_blocks(adapter(), parse_block_weights("up=0.5, up.2=0.25, mid=0, text_encoder=-1"))
    before = 6.0
    expected = {"up.1": 0.5, "up.2": 0.25, "mid": 0.0, "text_encoder": -1.0}
    for key, block in KEYS.items():
        assert change(weighed, key) == before * expected.get(block, 1.0), key
    assert "unet.mid_block.attentions.0.proj_in" not in weighed.layers
    assert weighed.metadata == {"modelspec.title": "neon"}


@pytest.mark.parametrize("text", ["down", "down=", "down=x", "=1", "down=nan", "down=1,down=2", "", ","])
def test_what_is_no_list_of_weights_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_block_weights(text)


def test_a_block_without_layers_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no layers in block 'middle'.*mid"):
        weigh_blocks(adapter(), [("middle", 1.0)])
    with pytest.raises(ConfigError, match=r"up\.7"):
        weigh_blocks(adapter(), [("up.7", 1.0)])


def test_nothing_left_is_refused() -> None:
    one = Adapter({"unet.mid_block.x": LoraLayer(down=torch.ones(1, 2), up=torch.ones(2, 1), alpha=1.0)})
    with pytest.raises(ConfigError, match="nothing would be left"):
        weigh_blocks(one, [("mid", 0.0)])
