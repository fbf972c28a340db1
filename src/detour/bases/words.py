"""New words in prompts: where they stand, and their vectors in place of token embeddings.

The vocabulary and the embedding matrix of the base stay as they are. A new word takes n positions of the token
sequence with a placeholder, and a hook on the embedding puts its vectors there. Loading a textual inversion the usual
way adds tokens behind the end token, which CLIP models with the old setting ``eos_token_id = 2`` (SD 1.x and SDXL as
published) then take for the end of the prompt, because they look for the largest number (transformers 5.23).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

PLACEHOLDER = 0
"""Any token that is smaller than the end token."""

WordVectors = Mapping[str, Mapping[str, Tensor]]
"""New word → text part → (n, D)."""


@dataclass(frozen=True)
class Placed:
    """One prompt as tokens, without the marks of beginning and end.

    Attributes:
        ids: of the tokens, the placeholder where a vector of a word stands.
        vectors: position in ``ids`` → (word, which of its vectors).
    """

    ids: tuple[int, ...]
    vectors: Mapping[int, tuple[str, int]]


def word_pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Finds the words, upper or lower case, where they stand alone: ``bob`` is not found in ``bobsled``."""
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile("|".join(_alone(word) for word in longest_first), re.IGNORECASE)


def _alone(word: str) -> str:
    before = r"(?<!\w)" if re.match(r"\w", word) else ""
    after = r"(?!\w)" if re.search(r"\w$", word) else ""
    return before + re.escape(word) + after


def place_words(tokenizer: Any, prompt: str, counts: Mapping[str, int]) -> Placed:
    """Tokens of the text between the words, and ``counts[word]`` placeholders for each word."""
    by_lower = {word.lower(): word for word in counts}
    ids: list[int] = []
    vectors: dict[int, tuple[str, int]] = {}
    end = 0
    for match in word_pattern(list(counts)).finditer(prompt) if counts else ():
        ids += _plain(tokenizer, prompt[end : match.start()])
        word = by_lower[match.group().lower()]
        for index in range(counts[word]):
            vectors[len(ids)] = (word, index)
            ids.append(PLACEHOLDER)
        end = match.end()
    return Placed((*ids, *_plain(tokenizer, prompt[end:])), vectors)


def _plain(tokenizer: Any, text: str) -> list[int]:
    text = text.strip()
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids) if text else []


def padded(tokenizer: Any, ids: Sequence[int], length: int) -> list[int]:
    """With the marks of beginning and end, cut or filled up to ``length``, as the tokenizer itself does it."""
    whole = [tokenizer.bos_token_id, *ids[: length - 2], tokenizer.eos_token_id]
    return whole + [tokenizer.pad_token_id] * (length - len(whole))


@contextmanager
def vectors_in(model: Any, places: Sequence[tuple[int, int]], vectors: Sequence[Tensor]) -> Iterator[None]:
    """Let the token embedding answer with ``vectors`` at (row, position) inside the block; gradients reach them.

    Args:
        model: a CLIP text model.
        places: of each vector.
        vectors: (D,) each.
    """
    embedding: nn.Module = model.get_input_embeddings()
    rows, columns = (torch.tensor(numbers) for numbers in zip(*places, strict=True))

    def put(_: nn.Module, __: Any, embedded: Tensor) -> Tensor:
        where = (rows.to(embedded.device), columns.to(embedded.device))
        return embedded.index_put(where, torch.stack(list(vectors)).to(embedded))

    handle = embedding.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()
