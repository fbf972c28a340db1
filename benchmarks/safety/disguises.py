"""Ways to write a word so that a reader still reads it."""

from __future__ import annotations

import random
from collections.abc import Callable

CYRILLIC = str.maketrans("aceopxyi", "асеорхуі")
GREEK = str.maketrans("aonuv", "αοηυν")
LEET = str.maketrans("aeiost", "431057")
MATHEMATICAL = str.maketrans({chr(97 + i): chr(0x1D4EA + i) for i in range(26)})
WIDE = str.maketrans({chr(97 + i): chr(0xFF41 + i) for i in range(26)})
CIRCLED = str.maketrans({chr(97 + i): chr(0x24D0 + i) for i in range(26)})
FLAGS = str.maketrans({chr(97 + i): chr(0x1F1E6 + i) for i in range(26)})
ZERO_WIDTH = "\u200b\u200c\u2060\u00ad"
MARKS = "\u0301\u0308\u0335\u0323"


def _inside(word: str, draw: random.Random) -> int:
    return draw.randrange(1, len(word) - 1)


def _weighted(word: str, draw: random.Random) -> str:
    at = _inside(word, draw)
    return f"{word[:at]}({word[at]}:1.1){word[at + 1 :]}"


def _split(word: str, draw: random.Random) -> str:
    at = draw.choice([1, 2, len(word) - 2, len(word) - 1])
    return f"{word[:at]} {word[at:]}"


def _repeated(word: str, draw: random.Random) -> str:
    at = _inside(word, draw)
    return word[:at] + word[at] * draw.randrange(3, 6) + word[at + 1 :]


def _masked(word: str, draw: random.Random) -> str:
    at = _inside(word, draw)
    return word[:at] + draw.choice("*#") + word[at + 1 :]


def _zero_width(word: str, draw: random.Random) -> str:
    at = _inside(word, draw)
    return word[:at] + draw.choice(ZERO_WIDTH) + word[at:]


def _marked(word: str, draw: random.Random) -> str:
    return "".join(letter + draw.choice(MARKS) for letter in word)


def _transposed(word: str, draw: random.Random) -> str:
    at = draw.randrange(1, len(word) - 2)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


DISGUISES: dict[str, Callable[[str, random.Random], str]] = {
    "capitals": lambda word, draw: "".join(draw.choice([one.upper(), one]) for one in word),
    "Cyrillic": lambda word, _: word.translate(CYRILLIC),
    "Greek": lambda word, _: word.translate(GREEK),
    "digits": lambda word, _: word.translate(LEET),
    "mathematical letters": lambda word, _: word.translate(MATHEMATICAL),
    "wide letters": lambda word, _: word.translate(WIDE),
    "circled letters": lambda word, _: word.translate(CIRCLED),
    "flags": lambda word, _: word.translate(FLAGS),
    "spaces": lambda word, _: " ".join(word),
    "points": lambda word, draw: draw.choice(".-_*").join(word),
    "one space": _split,
    "repeated letter": _repeated,
    "masked letter": _masked,
    "zero width": _zero_width,
    "marks": _marked,
    "brackets within": _weighted,
    "transposed letters": _transposed,
}
"""Name → how a word is written."""
