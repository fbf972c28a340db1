"""What the judge of an embedded base reads in the pictures of a distilled adapter."""

import numpy as np
import pytest

from detour.bases.base import open_base
from detour.pocket.world import HOUSE, compose_scene, held_out_prompts, render
from detour.verbs.train.distilled_proof import PROMPT_SEED, _Reader


def test_what_is_kept_is_counted_among_what_the_base_gets_right() -> None:
    scenes = tuple(held_out_prompts(4, seed=PROMPT_SEED))
    reader = _Reader(open_base("pocket"), scenes)
    right = np.stack([render(one.scene, HOUSE) for one in scenes])
    # Colour and place of the prompt, and another object: wrong in one slot.
    others = [
        render(compose_scene(seed=i, things=[(_other(one.object), one.colour)], place=one.place), HOUSE)
        for i, one in enumerate(scenes)
    ]
    half = np.stack([*right[:2], *others[2:]])
    seen = reader.figures(right, right)
    assert seen["right"] == seen["kept"] == {"object": 1.0, "colour": 1.0, "place": 1.0}
    assert seen["to_true"] == pytest.approx(0, abs=1e-6)
    lost = reader.figures(half, right)
    assert lost["right"] == lost["kept"] == {"object": 0.5, "colour": 1.0, "place": 1.0}
    # The base draws two objects wrong: those that it draws right are kept, all of them.
    poor = reader.figures(half, half)
    assert poor["right"] == {"object": 0.5, "colour": 1.0, "place": 1.0}
    assert poor["kept"] == {"object": 1.0, "colour": 1.0, "place": 1.0}
    assert reader.floor is not None
    assert reader.floor > 0


def test_without_scenes_nothing_is_read() -> None:
    reader = _Reader(open_base("pocket"), ())
    pictures = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    assert reader.figures(pictures, pictures) == {}
    assert reader.floor is None


def _other(thing: str) -> str:
    return "car" if thing != "car" else "star"
