"""Answers to lab 13, reference and subject."""

from typing import Any

import numpy as np
import torch

from tests.labs.answers import AlsoRight, Answers


def tokens(e: Any, w: Any, b: Any, num: int, *, raw: bool = False) -> Any:
    found = (e @ w.T + b).reshape(len(e), num, -1)
    if raw:
        return found
    centred = found - found.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def attend(q: Any, k: Any, v: Any, scale: float = 1.0, dim: int = -1) -> Any:
    return (scale * q @ k.T / q.shape[-1] ** 0.5).softmax(dim) @ v


def decoupled(q: Any, k: Any, v: Any, pk: Any, pv: Any, s: float) -> Any:
    return attend(q, k, v) + s * attend(q, pk, pv)


def rows(e: Any) -> Any:
    return torch.cat([0 * e, e])


def kept(likes: Any, place: Any, least: float) -> float:
    return sum(like >= least and there for like, there in zip(likes, place, strict=True)) / len(place)


ANSWERS: Answers = {
    "picture_tokens": (
        tokens,
        [
            (lambda e, w, b, num: tokens(e, w, b, num, raw=True), "not normalised"),
            (lambda e, w, b, num: tokens(e, w, 0 * b, num), "bias is missing"),
            (
                lambda e, w, b, num: tokens(e, w, b, 1).reshape(len(e), num, -1),
                "all tokens of a picture together",
            ),
            (
                lambda e, w, b, num: torch.nn.functional.layer_norm(
                    (e @ w.T + b).reshape(len(e), -1, num).transpose(1, 2), (len(b) // num,)
                ),
                "interleaved",
            ),
            (lambda e, w, b, num: tokens(e, w, b, num, raw=True).softmax(-1), "softmax of the tokens"),
            (
                lambda e, w, b, num: (raw := tokens(e, w, b, num, raw=True)) / raw.norm(dim=-1, keepdim=True),
                "by its length",
            ),
            (lambda e, w, b, num: tokens(e, w, b, num).reshape(len(e), -1), "one vector a picture"),
            (lambda e, w, b, num: tokens(e, w, b, num).half(), "off by up to"),
            (lambda e, w, b, num: None, "returns nothing"),
        ],
    ),
    "decoupled": (
        decoupled,
        [
            (
                lambda q, k, v, pk, pv, s: attend(q, torch.cat([k, pk]), torch.cat([v, s * pv])),
                "share one softmax",
            ),
            (
                lambda q, k, v, pk, pv, s: torch.lerp(attend(q, k, v), attend(q, pk, pv), s),
                "mix text and picture",
            ),
            (lambda q, k, v, pk, pv, s: attend(q, k, v) + attend(q, pk, pv, s), "on the keys"),
            (lambda q, k, v, pk, pv, s: decoupled(q, k, v, pk, pv, 1.0), "has no effect"),
            (lambda q, k, v, pk, pv, s: s * decoupled(q, k, v, pk, pv, 1.0), "on the text too"),
            (
                lambda q, k, v, pk, pv, s: decoupled(q * q.shape[-1] ** 0.5, k, v, pk, pv, s),
                "not divided by √d",
            ),
            (
                lambda q, k, v, pk, pv, s: attend(q, k, v, dim=0) + s * attend(q, pk, pv, dim=0),
                "over the queries",
            ),
            (lambda q, k, v, pk, pv, s: decoupled(q, k, v, pk, pk, s), "keys for its values"),
            (lambda q, k, v, pk, pv, s: attend(q, k, v), "off by up to"),
        ],
    ),
    "shown_rows": (
        rows,
        [
            (lambda e: torch.cat([e, 0 * e]), "come first"),
            (lambda e: e.repeat(2, 1), "cancel out"),
            (lambda e: torch.stack([0 * e, e], dim=1).reshape(2 * len(e), -1), "take turns"),
            (lambda e: torch.cat([-e, e]), "opposite"),
            (lambda e: torch.cat([e**0, e]), "shown ones"),
            (lambda e: torch.cat([0 * e + e.mean(0), e]), "mean of the batch"),
            (lambda e: torch.cat([0 * e[:1], e]), "one row without a prompt"),
            (lambda e: e, "one row a picture"),
            (lambda e: None, "returns nothing"),
        ],
    ),
    "kept": (
        kept,
        [
            (
                lambda likes, place, least: (
                    float(np.mean(np.array(likes) >= least)) * float(np.mean(np.array(place)))
                ),
                "multiply the two shares",
            ),
            (lambda likes, place, least: float(np.mean(np.array(likes) >= least)), "likeness alone"),
            (lambda likes, place, least: sum(place) / len(place), "place alone"),
            (
                lambda likes, place, least: float(np.mean((np.array(likes) >= least) | np.array(place))),
                "one of the two",
            ),
            (
                lambda likes, place, least: float(np.mean((np.array(likes) > least) & np.array(place))),
                "exactly the limit",
            ),
            (
                lambda likes, place, least: kept(likes, place, least) * len(place) / max(sum(place), 1),
                "divide by the pictures",
            ),
            (
                lambda likes, place, least: min(np.mean(np.array(likes) >= least), np.mean(np.array(place))),
                "smaller of the two",
            ),
            (lambda likes, place, least: 1 - kept(likes, place, least), "is lost"),
            (lambda likes, place, least: 0.4, "whatever it is given"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "picture_tokens": [
        lambda e, w, b, num: torch.stack(
            [
                torch.nn.functional.layer_norm(part, (part.shape[-1],))
                for part in (e @ w.T + b).chunk(num, dim=-1)
            ],
            dim=1,
        ),
    ],
    "decoupled": [
        lambda q, k, v, pk, pv, s: attend(q, k, v) + attend(q, pk, s * pv),
        lambda q, k, v, pk, pv, s: (
            torch.nn.functional.scaled_dot_product_attention(
                q.expand(2, -1, -1), torch.stack([k, k]), torch.stack([v, v])
            )[1]
            + attend(q, pk, pv) * s
        ),
    ],
    "shown_rows": [
        lambda e: torch.nn.functional.pad(e, (0, 0, len(e), 0)),
        lambda e: torch.stack([torch.zeros_like(e), e]).flatten(0, 1),
    ],
    "kept": [
        lambda likes, place, least: float(np.mean((np.array(likes) >= least) & np.array(place))),
    ],
}
