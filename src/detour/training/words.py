"""New words that are trained beside the adapter: checked, started from words that the base knows, and grouped."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from detour.bases.text import TextStage
from detour.bases.words import word_pattern
from detour.errors import ConfigError
from detour.specs import RunSpec, TokensSpec
from detour.training.batches import BatchPlan, captions_shown
from detour.training.cache import TrainingData

if TYPE_CHECKING:
    from detour.bases.base import Base

MOST_STEPS_LOOKED_AT = 10_000
"""More than any epoch of few pictures; a word may stand in one caption of many."""

MOST_VECTORS = 32
"""A prompt has 75 places; a word that takes half of them leaves no room for what else is asked."""


def check_words(base: "Base", spec: RunSpec, captions: Sequence[str]) -> None:
    """Refuse words that the base knows, that no caption has, or that a file cannot name.

    Raises:
        ConfigError: names the word and what to do.
    """
    tokens = spec.adapter.tokens
    if not tokens.words:
        return
    if base.family.t5_part in base.text_parts:
        raise ConfigError(
            f"adapter.tokens.words: new words are for CLIP's text encoders, and base '{base.name}' reads prompts with "
            "a T5 too, in which they are not trained. Leave --new-word out, and use a rare word as --trigger."
        )
    if len(tokens.init) != len(tokens.words):
        raise ConfigError(
            f"adapter.tokens has {len(tokens.words)} words and {len(tokens.init)} words to start from. "
            "Give one for each: --new-word '<bob>=robot'."
        )
    if tokens.vectors > MOST_VECTORS:
        raise ConfigError(
            f"adapter.tokens.vectors is {tokens.vectors}; {MOST_VECTORS} at most fit in a prompt."
        )
    if len({word.lower() for word in tokens.words}) < len(tokens.words):
        raise ConfigError("adapter.tokens.words has a word twice; upper and lower case are the same.")
    tokenizers = base.load_tokenizers()
    for word, start in zip(tokens.words, tokens.init, strict=True):
        _check_word(word, start, tokenizers, base.name)
        if not any(word_pattern([word]).search(caption) for caption in captions):
            raise ConfigError(
                f"no caption has the word '{word}' by itself, so its vectors would never be used. Write it into "
                f"the captions, or set --trigger '{word}'."
            )


def _check_word(word: str, start: str, tokenizers: Mapping[str, Any], base: str) -> None:
    if not re.fullmatch(r"[^\s.,]{1,80}", word):
        raise ConfigError(
            f"adapter.tokens: '{word}' has a blank, a point or a comma in it. Use one like '<bob>'."
        )
    for tokenizer in tokenizers.values():
        if len(_ids(tokenizer, word)) == 1:
            raise ConfigError(
                f"adapter.tokens: '{word}' is a word of base '{base}' already, and its own vector must not change. "
                f"Use another, e.g. '<{word}>'."
            )
        if not _ids(tokenizer, start):
            raise ConfigError(f"adapter.tokens: '{word}' starts from an empty word. Name one, e.g. 'robot'.")


def new_vectors(stage: TextStage, tokens: TokensSpec) -> dict[str, dict[str, nn.Parameter]]:
    """Make vectors for each word and text part that start as the embeddings of the word that was named.

    One vector starts at the mean where that word is several tokens; more vectors take its tokens in turn.

    Returns:
        word → part → (n, D) float32, trainable, on the encoder's device.
    """
    return {
        word: {
            part: nn.Parameter(_start(model, stage.tokenizers[part], start, tokens.vectors))
            for part, model in stage.models.items()
        }
        for word, start in zip(tokens.words, tokens.init, strict=True)
    }


def steps_with_words(plan: BatchPlan, data: TrainingData, words: Sequence[str]) -> list[int]:
    """Step 0, and the first steps whose first micro-batches have the words that it has not.

    The proof of the gradients looks at few samples, and a word that none of them has gets no gradient.
    """
    steps, missing = [0], set(words)
    shown = 0
    while missing and shown < MOST_STEPS_LOOKED_AT:
        captions = captions_shown(plan, data, shown, 0)
        found = {word for word in missing if any(word_pattern([word]).search(one) for one in captions)}
        steps += [shown] if found and shown else []
        missing -= found
        shown += 1
    return steps


def _start(model: Any, tokenizer: Any, start: str, count: int) -> Tensor:
    known: Tensor = model.get_input_embeddings().weight.detach()
    rows = known[torch.tensor(_ids(tokenizer, start), device=known.device)].float()
    if count < len(rows):
        return rows.mean(0, keepdim=True).repeat(count, 1)
    return rows[torch.arange(count, device=rows.device) % len(rows)].clone()


def _ids(tokenizer: Any, text: str) -> list[int]:
    return (
        list(tokenizer(text.strip(), add_special_tokens=False, verbose=False).input_ids)
        if text.strip()
        else []
    )
