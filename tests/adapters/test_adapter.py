import pytest
import torch

from detour.adapters.adapter import LoraLayer, part_of, path_of
from detour.errors import ShapeMismatch
from tests.adapters.small_model import random_adapter


def test_layer_knows_rank_scale_and_widths() -> None:
    layer = LoraLayer(down=torch.ones(2, 3, 3, 3), up=torch.ones(8, 2, 1, 1), alpha=1.0)
    assert (layer.rank, layer.scale, layer.in_features, layer.out_features) == (2, 0.5, 3, 8)
    assert layer.kernel == (3, 3)
    assert layer.num_parameters == 2 * 27 + 16


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ((2, 3), (4, 3)),
        ((2, 3), (4, 2, 1, 1)),
        ((2, 3, 1, 1), (4, 2, 3, 3)),
        ((2,), (2, 2)),
        ((0, 3), (4, 0)),
    ],
)
def test_factors_that_make_no_layer_are_refused(down: tuple[int, ...], up: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatch):
        LoraLayer(down=torch.ones(down), up=torch.ones(up), alpha=1.0)


def test_adapter_sums_up_its_layers() -> None:
    adapter = random_adapter()
    assert adapter.parts == ("unet",)
    assert adapter.ranks == (2, 3, 4)
    assert adapter.num_parameters == (54 + 16) + 64 + 64 + (24 + 18)


def test_key_splits_into_part_and_path() -> None:
    assert part_of("text_encoder_2.encoder.layers.0.mlp.fc1") == "text_encoder_2"
    assert path_of("text_encoder_2.encoder.layers.0.mlp.fc1") == "encoder.layers.0.mlp.fc1"
