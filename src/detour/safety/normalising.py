"""Normalises texts to what a reader sees: one form for letters that look alike, and nothing invisible."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0\u2800\u17b4\u17b5")
"""Invisible characters outside Unicode's categories of formats and marks."""

_LOOKALIKES = {
    "a": "аαɑᎪ∆",
    "b": "вбъьβᏴ",
    "c": "сςϲᏟ©∁ᏣҫҀ",
    "d": "ԁδժᎠԀ",
    "e": "еєэεҽᎬ℮ҿ∈",
    "f": "ƒфϝք",
    "g": "ցɡԍᏀ",
    "h": "нһհңᎻҥ",
    "i": "іιıӏᎥ",
    "j": "јϳյᎫ",
    "k": "кκқҟᏦ",
    "l": "ⅼʟᏞլ∣ǀ",
    "m": "мᎷʍ",
    "n": "пийлηոռղŋƞᏁ∩",
    "o": "оσοθօѳᎾᎤ◯⭕○●⚪⚫∅",
    "p": "рρրᏢþ",
    "q": "ԛգզ",
    "r": "гяɼгɾᏒᎡ®",
    "s": "ѕꜱᏕƨֆ",
    "t": "тτʈᎢեţ",
    "u": "цυսμ∪ա",
    "v": "ѵνᏙ√∨",
    "w": "шщωԝᏔᎳա",
    "x": "хχҳ×",
    "y": "уүұγʏᎩ",
    "z": "ʐȥᏃ",
    "3": "зҙӡ",
    "4": "ч",
}
"""Letter → characters of Cyrillic, Greek, Armenian, Cherokee and other scripts that look like it, case folded."""
_TABLE = {sign: letter for letter, signs in _LOOKALIKES.items() for sign in signs}

_LATIN_NAME = re.compile(
    r"\bLATIN\b.*\bLETTER (?:(?:SMALL CAPITAL|DOTLESS|OPEN|CLOSED|SCRIPT|REVERSED|TURNED|SIDEWAYS|LONG|INSULAR|"
    r"BLACKLETTER|STRETCHED|BROAD) )*(?P<letter>[A-Z])(?: WITH .*)?$"
)
_SYMBOL_LETTER = re.compile(r"\b(?:LATIN CAPITAL LETTER|SYMBOL LETTER) (?P<letter>[A-Z])$")


@lru_cache(maxsize=65_536)
def _seen(character: str) -> str:
    """Letter that a character looks like, case folded; empty for invisible characters."""
    kind = unicodedata.category(character)
    if kind in ("Cf", "Mn", "Me") or character in INVISIBLE:
        return ""
    if kind in ("Cc", "Zs", "Zl", "Zp"):
        return " "
    if character.isascii():
        return character.lower()
    folded = character.casefold()
    if folded in _TABLE:
        return _TABLE[folded]
    if character in _TABLE:
        return _TABLE[character]
    name = unicodedata.name(character, "")
    found = _LATIN_NAME.search(name) or _SYMBOL_LETTER.search(name)
    if found is not None:
        return found["letter"].lower()
    if kind in ("So", "Sk") and name:  # a picture of a thing stands for its word
        return f" {re.sub(r'[^a-z0-9]+', ' ', name.lower())} "
    return folded


def normalised(text: str) -> str:
    """Normalised text: compatibility forms folded, marks and invisible characters removed, lookalikes as letters.

    ``с\u200bŕ０ẉn`` becomes ``cr0wn``; digits stay digits, since whether one stands for a letter depends on its word.
    Letters of other scripts become the Latin ones that they look like, in prompts and in terms alike, so that a term in
    Cyrillic is found as well.

    Args:
        text: of any length.

    Source: Unicode Standard Annex 15 (NFKC), Technical Standard 39 (confusables; the table here is a selection).
    """
    plain = unicodedata.normalize("NFKC", text)
    apart = unicodedata.normalize("NFD", plain)
    seen = "".join(_seen(character) for character in apart)
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", seen)).strip()
