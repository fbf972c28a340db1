"""Prompts to what conditions the UNet."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detour.bases.families import Family
from detour.bases.words import Placed, WordVectors, padded, place_words, vectors_in, word_pattern
from detour.errors import AdapterError


@dataclass(frozen=True)
class Conditioning:
    """What the UNet reads of N prompts.

    Attributes:
        states: (N, L, D) hidden states of the text encoders, joined along D where a family has two.
        pooled: (N, P) pooled state, SDXL only.
        mask: (N, L) bool, which states are read; ``None``: all. Only prompts of several windows have one.
    """

    states: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None

    def __len__(self) -> int:
        return self.states.shape[0]

    def select(self, indices: Tensor | Sequence[int] | slice) -> Conditioning:
        """The prompts at ``indices``, in that order, repeats allowed."""
        picked = (
            indices
            if isinstance(indices, Tensor | slice)
            else torch.as_tensor(list(indices), dtype=torch.long)
        )
        return Conditioning(
            self.states[picked],
            None if self.pooled is None else self.pooled[picked],
            None if self.mask is None else self.mask[picked],
        )

    def cat(self, other: Conditioning) -> Conditioning:
        """These prompts, then the other's; the shorter ones get states that are not read."""
        pooled = None
        if self.pooled is not None and other.pooled is not None:
            pooled = torch.cat([self.pooled, other.pooled])
        length = max(self.states.shape[1], other.states.shape[1])
        mine, others = self._as_long_as(length), other._as_long_as(length)
        states = torch.cat([mine.states, others.states])
        if mine.mask is None and others.mask is None:
            return Conditioning(states, pooled)
        return Conditioning(states, pooled, torch.cat([mine._read(), others._read()]))

    def _as_long_as(self, length: int) -> Conditioning:
        missing = length - self.states.shape[1]
        if not missing:
            return self
        states = torch.nn.functional.pad(self.states, (0, 0, 0, missing))
        return Conditioning(states, self.pooled, torch.nn.functional.pad(self._read(), (0, missing)))

    def _read(self) -> Tensor:
        if self.mask is not None:
            return self.mask
        return torch.ones(self.states.shape[:2], dtype=torch.bool, device=self.states.device)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """On another device or in another dtype."""
        pooled = None if self.pooled is None else self.pooled.to(device=device, dtype=dtype)
        mask = None if self.mask is None else self.mask.to(device=device)
        return Conditioning(self.states.to(device=device, dtype=dtype), pooled, mask)


class TextStage:
    """The tokenizers and text encoders of a base, frozen.

    Attributes:
        models: text part → encoder (an ``nn.Module``), for adapters that reach into the text.
    """

    def __init__(
        self, family: Family, tokenizers: Mapping[str, Any], models: Mapping[str, nn.Module]
    ) -> None:
        self.family = family
        self.tokenizers = dict(tokenizers)
        self.models = dict(models)
        self.words: WordVectors = {}
        """New word → text part → its vectors, (n, D); prompts that have the word use them."""

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Hidden states of each prompt, (N, 77, D), in the encoders' dtype.

        Each distinct prompt is encoded once and by itself, so that its states do not depend on its
        neighbours.
        """
        distinct = list(dict.fromkeys(prompts))
        rows = {prompt: self.encode_together([prompt]) for prompt in distinct}
        if not distinct:
            return self.encode_together([""]).select([])
        states = torch.cat([rows[prompt].states for prompt in prompts])
        pooled = [row for prompt in prompts if (row := rows[prompt].pooled) is not None]
        return Conditioning(states, torch.cat(pooled) if pooled else None)

    def encode_together(self, prompts: Sequence[str]) -> Conditioning:
        """States of the prompts, (N, 77, D), in one pass of each encoder, with a graph where something asks for one.

        A prompt's states depend on its neighbours by rounding, so finished pictures take :meth:`encode`.
        """
        states, pooled = [], None
        for part in self.models:
            of_part, of_pooled = self._run(part, *self._tokens(part, prompts))
            states.append(of_part)
            pooled = of_pooled if of_pooled is not None else pooled
        return Conditioning(torch.cat(states, dim=-1), pooled)

    def tokens(self, part: str, text: str) -> Placed:
        """Tokens of a piece of a prompt for one encoder, without the marks of beginning and end, uncut."""
        if self._has_words([text]):
            return place_words(self.tokenizers[part], text, self._counts(part))
        return place_words(self.tokenizers[part], text, {})

    @torch.no_grad()
    def encode_window(self, part: str, window: Placed) -> tuple[Tensor, Tensor | None]:
        """One encoder's states of a window of tokens, (1, 77, D), and its pooled state, (1, P), where one is read.

        Args:
            part: whose encoder.
            window: 75 tokens at most (the encoder's length without the marks of beginning and end).
        """
        assert len(window.ids) <= self.window_tokens, "windows are cut by whoever reads the prompt"
        return self._run(part, *self._placed_ids(part, [window]))

    @property
    def window_tokens(self) -> int:
        """Tokens that every encoder reads at once, without the marks of beginning and end: 75."""
        return min(self._length(part) for part in self.models) - 2

    def unconditional(self, num: int) -> Conditioning:
        """What guidance steers away from and a dropped caption becomes, N times: the family's own choice.

        SD 1 and 2 encode the empty prompt; SDXL base uses zeros (``force_zeros_for_empty_prompt``).
        """
        empty = self.encode([""])
        if self.family.uncond == "zeros":
            pooled = None if empty.pooled is None else torch.zeros_like(empty.pooled)
            empty = Conditioning(torch.zeros_like(empty.states), pooled)
        return empty.select([0] * num)

    def too_long(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of which :meth:`encode` sees only the beginning (77 tokens with start and end).

        Whoever hands prompts to it tells the user of these; ``detour.generation.prompts`` reads them whole.
        """
        limits = {part: self._length(part) for part in self.models}
        return [
            prompt
            for prompt in dict.fromkeys(prompts)
            if any(len(self._token_ids(part, prompt)) > limit for part, limit in limits.items())
        ]

    def knowing(self, words: WordVectors) -> TextStage:
        """The same tokenizers and encoders, with these words beside those known here; this stage stays as it is.

        Raises:
            AdapterError: a word that is known already.
        """
        self._refuse_known(words)
        made = copy.copy(self)
        made.words = {**self.words, **words}
        return made

    @contextlib.contextmanager
    def with_words(self, words: WordVectors) -> Iterator[None]:
        """Inside, prompts know these words too.

        Raises:
            AdapterError: a word that is known already.
        """
        self._refuse_known(words)
        before = self.words
        self.words = {**before, **words}
        try:
            yield
        finally:
            self.words = before

    @contextlib.contextmanager
    def without_words(self) -> Iterator[None]:
        """Inside, prompts are the base's own."""
        before, self.words = self.words, {}
        try:
            yield
        finally:
            self.words = before

    def _refuse_known(self, words: WordVectors) -> None:
        known = {word.lower() for word in self.words}
        twice = next((word for word in words if word.lower() in known), None)
        if twice is not None:
            raise AdapterError(f"two adapters have the word '{twice}'. Use one of them.")

    def _tokens(
        self, part: str, prompts: Sequence[str]
    ) -> tuple[Tensor, contextlib.AbstractContextManager[None]]:
        """(N, 77) token ids of the prompts, and a block in which the words among them have their vectors."""
        tokenizer, length = self.tokenizers[part], self._length(part)
        if not self._has_words(prompts):
            options: Any = {"padding": "max_length", "truncation": True, "max_length": length}
            return tokenizer(
                list(prompts), return_tensors="pt", **options
            ).input_ids, contextlib.nullcontext()
        return self._placed_ids(
            part, [place_words(tokenizer, prompt, self._counts(part)) for prompt in prompts]
        )

    def _placed_ids(
        self, part: str, placed: Sequence[Placed]
    ) -> tuple[Tensor, contextlib.AbstractContextManager[None]]:
        """As :meth:`_tokens`, of prompts that are tokens already."""
        tokenizer, length = self.tokenizers[part], self._length(part)
        found = [
            ((row, position + 1), self.words[word][part][index])
            for row, one in enumerate(placed)
            for position, (word, index) in one.vectors.items()
            if position + 2 < length
        ]
        ids = torch.tensor([padded(tokenizer, one.ids, length) for one in placed])
        places, vectors = [place for place, _ in found], [vector for _, vector in found]
        return ids, vectors_in(self.models[part], places, vectors) if found else contextlib.nullcontext()

    def _run(
        self, part: str, ids: Tensor, vectors: contextlib.AbstractContextManager[None]
    ) -> tuple[Tensor, Tensor | None]:
        """States (N, 77, D) that condition the UNet, and the pooled ones of the second encoder."""
        model = self.models[part]
        wants_hidden = self.family.text_states == "penultimate"
        with vectors:
            output = model(ids.to(next(model.parameters()).device), output_hidden_states=wants_hidden)
        # CLIPTextModelWithProjection gives text_embeds first.
        pooled = output[0] if part == "text_encoder_2" else None
        return output.hidden_states[-2] if wants_hidden else output[0], pooled

    def _has_words(self, prompts: Sequence[str]) -> bool:
        return bool(self.words) and any(word_pattern(list(self.words)).search(prompt) for prompt in prompts)

    def _counts(self, part: str) -> dict[str, int]:
        return {word: int(parts[part].shape[0]) for word, parts in self.words.items()}

    def _length(self, part: str) -> int:
        config: Any = self.models[part].config
        return min(int(config.max_position_embeddings), int(self.tokenizers[part].model_max_length))

    def _token_ids(self, part: str, prompt: str) -> list[int]:
        if self._has_words([prompt]):
            return [0, *place_words(self.tokenizers[part], prompt, self._counts(part)).ids, 0]
        # Splitting by hand keeps transformers from warning about the length that is being asked for.
        return list(self.tokenizers[part](prompt, truncation=False, verbose=False).input_ids)
