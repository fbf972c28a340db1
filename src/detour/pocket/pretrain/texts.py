"""Token ids of all captions of the training pictures.

Each picture gets several phrasings of its caption, and each phrasing the same sentence with one thing
made false: another object, colour or place, or the colours of two things swapped. The false ones are what
teaches the pair to bind colours to objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from transformers import CLIPTokenizer

from detour.errors import DataError
from detour.pocket.world import HELD_OUT, VOCABULARY, Scene, caption, training_example

MAX_CAPTION_TOKENS = 48
NUM_PHRASINGS = 3
NUM_FALSE = 3
UNKNOWN_WORD_SHARE = 0.12
PAIRS = [(kind, colour) for kind in VOCABULARY.objects for colour in VOCABULARY.colours]
_PAIR_INDEX = {pair: position for position, pair in enumerate(PAIRS)}


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Captions of ``count`` pictures as token ids.

    Attributes:
        true: (count, NUM_PHRASINGS, MAX_CAPTION_TOKENS) int16, padded with the end-of-text id.
        false: (count, NUM_PHRASINGS, NUM_FALSE, MAX_CAPTION_TOKENS) int16, likewise.
        pairs: (count, 2) int16: (object, colour) numbers of the one or two things, -1 for none.
    """

    true: NDArray[np.int16]
    false: NDArray[np.int16]
    pairs: NDArray[np.int16]


def other(words: Sequence[str], word: str, rng: np.random.Generator) -> str:
    """Draw a word of ``words`` that is not ``word``."""
    rest = [candidate for candidate in words if candidate != word]
    return rest[int(rng.integers(len(rest)))]


def false_scene(scene: Scene, rng: np.random.Generator) -> Scene:
    """Make one fact of a scene false; its layout is not used.

    Held-out combinations are not named here either: the text tower must not have met them.
    """
    while True:
        candidate = _with_one_fact_false(scene, rng)
        if not any((t.kind, t.colour, candidate.place) in HELD_OUT.combinations for t in candidate.things):
            return candidate


def _with_one_fact_false(scene: Scene, rng: np.random.Generator) -> Scene:
    things = list(scene.things)
    which = int(rng.integers(len(things)))
    fact = int(rng.integers(4 if len(things) == 2 else 3))
    if fact == 0:
        present = things[1 - which].kind if len(things) == 2 else ""
        kinds = [kind for kind in VOCABULARY.objects if kind != present]
        things[which] = replace(things[which], kind=other(kinds, things[which].kind, rng))
    elif fact == 1:
        things[which] = replace(things[which], colour=other(VOCABULARY.colours, things[which].colour, rng))
    elif fact == 2:
        return replace(scene, place=other(VOCABULARY.places, scene.place, rng))
    else:
        first, second = things
        things = [replace(first, colour=second.colour), replace(second, colour=first.colour)]
    return replace(scene, things=tuple(things))


def with_unknown_word(text: str, rng: np.random.Generator) -> str:
    """``text`` with a made-up word in it.

    So that words which the world does not know, such as an adapter's trigger, have states of their own that
    neither tower nor the UNet is thrown by.
    """
    letters = "".join(rng.choice(list("bcdfghjklmnpqrstvwxyzaeiou"), size=int(rng.integers(3, 7))))
    words = text.split(" ")
    position = int(rng.integers(len(words) + 1))
    return " ".join([*words[:position], letters, *words[position:]])


def phrase(seed: int, index: int) -> tuple[list[str], list[list[str]], list[int]]:
    """Write all captions of picture ``index`` of the stream ``seed``.

    Returns:
        true captions, the false ones of each, and the numbers of its (object, colour) pairs.
    """
    example = training_example(seed, index)
    rng = np.random.default_rng([seed, index, 0x7E57])
    true: list[str] = []
    false: list[list[str]] = []
    for _ in range(NUM_PHRASINGS):
        caption_seed = int(rng.integers(2**31))
        wrong = [false_scene(example.scene, rng) for _ in range(NUM_FALSE)]
        said = [caption(scene, example.style, seed=caption_seed) for scene in (example.scene, *wrong)]
        if rng.random() < UNKNOWN_WORD_SHARE:
            state = int(rng.integers(2**31))
            said = [with_unknown_word(text, np.random.default_rng(state)) for text in said]
        true.append(said[0])
        false.append(said[1:])
    return true, false, [_PAIR_INDEX[(thing.kind, thing.colour)] for thing in example.scene.things]


def to_ids(tokenizer: CLIPTokenizer, texts: Sequence[str], *, length: int) -> NDArray[np.int16]:
    """(count, length) ids, padded with the end-of-text id as at generation.

    Raises:
        DataError: a text is longer; none is cut.
    """
    encoded = tokenizer(list(texts), padding="max_length", max_length=length, verbose=False)
    longest = max(map(len, encoded.input_ids), default=0)
    if longest > length:
        raise DataError(f"a caption of {longest} tokens: {length} are kept. Raise MAX_CAPTION_TOKENS.")
    return np.asarray(encoded.input_ids, dtype=np.int16)


def read_texts(tokenizer: CLIPTokenizer, *, seed: int, count: int) -> Texts:
    """Read token ids of all captions of the first ``count`` pictures of the stream."""
    true: list[str] = []
    false: list[str] = []
    pairs = np.full((count, 2), -1, dtype=np.int16)
    for index in range(count):
        said, wrong, numbers = phrase(seed, index)
        true.extend(said)
        false.extend(text for group in wrong for text in group)
        pairs[index, : len(numbers)] = numbers
    shape = (count, NUM_PHRASINGS)
    return Texts(
        true=to_ids(tokenizer, true, length=MAX_CAPTION_TOKENS).reshape(*shape, -1),
        false=to_ids(tokenizer, false, length=MAX_CAPTION_TOKENS).reshape(*shape, NUM_FALSE, -1),
        pairs=pairs,
    )
