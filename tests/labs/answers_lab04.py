"""Answers to lab 4."""

from typing import Any

import torch

from tests.labs.answers import AlsoRight, Answers

MOVED = {(0, 0): 0.0, (1, 0): 30.0, (0, 1): 40.0, (1, 1): 50.0, (0.5, 0.5): 35.0, (0.8, 0.3): 20.0}


def pairs(*given: tuple[float, float]) -> dict[str, Any]:
    return {"moved": MOVED, "pairs": list(given)}


def stacked(d1: Any, u1: Any, s1: float, d2: Any, u2: Any, s2: float) -> Any:
    return torch.cat([s1 * d1, s2 * d2]), torch.cat([u1, u2], 1)


def cosine(a: Any, b: Any) -> Any:
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)


SEEN = {
    "at 1 and 1": "Lines stay and colours go.",
    "lower weights": "The first style comes back again.",
    "the prediction": "It said together, and so it is.",
}

ANSWERS: Answers = {
    "stack_factors": (
        stacked,
        [
            (
                lambda d1, u1, s1, d2, u2, s2: (
                    torch.cat([s1 * d1, s2 * d2]),
                    torch.cat([s1 * u1, s2 * u2], 1),
                ),
                "twice",
            ),
            (
                lambda d1, u1, s1, d2, u2, s2: (torch.cat([d1, d2]), torch.cat([u1, u2], 1)),
                "scales are not used",
            ),
            (lambda d1, u1, s1, d2, u2, s2: (s1 * d1 + s2 * d2, u1 + u2), "different ranks"),
            (lambda d1, u1, s1, d2, u2, s2: (d1, s1 * u1), "off by"),
            (lambda d1, u1, s1, d2, u2, s2: (torch.cat([d1, d2]).T, torch.cat([u1, u2], 1)), "should be"),
            (
                lambda d1, u1, s1, d2, u2, s2: (torch.cat([d1, d2]), torch.cat([s2 * u2, s1 * u1], 1)),
                "keep the order",
            ),
        ],
    ),
    "rank_of_sum": (8, [(4, "stays 4"), (16, "multiply"), (6, "count the rows")]),
    "agreement": (
        cosine,
        [
            (lambda a, b: (a * b).sum(), "divide by both norms"),
            (lambda a, b: abs(cosine(a, b)), "sign"),
            (lambda a, b: (a * b).sum() / a.norm() ** 2, "one of the two"),
            (lambda a, b: torch.nn.functional.cosine_similarity(a, b, dim=-1), "one number"),
            (lambda a, b: 0.0, "whatever it is given"),
        ],
    ),
    "louder": (
        pairs((1, 1)),
        [
            (pairs((1, 1), (0.5, 0.5)), "weaker"),
            (pairs(), "stronger adapter alone"),
            (pairs((1, 1), (0.8, 0.3)), "stronger adapter alone by 40.0"),
            (pairs((1, 0), (1, 1)), "without a zero"),
        ],
    ),
    "seen": (
        SEEN,
        [
            (SEEN | {"lower weights": " "}, "nothing is written"),
            (SEEN | {"lower weights": "good"}, "a word or two"),
            (SEEN | {"lower weights": SEEN["at 1 and 1"]}, "the same"),
        ],
    ),
}


def by_svd(d1: Any, u1: Any, s1: float, d2: Any, u2: Any, s2: float) -> Any:
    """The sum's own singular directions, filled up with zeros to the rank of both together."""
    left, sizes, right = torch.linalg.svd(s1 * u1 @ d1 + s2 * u2 @ d2, full_matrices=False)
    rank = len(d1) + len(d2)
    down, up = torch.zeros(rank, d1.shape[1], dtype=d1.dtype), torch.zeros(len(u1), rank, dtype=u1.dtype)
    num = min(rank, len(sizes))
    down[:num], up[:, :num] = right[:num], (left * sizes)[:, :num]
    return down, up


ALSO_RIGHT: AlsoRight = {
    "stack_factors": [
        by_svd,
        lambda d1, u1, s1, d2, u2, s2: [torch.cat([d2, d1]), torch.cat([s2 * u2, s1 * u1], 1)],
        lambda d1, u1, s1, d2, u2, s2: (torch.vstack([d1, s2 * d2]), torch.hstack([s1 * u1, u2])),
    ],
    "rank_of_sum": [8.0, torch.tensor(8)],
    "agreement": [
        lambda a, b: float((a / a.norm() * (b / b.norm())).sum()),
        lambda a, b: (a.flatten() @ b.flatten() / (a.square().sum() * b.square().sum()).sqrt()).item(),
    ],
    "louder": [{"moved": MOVED, "pairs": {(1.0, 1.0)}}, {"moved": MOVED, "pairs": ([1, 1],)}],
    "seen": [{place: words * 2 for place, words in SEEN.items()}],
}
