"""Layer 2: a linear classifier of prompts over words and pieces of words, stored as numbers and JSON."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detour.errors import ConfigError
from detour.files import read_text, write_json, write_with
from detour.safety.normalising import normalised

SCHEMA = 1
WORD_GRAMS = (1, 2)
PIECE_GRAMS = (2, 5)
MAX_FEATURES = 200_000
MAX_JSON_BYTES = 16 << 20
MAX_NUMBERS_BYTES = 8 << 20
SETTINGS, NUMBERS = "classifier.json", "classifier.npz"

_TOKEN = re.compile(r"(?u)\b\w\w+\b")
_SPACES = re.compile(r"\s\s+")


def word_grams(text: str) -> Iterator[str]:
    """Words and pairs of words, counted as scikit-learn's ``TfidfVectorizer`` does."""
    words = _TOKEN.findall(text)
    for size in range(WORD_GRAMS[0], WORD_GRAMS[1] + 1):
        for start in range(len(words) - size + 1):
            yield " ".join(words[start : start + size])


def piece_grams(text: str) -> Iterator[str]:
    """Character n-grams of padded words, counted as scikit-learn's analyzer ``char_wb`` does."""
    for word in _SPACES.sub(" ", text).split():
        padded = f" {word} "
        for size in range(PIECE_GRAMS[0], PIECE_GRAMS[1] + 1):
            yield padded[:size]
            for start in range(1, len(padded) - size + 1):
                yield padded[start : start + size]
            if size >= len(padded):
                break


@dataclass(frozen=True, kw_only=True)
class PromptClassifier:
    """Probability that a prompt asks for what must not appear.

    Attributes:
        words: pair or single word → its number.
        pieces: piece of a word → its number.
        idf: float64, weights of rare features, first those of ``words``.
        weights: float64, one for each feature.
        bias: added to their sum.
        slope: of the calibration, ``1 / (1 + exp(slope · sum + offset))``; Platt 1999.
        offset: of the calibration.
        facts: what it was trained on and how well it was calibrated then.
    """

    words: Mapping[str, int]
    pieces: Mapping[str, int]
    idf: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: float
    slope: float
    offset: float
    facts: Mapping[str, Any]

    def probability(self, text: str) -> float:
        """Calibrated probability, 0 to 1; the text is normalised as for the layer of terms."""
        seen = normalised(text)
        total = self.bias + self._part(Counter(word_grams(seen)), self.words)
        total += self._part(Counter(piece_grams(seen)), self.pieces)
        power = self.slope * total + self.offset
        return 1.0 / (1.0 + math.exp(min(power, 700.0)))

    def _part(self, counts: Counter[str], numbers: Mapping[str, int]) -> float:
        """Sum over the features of one vectorizer, whose row is scaled to length one."""
        known = [(numbers[gram], count) for gram, count in counts.items() if gram in numbers]
        if not known:
            return 0.0
        places = np.array([place for place, _ in known])
        values = (1.0 + np.log(np.array([count for _, count in known], np.float64))) * self.idf[places]
        return float(values @ self.weights[places] / np.linalg.norm(values))

    def save(self, folder: Path) -> None:
        """Write ``classifier.json`` and ``classifier.npz``, without pickle.

        Raises:
            StorageError: disk full or folder not writable.
        """

        def produce(path: Path) -> None:
            with path.open("wb") as stream:
                np.savez(stream, idf=self.idf, weights=self.weights)

        write_with(folder / NUMBERS, produce)
        ordered = [sorted(part, key=part.__getitem__) for part in (self.words, self.pieces)]
        write_json(
            folder / SETTINGS,
            {
                "schema": SCHEMA,
                "words": ordered[0],
                "pieces": ordered[1],
                "bias": self.bias,
                "slope": self.slope,
                "offset": self.offset,
                "facts": dict(self.facts),
            },
        )

    @classmethod
    def load(cls, folder: Path) -> PromptClassifier:
        """Read what :meth:`save` wrote, within size limits and without pickle.

        Raises:
            ConfigError: missing, too large, or not what was written.
        """
        try:
            stored = json.loads(read_text(folder / SETTINGS, max_bytes=MAX_JSON_BYTES, error=ConfigError))
            numbers = _numbers(folder / NUMBERS)
            if stored["schema"] != SCHEMA:
                raise ValueError(f"schema {stored['schema']!r}")
            words, pieces = stored["words"], stored["pieces"]
            size = len(words) + len(pieces)
            if not all(isinstance(gram, str) for gram in (*words, *pieces)) or len({*words}) != len(words):
                raise ValueError("features are not different strings")
            if any(one.shape != (size,) or not np.isfinite(one).all() for one in numbers.values()):
                raise ValueError("numbers of another count, or not finite")
            scalars = [float(stored[key]) for key in ("bias", "slope", "offset")]
            if not all(map(math.isfinite, scalars)):
                raise ValueError("numbers that are not finite")
            return cls(
                words={gram: place for place, gram in enumerate(words)},
                pieces={gram: len(words) + place for place, gram in enumerate(pieces)},
                **numbers,
                bias=scalars[0],
                slope=scalars[1],
                offset=scalars[2],
                facts=dict(stored["facts"]),
            )
        except (OSError, ValueError, KeyError, TypeError, EOFError, RecursionError) as error:
            said = " ".join(str(error).split())[:160]
            raise ConfigError(
                f"{folder}: not a classifier that `detour safety train` wrote ({said}). Train it again."
            ) from error


def _numbers(path: Path) -> dict[str, NDArray[np.float64]]:
    """The two arrays of a classifier, whose headers are checked before their numbers are read.

    Raises:
        ValueError: too large, or other arrays.
    """
    import zipfile

    if path.stat().st_size > MAX_NUMBERS_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_NUMBERS_BYTES >> 20} MiB")
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if entries.keys() != {"idf.npy", "weights.npy"}:
                raise ValueError(f"{path.name} holds other arrays")
            for name, entry in entries.items():
                if entry.file_size > MAX_NUMBERS_BYTES:
                    raise ValueError(f"{name} is larger than {MAX_NUMBERS_BYTES >> 20} MiB")
                with archive.open(entry) as stream:
                    array = np.lib.format.read_array(stream, allow_pickle=False)
                if array.dtype != np.float64:
                    raise ValueError(f"{name} is {array.dtype}")
                found[name.removesuffix(".npy")] = array
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path.name}: {error}") from error
    return found


@dataclass(frozen=True, kw_only=True)
class LabelledPrompt:
    """A prompt and whether it asks for what must not appear."""

    text: str
    unwanted: bool


def classifier_of(
    vectorizer: Any, model: Any, *, slope: float, offset: float, facts: Mapping[str, Any]
) -> PromptClassifier:
    """Take the numbers out of a trained scikit-learn pipeline.

    Args:
        vectorizer: a ``FeatureUnion`` of the parts ``words`` and ``pieces``, both fitted ``TfidfVectorizer``.
        model: a fitted linear classifier of two classes.
        slope: of the calibration.
        offset: of the calibration.
        facts: kept beside them.
    """
    parts = dict(vectorizer.transformer_list)
    words, pieces = (
        {str(k): int(v) for k, v in parts[name].vocabulary_.items()} for name in ("words", "pieces")
    )
    return PromptClassifier(
        words=words,
        pieces={gram: len(words) + place for gram, place in pieces.items()},
        idf=np.concatenate([parts["words"].idf_, parts["pieces"].idf_]).astype(np.float64),
        weights=np.asarray(model.coef_, np.float64).ravel(),
        bias=float(np.ravel(model.intercept_)[0]),
        slope=slope,
        offset=offset,
        facts=facts,
    )


def vectorizers(num_texts: int) -> Sequence[tuple[str, Any]]:
    """Unfitted vectorizers of the features that :class:`PromptClassifier` counts.

    Args:
        num_texts: that they will be fitted on; features of a single text are left out where there are many.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    shared: dict[str, Any] = {
        "preprocessor": None,
        "lowercase": False,
        "sublinear_tf": True,
        "min_df": 2 if num_texts >= 200 else 1,
        "dtype": np.float64,
    }
    half = MAX_FEATURES // 2
    return [
        ("words", TfidfVectorizer(ngram_range=WORD_GRAMS, max_features=half, **shared)),
        ("pieces", TfidfVectorizer(analyzer="char_wb", ngram_range=PIECE_GRAMS, max_features=half, **shared)),
    ]
