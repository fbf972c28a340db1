"""Safe Latent Diffusion as a further row of the batch: beside others, and the same alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detour.bases.base import open_base
from detour.diffusion.safe_latent import safe_guidance
from detour.generation.engine import PictureEngine, PictureRequest
from detour.specs.generation import PictureSpec


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> PictureEngine:
    return PictureEngine.load(open_base(str(tiny_base)))


def test_it_is_a_row_of_its_own_and_its_neighbours_do_not_notice(engine: PictureEngine) -> None:
    how = PictureSpec(steps=12, guidance_scale=5.0)
    plain = PictureRequest(prompt="a house", seed=3, how=how, width_class=8)
    safe = replace(plain, guidance=safe_guidance("strong"), further_texts=("blood",))
    alone = [engine.submit(one).result().pixels for one in (plain, safe)]
    with engine.paused():
        handles = [engine.submit(one) for one in (plain, safe)]
    together = [one.result(60).pixels for one in handles]
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(*alone)
    # Drawn again, the momentum of the first drawing must not be there.
    assert np.array_equal(engine.submit(safe).result().pixels, alone[1])
