"""Measures whether a subject is drawn, whether its word is needed for it, and whether its class is preserved.

Features are never centred here: the mean of a subject's pictures is the subject.
"""

from dataclasses import dataclass

import numpy as np

from detour.errors import ShapeMismatch
from detour.evaluation import limits
from detour.evaluation.keeping import Answer, sign_flips
from detour.evaluation.reading import Rows, over_seeds

NO_ROOM = 1e-6
"""Difference of two likenesses up to which the base's pictures count as the subject's already."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Share of the way from the base's pictures (0) to the subject's own (1), with limits at 95 % on each side.

    Limits are ``None`` where the way is too short for them to mean anything.
    """

    share: float
    low: float | None
    high: float | None
    p_value: float
    """Probability that chance alone shows a share as large as this one."""


@dataclass(frozen=True, kw_only=True)
class SubjectLikeness:
    """Likeness of pictures to the subject.

    Attributes:
        taken: how far pictures of prompts with the subject's word went from the base's to the subject's own.
        taken_kept_out: the same share towards the pictures that were kept out of training alone; ``None`` without any.
        trigger: by how much of that way they lie beyond pictures of the same prompts and seeds without the word.
        own_class: how far pictures of the class alone went from the base's towards the subject.
        preserved: whether the class is kept, lost to the subject, or neither can be told.
        room: likeness of the subject's pictures to each other, less that of the base's to them.
        references: pictures of the subject that were compared with.
        prompts: of each side.
    """

    taken: Share
    taken_kept_out: float | None
    trigger: Share
    own_class: Share
    preserved: Answer
    room: float
    references: int
    prompts: int


def measure_subject(
    *,
    adapter: Rows,
    base: Rows,
    class_adapter: Rows,
    class_base: Rows,
    references: Rows,
    seeds: int = 1,
    kept_out: int = 0,
    seed: int = 0,
) -> SubjectLikeness:
    """Compare pictures of the subject and of its class with the subject's own pictures.

    Prompts are the samples: pictures of one prompt are averaged before anything is exchanged or drawn again.

    Args:
        adapter: (P × seeds, D) features of pictures whose prompts have the subject's word, prompt-major.
        base: (P × seeds, D) of the base, same prompts and seeds.
        class_adapter: (P × seeds, D) of the same prompts and seeds without that word.
        class_base: (P × seeds, D) of the base.
        references: (M, D) of the subject's own pictures, two or more.
        seeds: pictures of each prompt.
        kept_out: number of the references that were kept out of training; they come first.
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
        over_seeds(rows @ centre, seeds) for rows in (adapter, base, class_adapter, class_base)
    )
    total = len(references)
    to_others = (references @ references.sum(0) - (references**2).sum(1)) / (total - 1)
    themselves = float(to_others.mean())
    rng = np.random.default_rng(seed)

    def share(gaps: Rows, start: Rows) -> Share:
        picked = rng.integers(0, len(gaps), (limits.NUM_RESAMPLES, len(gaps)))
        rooms = themselves - start[picked].mean(1)
        drawn = gaps[picked].mean(1) / np.maximum(rooms, NO_ROOM)
        limited = float(np.quantile(rooms, 0.05)) > NO_ROOM
        return Share(
            share=_share(float(gaps.mean()), themselves - float(start.mean())),
            low=float(np.quantile(drawn, 0.05)) if limited else None,
            high=float(np.quantile(drawn, 0.95)) if limited else None,
            p_value=sign_flips(gaps, rng),
        )

    own_class = share(without - plain_class, plain_class)
    return SubjectLikeness(
        taken=share(with_word - plain, plain),
        taken_kept_out=_towards(adapter, base, references[:kept_out], float(to_others[:kept_out].mean()))
        if kept_out
        else None,
        trigger=share(with_word - without, plain),
        own_class=own_class,
        preserved=_preserved(own_class),
        room=themselves - float(plain_class.mean()),
        references=total,
        prompts=len(with_word),
    )


def _towards(adapter: Rows, base: Rows, some: Rows, themselves: float) -> float:
    """Share of the way towards some of the references, which are as like the others as ``themselves`` says."""
    centre = some.mean(0)
    start = float((base @ centre).mean())
    return _share(float((adapter @ centre).mean()) - start, themselves - start)


def _share(gap: float, room: float) -> float:
    return gap / room if room > NO_ROOM else 0.0


def _preserved(moved: Share) -> Answer:
    if moved.low is None or moved.high is None:
        return "unknown"
    if moved.low > limits.CLASS_DRIFT_MAX:
        return "lost"
    return "kept" if moved.high < limits.CLASS_DRIFT_MAX else "unknown"
