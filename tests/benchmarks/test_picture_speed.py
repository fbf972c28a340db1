"""Adapter, merged adapter and diffusers draw the same pictures; ``measure`` asserts it before it times them."""

from pathlib import Path

import pytest
from benchmarks.mixed import Setting
from benchmarks.picture_speed import RATIOS, RandomSetting, measure
from benchmarks.shapes import SHAPES

from detour.bases.base import open_base


def test_every_way_is_timed_on_the_same_pictures(tiny_base: Path) -> None:
    found = measure(Setting(open_base(str(tiny_base)), steps=2, num=2, rank=2, targets="attn"), rounds=1)
    assert len(found["ratios"]) == len(RATIOS)
    assert min(found["seconds a picture"].values()) > 0


@pytest.mark.slow
def test_random_weights_of_a_shape_are_drawn_alike_and_held_once() -> None:
    setting = RandomSetting(
        open_base("sd15", weights=False),
        steps=1,
        num=1,
        rank=2,
        targets="attn",
        shape=SHAPES["half"](),
        size_px=64,
    )
    found = measure(setting, rounds=1)
    assert set(found["seconds a picture"]) == {"plain", "adapter", "diffusers", "diffusers, adapter"}
    assert setting.network().conv_in.weight.data_ptr() == setting.engine.unet.conv_in.weight.data_ptr()
