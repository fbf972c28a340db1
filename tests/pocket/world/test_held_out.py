"""The neighbourhood rule around held-out styles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detour.pocket.world import HELD_OUT, HOUSE, NAMED_STYLES, random_style, style_words


def test_at_least_four_of_the_named_styles_are_held_out() -> None:
    assert len(NAMED_STYLES) >= 6
    assert len(HELD_OUT.styles) >= 4
    assert set(HELD_OUT.styles) <= set(NAMED_STYLES)
    assert set(HELD_OUT.regions) == set(HELD_OUT.styles)


@pytest.mark.parametrize("name", HELD_OUT.styles)
def test_a_held_out_style_lies_in_its_own_region(name: str) -> None:
    assert any(region.contains(NAMED_STYLES[name]) for region in HELD_OUT.regions[name])


@pytest.mark.parametrize("name", HELD_OUT.styles)
def test_small_changes_of_a_held_out_style_stay_held_out(name: str) -> None:
    style = NAMED_STYLES[name]
    for factor in (0.9, 1.1):
        near = replace(
            style,
            outline_px=style.outline_px * factor,
            softness_px=style.softness_px * factor,
            wobble_px=style.wobble_px * factor,
            saturation=style.saturation * factor,
            texture_amount=style.texture_amount * factor,
            paper=style.paper * factor,
        )
        assert HELD_OUT.style_of(near) is not None


def test_house_and_the_other_named_styles_are_not_held_out() -> None:
    assert HELD_OUT.style_of(HOUSE) is None
    for name in set(NAMED_STYLES) - set(HELD_OUT.styles):
        assert HELD_OUT.style_of(NAMED_STYLES[name]) is None


def test_random_styles_reach_parts_of_held_out_styles_but_not_their_sum() -> None:
    rng = np.random.default_rng(0)
    styles = [random_style(rng) for _ in range(3000)]
    assert any(s.ink == "black" and s.outline_px >= 2.5 for s in styles)
    assert any(s.texture == "dots" and s.texture_amount >= 0.7 for s in styles)
    assert any(s.softness_px >= 1.8 for s in styles)
    assert any(s.paper >= 0.3 for s in styles)
    assert not any(s.ink == "black" and s.outline_px >= 1.2 and s.texture == "dots" for s in styles)
    assert not any(s.softness_px >= 1.8 and s.paper >= 0.3 for s in styles)
    assert all(style_words(s) for s in styles)
