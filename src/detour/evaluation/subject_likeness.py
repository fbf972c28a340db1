"""Measures whether a subject is drawn, whether its word is needed for it, and whether its class is preserved.

Features are never centred here: the mean of a subject's pictures is the subject.
"""

from dataclasses import dataclass

import numpy as np

from detour.errors import ShapeMismatch
from detour.evaluation import limits
from detour.evaluation.keeping import Answer, sign_flips
from detour.evaluation.reading import Rows


@dataclass(frozen=True, kw_only=True)
class Share:
    """Share of the way from the base's pictures (0) to the subject's own (1), with limits at 95 % on each side."""

    share: float
    low: float
    high: float
    p_value: float
    """Probability that chance alone shows a share as large as this one."""


@dataclass(frozen=True, kw_only=True)
class SubjectLikeness:
    """Likeness of pictures to the subject.

    Attributes:
        taken: how far pictures of prompts with the subject's word went from the base's to the subject's own.
        trigger: by how much of that way they lie beyond pictures of the same prompts and seeds without the word.
        own_class: how far pictures of the class alone went from the base's towards the subject.
        preserved: whether the class is kept, lost to the subject, or neither can be told.
        room: likeness of the subject's pictures to each other, less that of the base's to them.
        references: pictures of the subject that were compared with.
        prompts: of each side.
    """

    taken: Share
    trigger: Share
    own_class: Share
    preserved: Answer
    room: float
    references: int
    prompts: int


def measure_subject(
    *, adapter: Rows, base: Rows, class_adapter: Rows, class_base: Rows, references: Rows, seed: int = 0
) -> SubjectLikeness:
    """Compare pictures of the subject and of its class with the subject's own pictures.

    Args:
        adapter: (P, D) features of pictures whose prompts have the subject's word.
        base: (P, D) of the base, same prompts and seeds.
        class_adapter: (P, D) of the same prompts and seeds without that word.
        class_base: (P, D) of the base.
        references: (M, D) of the subject's own pictures, two or more, those kept out among them.
        seed: of the permutations and of drawing again.

    Raises:
        ShapeMismatch: the sides do not pair up, or there are fewer than two references.
    """
    if len({adapter.shape, base.shape, class_adapter.shape, class_base.shape}) != 1 or len(references) < 2:
        raise ShapeMismatch(
            f"pictures of shapes {adapter.shape}, {base.shape}, {class_adapter.shape}, {class_base.shape} and "
            f"{len(references)} references: a subject needs four equal sides and two references."
        )
    centre = references.mean(0)
    with_word, plain, without, plain_class = (
        rows @ centre for rows in (adapter, base, class_adapter, class_base)
    )
    total = len(references)
    themselves = (references @ references.sum(0) - (references**2).sum(1)) / (total - 1)
    rng = np.random.default_rng(seed)

    def share(gaps: Rows, start: Rows) -> Share:
        room = max(float(themselves.mean() - start.mean()), 1e-6)
        picked = [rng.integers(0, len(gaps), len(gaps)) for _ in range(limits.NUM_RESAMPLES)]
        drawn = [
            gaps[rows].mean() / max(float(themselves.mean() - start[rows].mean()), 1e-6) for rows in picked
        ]
        return Share(
            share=float(gaps.mean()) / room,
            low=float(np.quantile(drawn, 0.05)),
            high=float(np.quantile(drawn, 0.95)),
            p_value=sign_flips(gaps, rng),
        )

    own_class = share(without - plain_class, plain_class)
    return SubjectLikeness(
        taken=share(with_word - plain, plain),
        trigger=share(with_word - without, plain),
        own_class=own_class,
        preserved=_preserved(own_class),
        room=float(themselves.mean() - plain_class.mean()),
        references=total,
        prompts=len(adapter),
    )


def _preserved(moved: Share) -> Answer:
    if moved.low > limits.CLASS_DRIFT_MAX:
        return "lost"
    return "kept" if moved.high < limits.CLASS_DRIFT_MAX else "unknown"
