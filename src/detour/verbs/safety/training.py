"""Train the classifier of prompts on labelled examples."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from detour.errors import DataError, MissingExtra
from detour.files import read_text
from detour.safety.classifier import LabelledPrompt, PromptClassifier, classifier_of, vectorizers
from detour.safety.normalising import normalised
from detour.verbs.staging import refuse_unwritable

MAX_CSV_BYTES = 64 << 20
MAX_ROWS = 500_000
FOLDS = 5
MIN_EACH = 20
"""Examples of each kind that are needed: fewer cannot be calibrated."""
BINS = 10
LABELS = {"1": True, "yes": True, "true": True, "0": False, "no": False, "false": False}


class TrainedClassifier(BaseModel):
    """What :func:`train_prompt_classifier` wrote, and how well it tells the examples apart.

    The figures are out of fold: each example was scored by a model that had not seen it. They are of these examples,
    not of what clients will write; ``detour safety measure`` on another set says more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    unwanted: int
    harmless: int
    repeated: int
    """Rows left out because the same text stands there already."""
    features: int
    auc: float
    """Chance that an unwanted example scores above a harmless one."""
    brier: float
    """Mean squared error of the probability: 0 is perfect, a quarter is a coin."""
    calibration_error: float
    """Mean distance of the probability to the true share, over ten bins of equal width, weighed by their examples."""

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)


def read_labelled(path: Path) -> tuple[list[LabelledPrompt], int]:
    """Read labelled prompts: a CSV file with the columns ``text`` and ``unwanted`` (1 or 0, yes or no).

    Returns:
        the different prompts, and how many rows were repeated.

    Raises:
        DataError: unreadable, other columns, a label that is neither, or one text with both labels.
    """
    text = read_text(path, max_bytes=MAX_CSV_BYTES, error=DataError)
    reader = csv.DictReader(io.StringIO(text), strict=True)
    found: dict[str, LabelledPrompt] = {}
    repeated = 0
    try:
        if not {"text", "unwanted"} <= {*(reader.fieldnames or ())}:
            raise DataError(
                f"{path}: needs the columns text and unwanted; it has {reader.fieldnames or 'none'}."
            )
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            label = LABELS.get((row["unwanted"] or "").strip().lower())
            if label is None:
                raise DataError(f"{where}: unwanted is {row['unwanted']!r}. Write 1 or 0.")
            key = normalised(row["text"] or "")
            if not key:
                raise DataError(f"{where}: no text. Delete the line.")
            before = found.get(key)
            if before is not None and before.unwanted != label:
                raise DataError(f"{where}: the same text has both labels. Decide for one.")
            repeated += before is not None
            found[key] = LabelledPrompt(text=row["text"], unwanted=label)
            if len(found) > MAX_ROWS:
                raise DataError(f"{path}: more than {MAX_ROWS:,} rows. Pass fewer.")
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error}).") from error
    return list(found.values()), repeated


def train_prompt_classifier(labelled: Path, *, out: Path, seed: int = 0) -> TrainedClassifier:
    """Train, calibrate and store a classifier of prompts.

    Args:
        labelled: CSV with the columns ``text`` and ``unwanted``.
        out: folder; a classifier that is there already is replaced.
        seed: of the folds.

    Raises:
        DataError: the examples cannot be read, or are too few.
        MissingExtra: scikit-learn is not installed.
        StorageError: the folder cannot be written.
    """
    refuse_unwritable(out, as_folder=True)
    examples, repeated = read_labelled(labelled)
    labels = np.array([one.unwanted for one in examples], dtype=np.int64)
    counts = int(labels.sum()), int(len(labels) - labels.sum())
    if min(counts) < MIN_EACH:
        raise DataError(
            f"{labelled}: {counts[0]} unwanted and {counts[1]} harmless prompts; at least {MIN_EACH} different ones of "
            "each are needed. Add examples."
        )
    texts = [normalised(one.text) for one in examples]
    classifier, figures = _fitted(texts, labels, seed)
    replace(classifier, facts={"unwanted": counts[0], "harmless": counts[1], **figures}).save(out)
    return TrainedClassifier(
        folder=out,
        unwanted=counts[0],
        harmless=counts[1],
        repeated=repeated,
        features=len(classifier.weights),
        **figures,
    )


def _fitted(texts: Sequence[str], labels: np.ndarray, seed: int) -> tuple[PromptClassifier, dict[str, float]]:
    """A calibrated classifier, and figures of scores by models that had not seen the example."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import brier_score_loss, roc_auc_score
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
        from sklearn.pipeline import FeatureUnion, make_pipeline
    except ImportError as error:
        raise MissingExtra(
            "training a classifier of prompts needs scikit-learn. Install it: pip install detour-lora[safety]"
        ) from error

    def linear() -> Any:
        return LogisticRegression(C=10.0, class_weight="balanced", max_iter=2000, random_state=seed)

    def whole() -> Any:
        return make_pipeline(FeatureUnion(list(vectorizers(len(texts)))), linear())

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    sums = cross_val_predict(whole(), list(texts), labels, cv=folds, method="decision_function")
    platt = LogisticRegression(C=1e6, max_iter=2000)
    # The calibration is held against sums that it was not fitted on, as the sums are by models that had not seen them.
    probabilities = cross_val_predict(platt, sums[:, None], labels, cv=folds, method="predict_proba")[:, 1]
    platt.fit(sums[:, None], labels)
    pipeline = whole().fit(list(texts), labels)
    figures = {
        "auc": round(float(roc_auc_score(labels, sums)), 4),
        "brier": round(float(brier_score_loss(labels, probabilities)), 4),
        "calibration_error": round(calibration_error(probabilities, labels), 4),
    }
    classifier = classifier_of(
        pipeline[0],
        pipeline[1],
        slope=-float(platt.coef_[0, 0]),
        offset=-float(platt.intercept_[0]),
        facts={},
    )
    return classifier, figures


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance of the probability to the true share, over ten bins of equal width.

    Source: expected calibration error, Naeini et al. 2015.
    """
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    total = 0.0
    for number in range(BINS):
        inside = bins == number
        if inside.any():
            total += inside.mean() * abs(float(probabilities[inside].mean() - labels[inside].mean()))
    return float(total)
