"""Adapter, merged adapter and diffusers draw the same pictures; ``measure`` asserts it before it times them."""

from pathlib import Path

from benchmarks.mixed import Setting
from benchmarks.picture_speed import RATIOS, measure

from detour.bases.base import open_base


def test_every_way_is_timed_on_the_same_pictures(tiny_base: Path) -> None:
    found = measure(Setting(open_base(str(tiny_base)), steps=2, num=2, rank=2, targets="attn"), rounds=1)
    assert len(found["ratios"]) == len(RATIOS)
    assert min(found["seconds a picture"].values()) > 0
