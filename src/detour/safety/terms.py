"""Layer 1: words and phrases, found also when they are disguised in a way that a reader sees through."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from detour.errors import ConfigError
from detour.generation.prompts import read_weights
from detour.safety.normalising import normalised
from detour.safety.policy_file import CategorySpec, TermsSpec, TextAction

Disguise = Literal["plain", "signs for letters", "repeated letters", "apart", "masked", "transposed letters"]

MAX_CHARS = 20_000
"""Largest number of characters of a text; longer ones are refused without a search."""
TRANSPOSED_MIN = 5
"""Number of letters from which a word is read with two neighbours exchanged; shorter ones are too often other words."""

_CHUNK = re.compile(r"\S+")
_WORD = re.compile(r"[^\W_]+")
_CONTRACTION = re.compile(r"(?<=\w)['’ʼ´`](?:ll|re|ve|s|t|d|m)\b")
_REPEATED = re.compile(r"([^\W\d_])\1{2,}")
_LETTER = re.compile(r"[^\W\d_]")
_SIGNS = {
    "0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "6": "g", "7": "t", "8": "b", "9": "g", "@": "a", "$": "s",
    "!": "i", "|": "i", "+": "t", "€": "e", "£": "l", "¢": "c", "(": "c", "<": "c", "{": "c", "[": "c", "¥": "y",
}  # fmt: skip
_HAS_SIGN = re.compile("[" + re.escape("".join(_SIGNS)) + "]")
_EDGES = ".,;:!?\"'()[]{}<>"
_MASKED = re.compile(r"[^\W\d_](?:[^\W\d_]|[*#%_?.·•~^](?=.*[^\W\d_]))+")
_FUNCTION_WORDS = frozenset(
    "a i am an as at be by do go he if in is it me my no of on or so to up us we the and".split()  # noqa: SIM905
)
_BARRIER = "\x01"
_PLURAL = ("", "s", "es")
_STEM = ("", "s", "es", "ed", "er", "ers", "ing")


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A term that was found.

    Attributes:
        category: of the policy.
        action: of that category.
        term: in the policy's notation.
        disguise: how it was written.
    """

    category: str
    action: TextAction
    term: str
    disguise: Disguise


def _fold(text: str) -> str:
    """Map ``1``, ``l`` and ``i`` to ``i`` and ``vv`` to ``w``, because they look alike."""
    return text.replace("vv", "w").replace("l", "i")


@dataclass(frozen=True, kw_only=True)
class _Term:
    """A word or phrase in the notation of the policy.

    Attributes:
        source: as written.
        parts: for each part between ``&`` its words, with their stars.
    """

    source: str
    parts: tuple[tuple[str, ...], ...]

    @classmethod
    def read(cls, text: str, *, where: str) -> _Term:
        parts = tuple(
            tuple(re.findall(r"\*?[^\W_]+\*?", _CONTRACTION.sub("", normalised(part))))
            for part in text.split("&")
        )
        if not all(parts):
            raise ConfigError(f"{where}: term {text!r} has no letters or digits. Correct the policy.")
        return cls(source=text, parts=parts)

    def pattern(self, words: Sequence[str], *, folded: bool) -> str:
        """Regular expression over words in a row, separated by single spaces."""
        last = len(words) - 1
        made = []
        for place, word in enumerate(words):
            letters = re.escape(_fold(word.strip("*")) if folded else word.strip("*"))
            end = r"\w*" if word.endswith("*") else ("(?:e?s)?" if place == last else "")
            made.append((r"\w*" if word.startswith("*") else "") + letters + end)
        return "(?<!\\S)" + " ".join(made) + "(?!\\S)"

    @property
    def joined_forms(self) -> tuple[str, ...]:
        """Letters of all words in a row, with their endings; empty for a term of several parts."""
        if len(self.parts) > 1:
            return ()
        letters = "".join(word.strip("*") for word in self.parts[0])
        return tuple(letters + end for end in (_STEM if self.parts[0][-1].endswith("*") else _PLURAL))


def plain_pattern(text: str, *, where: str) -> re.Pattern[str]:
    """Regular expression that finds a term as it is written.

    Args:
        text: in the policy's notation, without ``&``.
        where: named in the error.

    Raises:
        ConfigError: no letters, or several parts.
    """
    term = _Term.read(text, where=where)
    if len(term.parts) > 1:
        raise ConfigError(f"{where}: {text!r} has several parts. A replacement needs words in a row.")
    pattern = term.pattern(term.parts[0], folded=False).removeprefix(r"(?<!\S)").removesuffix(r"(?!\S)")
    return re.compile(r"(?<!\w)" + pattern.replace(" ", r"[\W_]+") + r"(?!\w)", re.IGNORECASE)


class _Category:
    """The compiled terms of one category."""

    def __init__(self, spec: CategorySpec) -> None:
        self.spec = spec
        terms = [_Term.read(one, where=f"terms '{spec.name}'") for one in spec.terms]
        allowed = [_Term.read(one, where=f"terms '{spec.name}', allow") for one in spec.allow]
        self._found = {folded: self._compiled(terms, folded) for folded in (False, True)}
        self._allowed = {folded: self._compiled(allowed, folded) for folded in (False, True)}
        self._several = [term for term in terms if len(term.parts) > 1]
        self.joined = {form: term.source for term in terms for form in term.joined_forms}
        self._phrases = {form for term in terms for form in term.joined_forms if len(term.parts[0]) > 1}
        self._longest = max(map(len, self.joined), default=0)

    @staticmethod
    def _compiled(terms: Sequence[_Term], folded: bool) -> re.Pattern[str] | None:
        patterns = [one.pattern(one.parts[0], folded=folded) for one in terms if len(one.parts) == 1]
        return re.compile("|".join(patterns)) if patterns else None

    def without_allowed(self, text: str, *, folded: bool) -> str:
        """Text with a barrier in place of each allowed phrase."""
        allowed = self._allowed[folded]
        return text if allowed is None else allowed.sub(_BARRIER, text)

    def in_words(self, text: str, *, folded: bool) -> str | None:
        """Find a term in a text of words separated by spaces."""
        found = self._found[folded]
        if found is not None and (match := found.search(text)):
            return match.group()
        for term in self._several:
            if all(re.search(term.pattern(part, folded=folded), text) for part in term.parts):
                return term.source
        return None

    def in_joined(self, words: Sequence[str]) -> str | None:
        """Find a term whose letters were separated: neighbouring words that form the term in a row."""
        for start in range(len(words)):
            joined = ""
            for end in range(start, len(words)):
                joined += words[end]
                if len(joined) > self._longest or _BARRIER in joined:
                    break
                if joined in self.joined and self._pulled_apart(words[start : end + 1], joined):
                    return self.joined[joined]
        return None

    def _pulled_apart(self, pieces: Sequence[str], joined: str) -> bool:
        if len(pieces) == 1:
            return joined in self._phrases
        if all(piece in _FUNCTION_WORDS for piece in pieces) and len(joined) < 6:
            return False
        shortest, longest = min(map(len, pieces)), max(map(len, pieces))
        if joined in self._phrases:
            return True
        return shortest <= 2 and (len(joined) >= 4 or longest == 1)

    def in_masked(self, chunk: str) -> str | None:
        """Find a term with one or two letters replaced by other characters."""
        letters = [bool(_LETTER.match(sign)) for sign in chunk]
        if len(chunk) < 4 or not 1 <= letters.count(False) <= min(2, len(chunk) - 3):
            return None
        pattern = re.compile(
            "".join(re.escape(s) if known else "." for s, known in zip(chunk, letters, strict=True))
        )
        return next((self.joined[form] for form in self.joined if pattern.fullmatch(form)), None)

    def in_transposed(self, word: str) -> str | None:
        """Find a term of five letters or more with two inner neighbours exchanged (``corwn``)."""
        if not TRANSPOSED_MIN <= len(word) <= self._longest:
            return None
        for at in range(1, len(word) - 2):
            form = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
            if form in self.joined:
                return self.joined[form]
        return None


def _decoded(text: str, *, strip: str) -> str:
    """Words of a text with lookalike characters read as letters, in chunks that contain letters.

    Args:
        text: normalised.
        strip: ``both``, ``back`` or ``front``: at which ends of a chunk punctuation is punctuation.
    """
    words = []
    for match in _CHUNK.finditer(text):
        chunk = match.group()
        if strip != "front":
            chunk = chunk.rstrip(_EDGES)
        if strip != "back":
            chunk = chunk.lstrip(_EDGES)
        if _LETTER.search(chunk) and _HAS_SIGN.search(chunk):
            chunk = chunk.replace("/\\", "a").replace("\\/\\/", "w").replace("\\/", "v")
            chunk = "".join(_SIGNS.get(sign, sign) for sign in chunk)
        words += _WORD.findall(chunk)
    return _fold(" ".join(words))


class TermFinder:
    """Finds the terms of a policy in texts."""

    def __init__(self, spec: TermsSpec) -> None:
        """Compile the terms of each category into patterns.

        Raises:
            ConfigError: a term without letters.
        """
        self._categories = [_Category(one) for one in spec.categories]

    def find(self, text: str) -> list[Hit]:
        """The first hit of each category.

        Args:
            text: a prompt, as written; weights in brackets are read, so that brackets within a word hide nothing.

        Raises:
            ConfigError: longer than :data:`MAX_CHARS`.
        """
        if len(text) > MAX_CHARS:
            raise ConfigError(
                f"a text of {len(text):,} characters: at most {MAX_CHARS:,} are looked at. Shorten it."
            )
        if not text.strip():
            return []
        read = " ".join(
            "".join(span.text for span in read_weights(text) if span.section == section)
            for section in sorted({span.section for span in read_weights(text)})
        )
        plain = list(dict.fromkeys(_CONTRACTION.sub("", normalised(one)) for one in (text, read)))
        found = []
        for category in self._categories:
            hit = next((hit for one in plain for hit in self._in(category, one)), None)
            if hit is not None:
                found.append(hit)
        return found

    def _in(self, category: _Category, text: str) -> Iterator[Hit]:
        def hit(term: str | None, disguise: Disguise) -> Iterator[Hit]:
            if term is not None:
                spec = category.spec
                yield Hit(category=spec.name, action=spec.action, term=term, disguise=disguise)

        words = category.without_allowed(" ".join(_WORD.findall(text)), folded=False)
        yield from hit(category.in_words(words, folded=False), "plain")
        for kept in ("\\1", "\\1\\1"):
            if _REPEATED.search(words):
                shorter = category.without_allowed(_REPEATED.sub(kept, words), folded=False)
                yield from hit(category.in_words(shorter, folded=False), "repeated letters")
        if _HAS_SIGN.search(text) or "vv" in text or "/" in text:
            for strip in ("both", "back", "front"):
                decoded = category.without_allowed(_decoded(text, strip=strip), folded=True)
                yield from hit(category.in_words(decoded, folded=True), "signs for letters")
        yield from hit(category.in_joined(words.split()), "apart")
        if any(word.isdigit() for word in words.split()):
            as_letters = ["".join(_SIGNS.get(sign, sign) for sign in word) for word in words.split()]
            yield from hit(category.in_joined(as_letters), "apart")
        for chunk in _CHUNK.findall(text):
            if (masked := _MASKED.fullmatch(chunk.strip(_EDGES))) is not None:
                yield from hit(category.in_masked(masked.group()), "masked")
        for word in words.split():
            yield from hit(category.in_transposed(word), "transposed letters")
