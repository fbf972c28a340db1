"""Several adapters on one model, each beside layers of its own."""

import torch
from torch import nn

from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.attach import attach_adapter


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))


def on_layer(index: int) -> Adapter:
    generator = torch.Generator().manual_seed(index)
    layer = LoraLayer(
        down=torch.randn(1, 3, generator=generator), up=torch.randn(3, 1, generator=generator), alpha=1.0
    )
    return Adapter({f"unet.{index}": layer})


def test_an_adapter_beside_other_layers_leaves_the_first_one_active() -> None:
    parts = {"unet": model()}
    first, second = on_layer(0), on_layer(1)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(9))
    expected = x
    for index, adapter in enumerate((first, second)):
        weight = parts["unet"].get_submodule(str(index)).weight
        expected = expected @ (weight + adapter.layers[f"unet.{index}"].delta()).T
    attached = [attach_adapter(parts, first, name="a"), attach_adapter(parts, second, name="b")]
    torch.testing.assert_close(parts["unet"](x), expected)
    with attached[0].disabled():
        assert not torch.allclose(parts["unet"](x), expected)
        third = attach_adapter(parts, on_layer(1), name="c")
        third.detach()
        assert list(parts["unet"].get_submodule("0").active_adapters) == []
