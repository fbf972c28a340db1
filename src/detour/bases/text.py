"""Prompts to what conditions the network."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from detour.bases.families import Family
from detour.bases.words import Placed, WordVectors, padded, place_words, vectors_in, word_pattern
from detour.errors import AdapterError


@dataclass(frozen=True)
class Conditioning:
    """What the network reads of N prompts.

    Attributes:
        states: (N, L, D) hidden states of the text encoders, joined along D where a family has two.
        pooled: (N, P) pooled state of the families that read one.
        mask: (N, L) bool, which states are read; ``None``: all. Only prompts of several windows have one.
        guidance: (N,) float32, the guidance scale that networks with an embedding of it are told (Flux-dev);
            ``None``: 1, as in training.
    """

    states: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None
    guidance: Tensor | None = None

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
            None if self.guidance is None else self.guidance[picked],
        )

    def cat(self, other: Conditioning) -> Conditioning:
        """Put the prompts of another behind these; the shorter ones get states that are not read."""
        pooled = None
        if self.pooled is not None and other.pooled is not None:
            pooled = torch.cat([self.pooled, other.pooled])
        length = max(self.states.shape[1], other.states.shape[1])
        mine, others = self._as_long_as(length), other._as_long_as(length)
        states = torch.cat([mine.states, others.states])
        guidance = None
        if self.guidance is not None and other.guidance is not None:
            guidance = torch.cat([self.guidance, other.guidance])
        mask = None
        if mine.mask is not None or others.mask is not None:
            mask = torch.cat([mine._read(), others._read()])
        return Conditioning(states, pooled, mask, guidance)

    def guided_by(self, scale: float) -> Conditioning:
        """Copy the conditioning with an embedded guidance scale for all rows."""
        return replace(self, guidance=torch.full((len(self),), scale, device=self.states.device))

    def _as_long_as(self, length: int) -> Conditioning:
        missing = length - self.states.shape[1]
        if not missing:
            return self
        states = torch.nn.functional.pad(self.states, (0, 0, 0, missing))
        mask = torch.nn.functional.pad(self._read(), (0, missing))
        return replace(self, states=states, mask=mask)

    def _read(self) -> Tensor:
        if self.mask is not None:
            return self.mask
        return torch.ones(self.states.shape[:2], dtype=torch.bool, device=self.states.device)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """Copy the conditioning to another device or dtype."""
        pooled = None if self.pooled is None else self.pooled.to(device=device, dtype=dtype)
        mask = None if self.mask is None else self.mask.to(device=device)
        guidance = None if self.guidance is None else self.guidance.to(device=device)
        return Conditioning(self.states.to(device=device, dtype=dtype), pooled, mask, guidance)


@dataclass(frozen=True, kw_only=True)
class JointText:
    """How the states of CLIP and T5 are joined for a transformer.

    Attributes:
        width: of the joined states (the transformer's ``joint_attention_dim``); narrower ones are padded with zeros.
        num_tokens: that T5 reads and gives states for; its padding is read like the rest, as in training of the
            published models.
    """

    width: int
    num_tokens: int


def join_states(clip: Sequence[Tensor], t5: Tensor | None, joint: JointText | None) -> Tensor:
    """What the network reads of the encoders' states.

    Without ``joint`` they stand side by side along the features (SD 1 to SDXL). With it CLIP's stand side by side,
    padded with zeros to the joint width, and T5's follow along the sequence (SD 3); where T5 is absent its states are
    zeros. A family whose network reads T5 alone has nothing before them (Flux).

    Args:
        clip: (N, L, D) of each CLIP text encoder that the network reads.
        t5: (N, L, D) of T5, where there is one.
        joint: of the base.

    Returns:
        (N, L, D).

    Source: diffusers 0.42.1, ``StableDiffusion3Pipeline.encode_prompt`` and ``FluxPipeline.encode_prompt``.
    """
    if joint is None:
        return torch.cat(list(clip), dim=-1)
    if not clip:
        assert t5 is not None, "a network reads CLIP's states, T5's, or both"
        return t5
    side_by_side = torch.cat(list(clip), dim=-1)
    if t5 is None:
        t5 = side_by_side.new_zeros(side_by_side.shape[0], joint.num_tokens, joint.width)
    padded = torch.nn.functional.pad(side_by_side, (0, joint.width - side_by_side.shape[-1]))
    return torch.cat([padded, t5], dim=-2)


class TextStage:
    """The tokenizers and text encoders of a base, frozen.

    Attributes:
        models: text part → encoder (an ``nn.Module``), for adapters that reach into the text.
        joint: width and length of the joined states, of the families that join CLIP's and T5's along the sequence.
    """

    def __init__(
        self,
        family: Family,
        tokenizers: Mapping[str, Any],
        models: Mapping[str, nn.Module],
        *,
        joint: JointText | None = None,
    ) -> None:
        self.family = family
        self.joint = joint
        self.tokenizers = dict(tokenizers)
        self.models = dict(models)
        self.words: WordVectors = {}
        """New word → text part → its vectors, (n, D); prompts that have the word use them."""

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Hidden states of each prompt, (N, L, D) with L tokens (77 for CLIP), in the encoders' dtype.

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
        """States of the prompts, (N, L, D), in one pass of each encoder, with a graph where something asks for one.

        A prompt's states depend on its neighbours by rounding, so finished pictures take :meth:`encode`.
        """
        runs = {part: self._run(part, *self._tokens(part, prompts)) for part in self.models}
        read = {part: of_part for part, (of_part, _) in runs.items() if part in self.family.state_parts}
        t5 = read.pop(self.family.t5_part, None) if self.family.t5_part else None
        if t5 is not None:  # which may be held in fewer bits than CLIP's encoders
            t5 = t5.to(
                next(states.dtype for part, (states, _) in runs.items() if part != self.family.t5_part)
            )
        pooled = [of_pooled for _, of_pooled in runs.values() if of_pooled is not None]
        states = join_states(list(read.values()), t5, self.joint)
        return Conditioning(states, torch.cat(pooled, dim=-1) if pooled else None)

    def tokens(self, part: str, text: str) -> Placed:
        """Tokens of a piece of a prompt for one encoder, without the marks of beginning and end, uncut."""
        if self._has_words([text]):
            return place_words(self.tokenizers[part], text, self._counts(part))
        return place_words(self.tokenizers[part], text, {})

    @torch.no_grad()
    def encode_window(self, part: str, window: Placed) -> tuple[Tensor, Tensor | None]:
        """One encoder's states of a window of tokens, (1, L, D), and its pooled state, (1, P), where one is read.

        Args:
            part: whose encoder.
            window: 75 tokens at most (the encoder's length without the marks of beginning and end).
        """
        assert len(window.ids) <= self.window_tokens, "windows are cut by whoever reads the prompt"
        return self._run(part, *self._placed_ids(part, [window]))

    @property
    def window_tokens(self) -> int:
        """Tokens that every encoder reads at once, without the marks of beginning and end: 75."""
        return min(self._length(part) for part in self.models if not self._is_t5(part)) - 2

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
        """The prompts of which :meth:`encode` sees only the beginning (77 tokens of CLIP, with start and end).

        Whoever hands prompts to it tells the user of these; ``detour.generation.prompts`` reads them whole.
        """
        limits = {part: self._length(part) for part in self.models}
        return [
            prompt
            for prompt in dict.fromkeys(prompts)
            if any(len(self._token_ids(part, prompt)) > limit for part, limit in limits.items())
        ]

    def knowing(self, words: WordVectors) -> TextStage:
        """Make a stage that knows these words too, with the same tokenizers and encoders; this stage stays as it is.

        Raises:
            AdapterError: a word that is known already.
        """
        self._refuse_known(words)
        made = copy.copy(self)
        made.words = {**self.words, **words}
        return made

    def _refuse_known(self, words: WordVectors) -> None:
        known = {word.lower() for word in self.words}
        twice = next((word for word in words if word.lower() in known), None)
        if twice is not None:
            raise AdapterError(f"two adapters have the word '{twice}'. Use one of them.")

    def _tokens(
        self, part: str, prompts: Sequence[str]
    ) -> tuple[Tensor, contextlib.AbstractContextManager[None]]:
        """(N, L) token ids of the prompts, and a block in which the words among them have their vectors."""
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
        """Place prompts that are tokens already, as :meth:`_tokens` does with texts."""
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
        """States (N, L, D) that condition the network, and the pooled ones where the family reads them."""
        model = self.models[part]
        device = next(model.parameters()).device
        if self._is_t5(part):
            with vectors:
                return model(ids.to(device))[0], None
        wants_hidden = self.family.text_states == "penultimate"
        with vectors:
            output = model(ids.to(device), output_hidden_states=wants_hidden)
        pooled = None
        if part in self.family.pooled_parts:  # CLIPTextModelWithProjection projects it
            pooled = output.text_embeds if hasattr(output, "text_embeds") else output.pooler_output
        return output.hidden_states[-2] if wants_hidden else output.last_hidden_state, pooled

    def _is_t5(self, part: str) -> bool:
        config: Any = self.models[part].config
        return str(config.model_type) == "t5"

    def _has_words(self, prompts: Sequence[str]) -> bool:
        return bool(self.words) and any(word_pattern(list(self.words)).search(prompt) for prompt in prompts)

    def _counts(self, part: str) -> dict[str, int]:
        return {word: int(parts[part].shape[0]) for word, parts in self.words.items()}

    def _length(self, part: str) -> int:
        if self._is_t5(part):
            assert self.joint is not None
            return self.joint.num_tokens
        config: Any = self.models[part].config
        return min(int(config.max_position_embeddings), int(self.tokenizers[part].model_max_length))

    def _token_ids(self, part: str, prompt: str) -> list[int]:
        if self._has_words([prompt]):
            return [0, *place_words(self.tokenizers[part], prompt, self._counts(part)).ids, 0]
        # Splitting by hand keeps transformers from warning about the length that is being asked for.
        return list(self.tokenizers[part](prompt, truncation=False, verbose=False).input_ids)
