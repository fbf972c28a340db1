"""The tokenizer that is written by hand."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from detour.pocket.pretrain.tokenizer import learn_merges, write_tokenizer

CAPTIONS = ["a red house in the desert", "a blue house beside a red cat", "the cat in the desert"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), CAPTIONS)


def test_words_of_the_captions_are_one_token_each(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("a red house in the desert").input_ids
    assert len(ids) == 6 + 2
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(min_size=1, max_size=12))
def test_every_string_has_a_spelling(tokenizer: CLIPTokenizer, text: str) -> None:
    """Unseen characters are bytes, not the end of the text."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.eos_token_id not in ids or "<|endoftext|>" in text
    plain = "".join(text.split()).lower()
    if plain.isascii() and plain.isprintable():
        assert "".join(tokenizer.decode(ids).split()) == plain


@given(text=st.text(alphabet="äöüßéñ漢字кириллица🎨", min_size=1, max_size=8))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_other_scripts_come_back_unchanged(tokenizer: CLIPTokenizer, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert "".join(tokenizer.decode(ids).split()) == text


def test_the_length_is_the_one_of_the_text_tower(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("a " * 200, padding="max_length", truncation=True).input_ids
    assert len(ids) == tokenizer.model_max_length == 77


def test_learning_is_the_same_whatever_the_order_of_captions() -> None:
    assert learn_merges(CAPTIONS, max_merges=50) == learn_merges(CAPTIONS[::-1], max_merges=50)


def test_files_are_those_that_other_tools_read(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, CAPTIONS)
    assert {"vocab.json", "merges.txt", "tokenizer_config.json"} <= {path.name for path in tmp_path.iterdir()}
