"""Answers to lab 19, where along the schedule an adapter acts."""

from typing import Any

import numpy as np
import torch

from tests.labs.answers import AlsoRight, Answers

THIRDS = ("early", "middle", "late")


def length(rows: Any) -> Any:
    return rows.flatten(1).norm(dim=1)


def relative_move(with_it: Any, without: Any) -> Any:
    return length(with_it - without) / length(without)


def strength_at(third: str, step: int, steps: int) -> float:
    return 1.0 if THIRDS[3 * step // steps] == third else 0.0


def share_of_move(part: Any, plain: Any, full: Any) -> float:
    whole = full - plain
    return float(((part - plain) * whole).sum() / whole.square().sum())


ANSWERS: Answers = {
    "relative_move": (
        relative_move,
        [
            (lambda w, o: length(w - o) / length(w), "with the adapter"),
            (lambda w, o: length(w - o), "length of the move alone"),
            (lambda w, o: length(w) / length(o), "two lengths"),
            (lambda w, o: ((w - o).norm() / o.norm()).expand(len(w)), "over all rows"),
            (lambda w, o: relative_move(w, o) ** 2, "squares"),
            (lambda w, o: ((w - o) / o).abs().flatten(1).mean(1), "single numbers"),
            (lambda w, o: (w - o).norm(dim=1), "shape"),
            (lambda w, o: None, "returns nothing"),
        ],
    ),
    "clean_move": (
        lambda move, a, b: -b / a * move,
        [
            (lambda move, a, b: b / a * move, "sign"),
            (lambda move, a, b: -a / b * move, "exchanged"),
            (lambda move, a, b: -b * move, "do not divide"),
            (lambda move, a, b: -move / a, "leave the share of the noise out"),
            (lambda move, a, b: -move, "take the move of the noise"),
            (lambda move, a, b: -((b / a) ** 2) * move, "square the ratio"),
            (lambda move, a, b: (-b / a * move).half(), "off by up to"),
            (lambda move, a, b: None, "returns nothing"),
        ],
    ),
    "strength_at": (
        strength_at,
        [
            (lambda third, step, steps: strength_at(third, steps - 1 - step, steps), "clean end"),
            (lambda third, step, steps: 1.0 - strength_at(third, step, steps), "off in the third"),
            (lambda third, step, steps: float(THIRDS[min(2, 3 * (step + 1) // steps)] == third), "step ends"),
            (
                lambda third, step, steps: float(THIRDS[min(2, step // (steps // 3))] == third),
                "round the length",
            ),
            (lambda third, step, steps: float(THIRDS.index(third) <= 3 * step // steps), "until the end"),
            (lambda third, step, steps: float(THIRDS.index(third) >= 3 * step // steps), "from the start"),
            (lambda third, step, steps: 1.0, "whatever it is given"),
            (lambda third, step, steps: None, "returns nothing"),
        ],
    ),
    "share_of_move": (
        share_of_move,
        [
            (
                lambda part, plain, full: float((part - plain).norm() / (full - plain).norm()),
                "lengths of the two",
            ),
            (
                lambda part, plain, full: float(
                    torch.nn.functional.cosine_similarity(
                        (part - plain).flatten(), (full - plain).flatten(), dim=0
                    )
                ),
                "cosine",
            ),
            (lambda part, plain, full: 1 - share_of_move(part, plain, full), "missing"),
            (lambda part, plain, full: share_of_move(part, full, plain), "missing"),
            (lambda part, plain, full: float((part * full).sum() / full.square().sum()), "do not subtract"),
            (
                lambda part, plain, full: float(
                    (((part - plain) * (full - plain)).sum(1) / (full - plain).square().sum(1)).mean()
                ),
                "average the shares",
            ),
            (lambda part, plain, full: 0.5, "whatever it is given"),
            (lambda part, plain, full: None, "returns nothing"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "relative_move": [
        lambda w, o: (
            torch.linalg.vector_norm(o - w, dim=(1, 2, 3)) / torch.linalg.vector_norm(o, dim=(1, 2, 3))
        ),
        lambda w, o: ((w - o).square().sum((1, 2, 3)) / o.square().sum((1, 2, 3))).sqrt(),
    ],
    "clean_move": [
        lambda move, a, b: -(b * move) / a,
        lambda move, a, b: (0 - b * move.double() / a).float(),
    ],
    "strength_at": [
        lambda third, step, steps: float(
            THIRDS.index(third) / 3 <= step / steps < THIRDS.index(third) / 3 + 1 / 3
        ),
        lambda third, step, steps: int(np.floor(3 * step / steps + 1e-9) == THIRDS.index(third)),
    ],
    "share_of_move": [
        lambda part, plain, full: float(
            torch.linalg.lstsq((full - plain).reshape(-1, 1), (part - plain).reshape(-1, 1)).solution
        ),
        lambda part, plain, full: (
            1 - float(((full - part) * (full - plain)).sum() / (full - plain).norm() ** 2)
        ),
    ],
}
