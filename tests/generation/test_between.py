"""Between two pictures: the ends are those pictures to the bit, and the way lies where it should."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from detour.bases.base import open_base
from detour.bases.text import Conditioning
from detour.errors import ConfigError
from detour.generation.between import Toward, between_texts, spherical
from detour.generation.engine import PictureEngine, PictureRequest
from detour.specs.generation import PictureSpec
from tests.tiny_base import make_tiny_sdxl

HOW = PictureSpec(steps=2, scheduler="ddim", guidance_scale=5.0)


def test_on_the_unit_circle_the_share_is_the_angle() -> None:
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    for share in (0.1, 0.25, 0.5, 0.9):
        angle = share * math.pi / 2
        expected = torch.tensor([math.cos(angle), math.sin(angle)])
        assert torch.allclose(spherical(first, second, share), expected, atol=1e-7)


def test_noise_in_between_has_the_norm_of_noise_where_the_line_has_less() -> None:
    first, second = (
        torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)
    )
    norms = [float(spherical(first, second, share).std()) for share in (0.25, 0.5, 0.75)]
    assert all(abs(norm - 1) < 0.05 for norm in norms)
    assert float(torch.lerp(first, second, 0.5).std()) < 0.8


def test_the_ends_are_the_noises_themselves_and_equal_ones_stay() -> None:
    first, second = torch.randn(3, 5), torch.randn(3, 5)
    assert torch.equal(spherical(first, second, 0.0), first)
    assert torch.equal(spherical(first, second, 1.0), second)
    assert torch.allclose(spherical(first, first.clone(), 0.3), first)
    assert torch.isfinite(spherical(first, -first, 0.5)).all()


def test_text_states_lie_on_the_line_and_a_shorter_prompt_is_filled_up() -> None:
    short = Conditioning(torch.ones(1, 2, 3), torch.zeros(1, 4))
    long = Conditioning(3 * torch.ones(1, 4, 3), torch.ones(1, 4))
    middle = between_texts(short, long, 0.5)
    assert torch.equal(middle.states[0, :, 0], torch.tensor([2.0, 2.0, 1.5, 1.5]))
    assert middle.pooled is not None
    assert torch.equal(middle.pooled, torch.full((1, 4), 0.5))
    assert middle.mask is not None
    assert middle.mask.all()
    assert between_texts(short, long, 0.0) is short
    assert between_texts(short, long, 1.0) is long


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_is_from_0_to_1(share: float) -> None:
    with pytest.raises(ConfigError, match="from 0 to 1"):
        Toward(share=share)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_ends_are_the_two_pictures_to_the_byte(family: str, tiny_base: Path, tmp_path: Path) -> None:
    folder = tiny_base if family == "sd1" else make_tiny_sdxl(tmp_path / "sdxl")
    engine = PictureEngine.load(open_base(str(folder)))

    def drawn(prompt: str, seed: int, toward: Toward | None = None) -> np.ndarray:
        request = PictureRequest(prompt=prompt, seed=seed, how=HOW, toward=toward)
        return engine.draw([request]).pictures

    first, second = drawn("a red house", 1), drawn("a blue cat", 2)
    ends = [drawn("a red house", 1, Toward(share=s, prompt="a blue cat", seed=2)) for s in (0.0, 0.5, 1.0)]
    assert np.array_equal(ends[0], first)
    assert np.array_equal(ends[2], second)
    assert not np.array_equal(ends[1], first)
    assert not np.array_equal(ends[1], second)
    same_seed = drawn("a red house", 1, Toward(share=1.0, prompt="a blue cat"))
    assert np.array_equal(same_seed, drawn("a blue cat", 1))
    same_prompt = drawn("a red house", 1, Toward(share=1.0, seed=2))
    assert np.array_equal(same_prompt, drawn("a red house", 2))
