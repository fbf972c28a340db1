from pathlib import Path

import pytest
import torch

from detour.bases.base import open_base
from detour.bases.parts import clip_tokenizer
from detour.bases.text import Conditioning, TextStage


@pytest.fixture(scope="module")
def text(tiny_base: Path) -> TextStage:
    return open_base(str(tiny_base)).load_text()


def test_states_do_not_depend_on_neighbours_order_or_repeats(text: TextStage) -> None:
    alone = text.encode(["a red house"]).states
    among = text.encode(["a blue cat", "a red house", "a blue cat", "a red house"]).states
    assert among.shape == (4, 77, 32)
    assert torch.equal(among[1], alone[0])
    assert torch.equal(among[3], alone[0])
    assert torch.equal(among[0], among[2])
    assert not torch.equal(among[0], among[1])


def test_unconditional_text_of_sd1_is_the_empty_prompt(text: TextStage) -> None:
    assert torch.equal(text.unconditional(2).states, text.encode(["", ""]).states)


def test_padding_reaches_the_states_as_the_pipeline_pads(text: TextStage) -> None:
    tokenizer, model = text.tokenizers["text_encoder"], text.models["text_encoder"]
    ids = tokenizer("a red house", padding="max_length", max_length=77, return_tensors="pt").input_ids
    assert torch.equal(text.encode(["a red house"]).states, model(ids)[0])


def test_too_long_prompts_are_named_once(text: TextStage) -> None:
    exact, longer = "x " * 75, "x " * 76
    assert text.too_long([exact, longer, "short", longer]) == [longer]
    assert text.encode([longer]).states.shape == (1, 77, 32)


def test_no_prompts_give_no_states(text: TextStage) -> None:
    assert text.encode([]).states.shape == (0, 77, 32)


def test_conditioning_selects_and_joins_both_of_its_tensors() -> None:
    both = Conditioning(torch.arange(6.0).reshape(3, 2, 1), torch.arange(3.0).reshape(3, 1))
    picked = both.select([2, 0, 2])
    assert picked.states[:, 0, 0].tolist() == [4, 0, 4]
    assert picked.pooled is not None
    assert picked.pooled[:, 0].tolist() == [2, 0, 2]
    joined = both.select(slice(0, 1)).cat(picked)
    assert len(joined) == 4
    assert joined.pooled is not None
    assert joined.pooled[:, 0].tolist() == [0, 2, 0, 2]
    assert both.to(dtype=torch.float16).states.dtype == torch.float16


def test_shipped_merges_make_clips_own_tokens() -> None:
    """Ids as published with CLIP: 'a photo of an astronaut riding a horse' of the Stable Diffusion
    examples.
    """
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49_408
    ids = tokenizer("a photo of an astronaut riding a horse").input_ids
    assert ids == [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 49407]
    assert tokenizer.model_max_length == 77
    assert tokenizer("x", padding="max_length").input_ids[-1] == 49407
