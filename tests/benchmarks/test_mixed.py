"""The ways that are timed draw the same pictures; ``measure`` asserts it."""

from pathlib import Path

from benchmarks.mixed import RATIOS, WAYS, Setting, measure, mixed, profile

from detour.bases.base import open_base


def test_every_way_is_timed_on_the_same_pictures_and_phases_add_up(tiny_base: Path) -> None:
    setting = Setting(open_base(str(tiny_base)), steps=1, num=2, rank=2, targets="attn")
    found = measure(setting, rounds=1)
    assert set(found["seconds"]) == set(WAYS)
    assert len(found["ratios"]) == len(RATIOS)
    shares = profile(setting, mixed)
    seconds = shares.pop("seconds")
    assert seconds > 0
    assert sum(shares.values()) > 0.99
    assert {"network", "samplers", "decode"} <= set(shares)
