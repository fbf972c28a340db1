"""Answers to lab 16, safety in layers."""

import re
from typing import Any

import numpy as np

from tests.labs.answers import AlsoRight, Answers


def plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def rates(flagged: Any, unwanted: Any) -> tuple[float, float]:
    bad = [flag for flag, one in zip(flagged, unwanted, strict=True) if one]
    good = [flag for flag, one in zip(flagged, unwanted, strict=True) if not one]
    return bad.count(False) / len(bad), good.count(True) / len(good)


def limits(scores: Any, unwanted: Any) -> tuple[float, float]:
    return (
        min(score for score, bad in zip(scores, unwanted, strict=True) if bad),
        max(score for score, bad in zip(scores, unwanted, strict=True) if not bad),
    )


def ids(held: Any, key: Any, room: int) -> list[int]:
    return [one["id"] for one in sorted(held, key=key)][:room]


ANSWERS: Answers = {
    "term_layer": (
        lambda prompt, terms: any(f" {term} " in f" {plain(prompt)} " for term in terms),
        [
            (lambda prompt, terms: any(term in prompt.lower() for term in terms), "begin like a term"),
            (
                lambda prompt, terms: any(f" {term} " in f" {prompt.lower()} " for term in terms),
                "punctuation",
            ),
            (
                lambda prompt, terms: any(
                    f" {term} " in f" {' '.join(re.findall('[a-zA-Z0-9]+', prompt))} " for term in terms
                ),
                "capital letter",
            ),
            (lambda prompt, terms: any(term in plain(prompt).split() for term in terms), "two words"),
            (
                lambda prompt, terms: any(
                    all(word in plain(prompt).split() for word in term.split()) for term in terms
                ),
                "wherever they stand",
            ),
            (
                lambda prompt, terms: all(f" {term} " in f" {plain(prompt)} " for term in terms),
                "all terms at once",
            ),
            (lambda prompt, terms: f" {terms[0]} " in f" {plain(prompt)} ", "first term alone"),
            (
                lambda prompt, terms: not any(f" {term} " in f" {plain(prompt)} " for term in terms),
                "the opposite",
            ),
            (lambda prompt, terms: None, "returns nothing"),
        ],
    ),
    "error_rates": (
        rates,
        [
            (
                lambda flagged, unwanted: (
                    sum(bad and not flag for flag, bad in zip(flagged, unwanted, strict=True)) / len(flagged),
                    sum(flag and not bad for flag, bad in zip(flagged, unwanted, strict=True)) / len(flagged),
                ),
                "divide by all cases",
            ),
            (lambda flagged, unwanted: rates(flagged, unwanted)[::-1], "exchanged"),
            (
                lambda flagged, unwanted: (1 - rates(flagged, unwanted)[0], rates(flagged, unwanted)[1]),
                "caught",
            ),
            (
                lambda flagged, unwanted: (
                    sum(bad and not flag for flag, bad in zip(flagged, unwanted, strict=True)),
                    sum(flag and not bad for flag, bad in zip(flagged, unwanted, strict=True)),
                ),
                "counts, not shares",
            ),
            (lambda flagged, unwanted: rates([not one for one in flagged], unwanted), "flagged as missed"),
            (
                lambda flagged, unwanted: (
                    rates(flagged, unwanted)[0],
                    sum(flag and not bad for flag, bad in zip(flagged, unwanted, strict=True))
                    / max(1, sum(flagged)),
                ),
                "share of what was flagged",
            ),
            (lambda flagged, unwanted: rates(flagged, unwanted)[0], "list or tuple"),
            (lambda flagged, unwanted: (0.5, 0.5), "whatever it is given"),
        ],
    ),
    "stacked": (
        lambda layers: [any(flags) for flags in zip(*layers, strict=True)],
        [
            (lambda layers: [all(flags) for flags in zip(*layers, strict=True)], "only where all layers"),
            (lambda layers: layers[0], "first layer decides alone"),
            (lambda layers: layers[-1], "last layer decides alone"),
            (
                lambda layers: [sum(flags) == 1 for flags in zip(*layers, strict=True)],
                "two layers flag passes",
            ),
            (lambda layers: [any(flags) for flags in layers], "one flag for each layer"),
            (lambda layers: [not any(flags) for flags in zip(*layers, strict=True)], "the opposite"),
            (lambda layers: [True] * len(layers[0]), "was expected"),
            (lambda layers: None, "returns nothing"),
        ],
    ),
    "two_thresholds": (
        limits,
        [
            (lambda scores, unwanted: limits(scores, unwanted)[::-1], "exchanged"),
            (lambda scores, unwanted: (min(scores), max(scores)), "of all scores"),
            (
                lambda scores, unwanted: limits(scores, [not bad for bad in unwanted]),
                "the lowest and the highest",
            ),
            (lambda scores, unwanted: sorted(limits(scores, unwanted)), "smaller one first"),
            (
                lambda scores, unwanted: (
                    max(score for score, bad in zip(scores, unwanted, strict=True) if bad),
                    min(score for score, bad in zip(scores, unwanted, strict=True) if not bad),
                ),
                "highest of the unwanted",
            ),
            (
                lambda scores, unwanted: tuple(
                    float(
                        np.mean([score for score, bad in zip(scores, unwanted, strict=True) if bad is group])
                    )
                    for group in (True, False)
                ),
                "the means",
            ),
            (lambda scores, unwanted: sum(scores) / len(scores), "list or tuple"),
            (lambda scores, unwanted: (0.5, 0.5), "whatever it is given"),
        ],
    ),
    "work_queue": (
        lambda held, room: ids(held, lambda one: (one["expires"], one["score"]), room),
        [
            (lambda held, room: ids(held, lambda one: -one["score"], room), "most suspicious first"),
            (
                lambda held, room: ids(held, lambda one: (one["expires"], -one["score"]), room),
                "the more suspicious one",
            ),
            (lambda held, room: ids(held, lambda one: (-one["expires"], one["score"]), room), "expires last"),
            (lambda held, room: ids(held, lambda one: one["expires"], room), "came first"),
            (lambda held, room: ids(held, lambda one: (one["score"], one["expires"]), room), "score first"),
            (lambda held, room: [one["id"] for one in held[:room]], "order in which they came"),
            (
                lambda held, room: ids(held, lambda one: (one["expires"], one["score"]), len(held)),
                "the whole queue",
            ),
            (
                lambda held, room: sorted(held, key=lambda one: (one["expires"], one["score"]))[:room],
                "entries of the queue",
            ),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "term_layer": [
        lambda prompt, terms: bool(
            re.search(rf"\b({'|'.join(map(re.escape, terms))})\b", " ".join(prompt.lower().split()))
        ),
        lambda prompt, terms: sum(f" {term} " in f" {plain(prompt)} " for term in terms) > 0,
    ],
    "error_rates": [
        lambda flagged, unwanted: list(rates(flagged, unwanted)),
        lambda flagged, unwanted: (
            1 - np.mean(np.array(flagged)[np.array(unwanted)]),
            np.mean(np.array(flagged)[~np.array(unwanted)]),
        ),
    ],
    "stacked": [
        lambda layers: list(np.any(np.array(layers), axis=0)),
        lambda layers: tuple(max(flags) for flags in zip(*layers, strict=True)),
    ],
    "two_thresholds": [
        lambda scores, unwanted: list(limits(scores, unwanted)),
        lambda scores, unwanted: (
            np.array(scores)[np.array(unwanted)].min(),
            np.array(scores)[~np.array(unwanted)].max(),
        ),
    ],
    "work_queue": [
        lambda held, room: tuple(ids(held, lambda one: (one["expires"], one["score"]), room)),
        lambda held, room: [
            name for _, _, name in sorted((one["expires"], one["score"], one["id"]) for one in held)
        ][:room],
    ],
}
