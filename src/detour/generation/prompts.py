"""Prompts as people write them for drawing: weights in brackets, and longer than the text encoder reads at once.

The syntax is AUTOMATIC1111's, because that is what prompts are passed around in: ``(hands:1.3)``, ``(hands)`` for 1.1,
``[hands]`` for 1 / 1.1, nested ones multiplied, ``\\(`` for a bracket that is meant, ``BREAK`` for a new window.
A weight moves the states of its tokens along the line from the empty prompt's: ``empty + weight · (state − empty)``.
Longer prompts are read in windows of 75 tokens, each encoded by itself, their states one behind the other.

Captions of training are not read this way: there, brackets are brackets.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from detour.bases.base import Base
from detour.bases.text import Conditioning, TextStage
from detour.bases.words import Placed

ROUND = 1.1
"""Weight of one pair of round brackets; square ones divide by it."""

COMMA_REACH = 20
"""A comma at most so many tokens before the end of a window is where it ends, so that phrases stay whole."""

_PIECE = re.compile(
    r"\\[()\[\]\\]|:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)|[()\[\]]|\bBREAK\b|[^\\()\[\]:B]+|[\\:B]"
)


def reads_weights(base: Base) -> bool:
    """Whether weights and windows are read in prompts of a base; those of a T5 have neither, and are read plainly."""
    return base.family.t5_part is None


@dataclass(frozen=True)
class Span:
    """A piece of a prompt.

    Attributes:
        text: without the brackets that weigh it.
        weight: 1 leaves it as it is.
        section: how many ``BREAK`` stand before it.
    """

    text: str
    weight: float = 1.0
    section: int = 0


def read_weights(prompt: str) -> tuple[Span, ...]:
    """A prompt as weighted pieces, neighbours of equal weight joined; an empty one has none.

    Brackets that are never closed count to the end, and closing ones that nothing opened are text, as in AUTOMATIC1111.

    Source: ``parse_prompt_attention`` in AUTOMATIC1111's ``modules/prompt_parser.py`` (grammar alone).
    """
    texts: list[str] = []
    weights: list[float] = []
    sections: list[int] = []
    opened: list[tuple[str, int]] = []
    section = 0

    def close(bracket: str, factor: float) -> bool:
        """Weigh all since the last opening bracket of this kind; whether there is one."""
        place = next((at for at in reversed(range(len(opened))) if opened[at][0] == bracket), None)
        if place is None:
            return False
        _, first = opened.pop(place)
        weights[first:] = [weight * factor for weight in weights[first:]]
        return True

    for match in _PIECE.finditer(prompt):
        piece = match.group()
        if piece in "([":
            opened.append((piece, len(texts)))
            continue
        if piece == "BREAK":
            section += 1
            continue
        if piece == ")" and close("(", ROUND):
            continue
        if piece == "]" and close("[", 1 / ROUND):
            continue
        if match.group("weight") is not None and close("(", float(match.group("weight"))):
            continue
        texts.append(piece[1:] if piece[0] == "\\" and len(piece) == 2 else piece)
        weights.append(1.0)
        sections.append(section)
    while opened:
        bracket, _ = opened[-1]
        close(bracket, ROUND if bracket == "(" else 1 / ROUND)
    return _joined(texts, weights, sections)


def without_weights(prompt: str) -> str:
    """The prompt's words, for whoever reads no weights: a judge, a file name."""
    return "".join(span.text for span in read_weights(prompt))


def _joined(texts: Sequence[str], weights: Sequence[float], sections: Sequence[int]) -> tuple[Span, ...]:
    spans: list[Span] = []
    for text, weight, section in zip(texts, weights, sections, strict=True):
        weight = 1.0 if math.isclose(weight, 1.0, abs_tol=1e-12) else weight  # ([x]) is 1.1 / 1.1
        last = spans[-1] if spans else None
        if last is not None and (last.weight, last.section) == (weight, section):
            spans[-1] = Span(last.text + text, weight, section)
        else:
            spans.append(Span(text, weight, section))
    return tuple(spans)


@dataclass
class _Window:
    """Tokens that one pass of an encoder reads, with what each is and weighs."""

    ids: list[int] = field(default_factory=list)
    vectors: list[tuple[str, int] | None] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def split(self, place: int) -> tuple["_Window", "_Window"]:
        """What stands before ``place``, and the rest."""
        first, rest = slice(None, place), slice(place, None)
        return (
            _Window(self.ids[first], self.vectors[first], self.weights[first]),
            _Window(self.ids[rest], self.vectors[rest], self.weights[rest]),
        )

    @property
    def placed(self) -> Placed:
        vectors = {place: vector for place, vector in enumerate(self.vectors) if vector is not None}
        return Placed(tuple(self.ids), vectors)


class PromptReader:
    """A text source that reads weights and prompts of any length; a plain short prompt gives the stage's own states."""

    def __init__(self, stage: TextStage) -> None:
        """Read with the encoders, adapters and new words that ``stage`` has when it is asked."""
        self.stage = stage

    def unconditional(self, num: int) -> Conditioning:
        """Encode the unconditional text, as :meth:`TextStage.unconditional` does."""
        return self.stage.unconditional(num)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """States of each prompt, (N, 77 · windows, D), each encoded by itself; N of at least one.

        The pooled state is that of the first window, and no weight touches it.
        """
        rows = {prompt: self._encode(prompt) for prompt in dict.fromkeys(prompts)}
        if not rows:
            return self.stage.encode([])
        first, *others = (rows[prompt] for prompt in prompts)
        for other in others:
            first = first.cat(other)
        return first

    def num_windows(self, prompt: str) -> int:
        """Windows that the prompt takes."""
        spans = read_weights(prompt)
        return max(len(self._windows(part, spans)) for part in self.stage.models)

    def _encode(self, prompt: str) -> Conditioning:
        spans = read_weights(prompt)
        windows = {part: self._windows(part, spans) for part in self.stage.models}
        num = max(map(len, windows.values()))
        if num == 1 and all(span.weight == 1 for span in spans):
            return self.stage.encode(["".join(span.text for span in spans)])
        states, pooled = [], None
        for part, of_part in windows.items():
            rows = []
            for index in range(num):
                window = of_part[index] if index < len(of_part) else _Window()
                row, of_window = self.stage.encode_window(part, window.placed)
                rows.append(self._weighed(part, row, window.weights))
                if index == 0 and of_window is not None:
                    pooled = of_window
            states.append(torch.cat(rows, dim=1))
        return Conditioning(torch.cat(states, dim=-1), pooled)

    def _weighed(self, part: str, states: Tensor, weights: Sequence[float]) -> Tensor:
        """``empty + weight · (state − empty)`` position by position; where the weight is 1, the state itself.

        Args:
            part: whose empty prompt is meant.
            states: (1, 77, D) of one window.
            weights: of its tokens, without beginning and end.

        Returns:
            Like ``states``; summed in float32.

        Source: ComfyUI's ``comfy/sd1_clip.py``; compel's weights above 1 are the same line.
        """
        if all(weight == 1 for weight in weights):
            return states
        empty = self.stage.encode_window(part, Placed((), {}))[0].float()
        factors = torch.ones(states.shape[1], device=states.device)
        factors[1 : 1 + len(weights)] = torch.tensor(weights, device=states.device)
        moved = (empty + factors[None, :, None] * (states.float() - empty)).to(states.dtype)
        return torch.where((factors == 1)[None, :, None], states, moved)

    def _windows(self, part: str, spans: Iterable[Span]) -> list[_Window]:
        """Tokens of the pieces in windows; a section begins a new one, and phrases are kept whole where commas allow.

        Source: ``tokenize_line`` in AUTOMATIC1111's ``modules/sd_hijack_clip.py``.
        """
        size, comma = self.stage.window_tokens, self.stage.tokens(part, ",").ids[-1:]
        windows, section, last_comma = [_Window()], 0, -1
        for span in spans:
            if span.section != section:
                windows, section, last_comma = [*windows, _Window()], span.section, -1
            placed = self.stage.tokens(part, span.text)
            for place, token in enumerate(placed.ids):
                now = windows[-1]
                is_comma = (token,) == comma
                if len(now.ids) == size:
                    near = last_comma != -1 and size - last_comma <= COMMA_REACH and not is_comma
                    windows[-1], rest = now.split(last_comma + 1 if near else size)
                    windows.append(rest)
                    now, last_comma = rest, -1
                if is_comma:
                    last_comma = len(now.ids)
                now.ids.append(token)
                now.vectors.append(placed.vectors.get(place))
                now.weights.append(span.weight)
        return windows
