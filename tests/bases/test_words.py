"""New words in prompts: found where they stand alone, and put in without touching the base's own rows."""

from pathlib import Path

import pytest
import torch

from detour.adapters.gradient_proof import hash_base
from detour.bases.base import open_base
from detour.bases.text import TextStage
from detour.bases.words import word_pattern
from detour.errors import AdapterError


@pytest.fixture
def stage(tiny_base: Path) -> TextStage:
    return open_base(str(tiny_base)).load_text()


def embedding(stage: TextStage, text: str) -> torch.Tensor:
    ids = stage.tokenizers["text_encoder"](text, add_special_tokens=False).input_ids
    weights: torch.Tensor = stage.models["text_encoder"].get_input_embeddings().weight  # type: ignore[operator]
    return weights.detach()[ids].clone()


def test_a_word_with_the_vectors_of_a_known_one_changes_nothing(stage: TextStage) -> None:
    plain = stage.encode(["a robot in town", "robot"]).states
    knowing = stage.knowing({"<bob>": {"text_encoder": embedding(stage, "robot")}})
    assert torch.equal(knowing.encode(["a <bob> in town", "<BOB>"]).states, plain)
    with_word = stage.encode(["a <bob> in town"]).states
    assert not torch.equal(with_word, plain[:1])  # to the stage itself it is three signs and a name


def test_gradients_reach_the_vectors_and_nothing_else(stage: TextStage) -> None:
    before = hash_base(stage.models["text_encoder"])
    vectors = embedding(stage, "ab").requires_grad_(True)
    knowing = stage.knowing({"<bob>": {"text_encoder": vectors}})
    knowing.encode_together(["one <bob>, two <bob>", "none"]).states[0].square().sum().backward()
    assert vectors.grad is not None
    assert (vectors.grad.abs().sum(1) > 0).all()
    assert all(p.grad is None for p in stage.models["text_encoder"].parameters())
    assert hash_base(stage.models["text_encoder"]) == before


def test_a_word_is_found_where_it_stands_alone() -> None:
    pattern = word_pattern(["bob", "<bob>", "bobby"])
    assert pattern.findall("bob, Bobby and bobsled <bob>x") == ["bob", "Bobby", "<bob>"]


def test_a_word_at_the_cut_loses_the_vectors_that_do_not_fit(stage: TextStage) -> None:
    vectors = embedding(stage, "abcd")
    knowing = stage.knowing({"<bob>": {"text_encoder": vectors}})
    assert knowing.encode(["x" * 73 + " <bob>"]).states.shape == (1, 77, 32)
    assert knowing.too_long(["x" * 71 + " <bob>", "x" * 72 + " <bob>"]) == ["x" * 72 + " <bob>"]
    plain = knowing.encode(["x" * 75]).states
    assert torch.equal(knowing.encode(["x" * 75 + " <bob>"]).states, plain)


def test_two_adapters_cannot_have_one_word(stage: TextStage) -> None:
    words = {"<bob>": {"text_encoder": embedding(stage, "a")}}
    with pytest.raises(AdapterError, match="'<BOB>'"):
        stage.knowing(words).knowing({"<BOB>": words["<bob>"]})
