"""Grades of lab 16, safety in layers."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detour.labs.comparing import Mistake, compare
from detour.labs.grading import Grade, Grader, wrong
from detour.labs.hints import direction_of


def _plain(text: str) -> str:
    return f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "


def _found(prompt: str, terms: Sequence[str]) -> bool:
    return any(f" {term} " in _plain(prompt) for term in terms)


def term_layer(answer: Any) -> Grade:
    """Whole words and phrases, in any case, beside punctuation, at both ends, with one term and with several."""
    terms = ["crown", "royal headgear"]
    cases = [
        ("a red crown in the desert", terms),
        ("royal headgear on a table", terms),
        ("a Crown, please!", terms),
        ("a crowned cat", terms),
        ("three crowns", terms),
        ("the crow flies", terms),
        ("royal blue headgear", terms),
        ("crown", ["crown"]),
        ("a small (crown)", terms),
        ("royal  headgear", terms),
        ("a cup", terms),
        ("a cup", ["cup", "key"]),
        ("a key", ["cup", "key"]),
    ]
    return compare(
        answer,
        _found,
        cases,
        [
            Mistake(
                formula=lambda prompt, terms: any(term in prompt.lower() for term in terms),
                what="your layer flags words that only begin like a term.",
                why="'crowned' is another word than 'crown', and false alarms cost people.",
                hint="look for the term with a blank on both sides, in a text with blanks around every word.",
            ),
            Mistake(
                formula=lambda prompt, terms: any(
                    f" {term}{end} " in _plain(prompt) for term in terms for end in ("", "s")
                ),
                what="your layer flags plurals as well.",
                why="whole words of the list are asked for; whoever wants the plural too writes it into the list.",
                hint="look for the term itself, with a blank on both sides.",
            ),
            Mistake(
                formula=lambda prompt, terms: any(f" {term} " in f" {prompt.lower()} " for term in terms),
                what="punctuation hides a term from your layer.",
                why="'crown,' and '(crown)' are the word crown for every reader.",
                hint='re.findall(r"[a-z0-9]+", …) gives the words without what stands around them.',
            ),
            Mistake(
                formula=lambda prompt, terms: any(
                    f" {term} " in f" {' '.join(re.findall('[a-zA-Z0-9]+', prompt))} " for term in terms
                ),
                what="a capital letter hides a term from your layer.",
                why="'Crown' is the word crown for every reader.",
                hint="prompt.lower() first.",
            ),
            Mistake(
                formula=lambda prompt, terms: any(term in _plain(prompt).split() for term in terms),
                what="your layer never finds a term of two words.",
                why="'royal headgear' is no word of the list, it is two that stand side by side.",
                hint="join the words with single blanks, and look for the phrase in that text.",
            ),
            Mistake(
                formula=lambda prompt, terms: any(
                    all(word in _plain(prompt).split() for word in term.split()) for term in terms
                ),
                what="your layer flags the words of a phrase wherever they stand.",
                why="'royal blue headgear' is not the phrase: its words have to stand side by side.",
                hint="join the words with single blanks, and look for the whole phrase in that text.",
            ),
            Mistake(
                formula=lambda prompt, terms: all(f" {term} " in _plain(prompt) for term in terms),
                what="your layer asks for all terms at once.",
                why="one unwanted word is enough.",
                hint="any(…) in place of all(…).",
            ),
            Mistake(
                formula=lambda prompt, terms: f" {terms[0]} " in _plain(prompt),
                what="your layer knows the first term alone.",
                why="the list has several.",
                hint="any(… for term in terms).",
            ),
            Mistake(
                formula=lambda prompt, terms: not _found(prompt, terms),
                what="your answer is the opposite.",
                why="True was to mean that the prompt is flagged.",
                hint="drop the not.",
            ),
        ],
        why="a term counts where it stands as whole words.",
        hint=direction_of(16, "term_layer"),
        praise="Whole words only: nobody is annoyed by a crowned cat, and every other spelling passes.",
    )


def _rates(flagged: Sequence[bool], unwanted: Sequence[bool]) -> tuple[float, float]:
    missed = sum(bad and not flag for flag, bad in zip(flagged, unwanted, strict=True))
    alarms = sum(flag and not bad for flag, bad in zip(flagged, unwanted, strict=True))
    return missed / sum(unwanted), alarms / (len(unwanted) - sum(unwanted))


def error_rates(answer: Any) -> Grade:
    """Groups of different sizes, with both errors, with one and with none."""
    yes, no = True, False
    cases = [
        ([yes, no, no, yes, no, no, no], [yes, yes, yes, no, no, no, no]),
        ([yes, yes, no], [yes, yes, no]),
        ([no, no, no, yes, yes], [yes, no, no, no, no]),
        ([yes, yes, yes, no], [yes, yes, no, no]),
        ([no, yes, no, no, yes, no], [yes, yes, yes, yes, no, no]),
    ]

    def parts(flagged: Sequence[bool], unwanted: Sequence[bool]) -> tuple[int, int, int, int]:
        pairs = list(zip(flagged, unwanted, strict=True))
        return tuple(pairs.count(one) for one in ((no, yes), (yes, no), (yes, yes), (no, no)))  # type: ignore[return-value]

    def over_all(flagged: Sequence[bool], unwanted: Sequence[bool]) -> tuple[float, float]:
        missed, alarms, _, _ = parts(flagged, unwanted)
        return missed / len(unwanted), alarms / len(unwanted)

    def caught(flagged: Sequence[bool], unwanted: Sequence[bool]) -> tuple[float, float]:
        missed, alarms = _rates(flagged, unwanted)
        return 1 - missed, alarms

    def of_flagged(flagged: Sequence[bool], unwanted: Sequence[bool]) -> tuple[float, float]:
        missed, alarms, hits, _ = parts(flagged, unwanted)
        return missed / sum(unwanted), alarms / (alarms + hits) if alarms + hits else 0.0

    def counted(flagged: Sequence[bool], unwanted: Sequence[bool]) -> tuple[float, float]:
        return parts(flagged, unwanted)[:2]

    return compare(
        answer,
        _rates,
        cases,
        [
            Mistake(
                formula=over_all,
                what="you divide by all cases.",
                why="then a set with few unwanted cases looks safe whatever the layer misses.",
                hint="misses are a share of the unwanted, false alarms of the harmless.",
            ),
            Mistake(
                formula=lambda flagged, unwanted: _rates(flagged, unwanted)[::-1],
                what="the two shares are exchanged.",
                why="the first was to be that of the misses.",
                hint="return misses, then false alarms.",
            ),
            Mistake(
                formula=caught,
                what="the first number is what was caught.",
                why="the share that was missed was asked for.",
                hint="count unwanted cases that are not flagged.",
            ),
            Mistake(
                formula=of_flagged,
                what="the second number is a share of what was flagged.",
                why="that depends on how many unwanted cases the set has; the layer's own error does not.",
                hint="divide by the number of harmless cases.",
            ),
            Mistake(
                formula=counted,
                what="you give counts, not shares.",
                why="three misses of four and three of three hundred are not the same.",
                hint="divide each by the size of its group.",
            ),
            Mistake(
                formula=lambda flagged, unwanted: _rates([not flag for flag in flagged], unwanted),
                what="you count what was flagged as missed.",
                why="a miss is an unwanted case that was *not* flagged.",
                hint="bad and not flag; flag and not bad.",
            ),
        ],
        why="misses over the unwanted, false alarms over the harmless.",
        hint=direction_of(16, "error_rates"),
        praise="Two numbers, always both: either of them alone can be made zero by flagging everything or nothing.",
    )


def stacked(answer: Any) -> Grade:
    """Two and three layers, and one alone."""
    yes, no = True, False
    return compare(
        answer,
        lambda layers: [any(flags) for flags in zip(*layers, strict=True)],
        [
            ([[yes, no, no, yes], [no, no, yes, yes]],),
            ([[no, no, no], [no, yes, no], [yes, no, no]],),
            ([[yes, no]],),
            ([[no, no, yes, no, yes], [no, no, yes, no, no]],),
        ],
        [
            Mistake(
                formula=lambda layers: [all(flags) for flags in zip(*layers, strict=True)],
                what="a case is flagged only where all layers flag it.",
                why="then each further layer misses more: the second was to find what the first cannot.",
                hint="any(…) in place of all(…).",
            ),
            Mistake(
                formula=lambda layers: list(layers[0]),
                what="the first layer decides alone.",
                why="the others stand behind it for what it misses.",
                hint="zip(*layers) goes over the cases, with every layer's flag of each.",
            ),
            Mistake(
                formula=lambda layers: list(layers[-1]),
                what="the last layer decides alone.",
                why="what an earlier layer flagged stays flagged.",
                hint="zip(*layers) goes over the cases, with every layer's flag of each.",
            ),
            Mistake(
                formula=lambda layers: [sum(flags) == 1 for flags in zip(*layers, strict=True)],
                what="what two layers flag passes.",
                why="a case that two layers flag is flagged all the more.",
                hint="any(…), not exactly one.",
            ),
            Mistake(
                formula=lambda layers: [any(flags) for flags in layers],
                what="you return one flag for each layer.",
                why="a flag for each case was asked for.",
                hint="zip(*layers) turns layers of cases into cases of layers.",
            ),
            Mistake(
                formula=lambda layers: [not any(flags) for flags in zip(*layers, strict=True)],
                what="your answer is the opposite.",
                why="True was to mean flagged.",
                hint="drop the not.",
            ),
        ],
        why="what any layer flags is flagged.",
        hint=direction_of(16, "stacked"),
        praise="Misses can only become fewer, false alarms only more: a layer has to be worth its alarms.",
    )


def _thresholds(scores: Sequence[float], unwanted: Sequence[bool]) -> tuple[float, float]:
    pairs = list(zip(scores, unwanted, strict=True))
    return min(score for score, bad in pairs if bad), max(score for score, bad in pairs if not bad)


def two_thresholds(answer: Any) -> Grade:
    """Groups that overlap, that do not, and with negative scores; in no order."""
    yes, no = True, False
    return compare(
        answer,
        _thresholds,
        [
            ([0.9, 0.2, 0.5, 0.7, 0.1], [yes, no, yes, no, no]),
            ([-0.3, 0.4, -0.1, 0.2], [no, yes, no, yes]),
            ([3.0, 1.0, 2.0, 4.0, 2.5, 0.5], [yes, yes, no, yes, no, no]),
            ([0.6, 0.8, 0.3], [no, yes, no]),
        ],
        [
            Mistake(
                formula=lambda scores, unwanted: _thresholds(scores, unwanted)[::-1],
                what="the two are exchanged.",
                why="the first was to be where holding begins.",
                hint="return hold, then refuse.",
            ),
            Mistake(
                formula=lambda scores, unwanted: (min(scores), max(scores)),
                what="you take the lowest and the highest of all scores.",
                why="then everything is held, and a person has to look at every picture.",
                hint="the lowest of the unwanted, the highest of the harmless.",
            ),
            Mistake(
                formula=lambda scores, unwanted: _thresholds(scores, [not bad for bad in unwanted]),
                what="you took the groups for each other.",
                why="hold must let no unwanted picture pass below it, refuse no harmless one above it.",
                hint="the lowest of the unwanted, the highest of the harmless.",
            ),
            Mistake(
                formula=lambda scores, unwanted: tuple(sorted(_thresholds(scores, unwanted))),
                what="you put the smaller one first.",
                why="where hold lies above refuse, the layer tells these cases apart; that has to be seen.",
                hint="return them as they are.",
            ),
            Mistake(
                formula=lambda scores, unwanted: (
                    max(score for score, bad in zip(scores, unwanted, strict=True) if bad),
                    min(score for score, bad in zip(scores, unwanted, strict=True) if not bad),
                ),
                what="you took the highest of the unwanted and the lowest of the harmless.",
                why="below such a hold nearly all unwanted pictures pass.",
                hint="min of the unwanted, max of the harmless.",
            ),
            Mistake(
                formula=lambda scores, unwanted: (
                    _mean([score for score, bad in zip(scores, unwanted, strict=True) if bad]),
                    _mean([score for score, bad in zip(scores, unwanted, strict=True) if not bad]),
                ),
                what="you take the means.",
                why="half of each group lies on the wrong side of its mean.",
                hint="min of the unwanted, max of the harmless.",
            ),
        ],
        why="hold is the lowest unwanted score, refuse the highest harmless one.",
        hint=direction_of(16, "two_thresholds"),
        praise="Between the two a person decides; what that costs is the width of the gap.",
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _order(
    held: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], Any], room: int
) -> list[int]:
    return [one["id"] for one in sorted(held, key=key)[:room]]


def work_queue(answer: Any) -> Grade:
    """Queues with ties, with more room than pictures, and with no room."""

    def queue(*rows: tuple[int, float, float]) -> list[dict[str, Any]]:
        return [{"id": name, "expires": expires, "score": score} for name, expires, score in rows]

    first = queue((1, 5, 0.2), (2, 1, 0.4), (3, 1, 0.1), (4, 3, 0.9), (5, 2, 0.3))
    second = queue((11, 2, 0.5), (12, 2, 0.2), (13, 2, 0.8), (14, 7, 0.1), (15, 1, 0.9), (16, 4, 0.6))
    rows = answer(queue((1, 5, 0.2)), 1) if callable(answer) else None
    if isinstance(rows, list | tuple) and any(isinstance(one, dict) for one in rows):
        return wrong(
            "your function returns the entries of the queue.",
            why="who works the queue is handed the ids.",
            hint='one["id"] for each entry that is left.',
        )
    return compare(
        answer,
        lambda held, room: _order(held, lambda one: (one["expires"], one["score"]), room),
        [(first, 3), (second, 4), (second, 2), (first, 10), (second, 1), (first, 2)],
        [
            Mistake(
                formula=lambda held, room: _order(held, lambda one: -one["score"], room),
                what="you look at the most suspicious first.",
                why="most of these are refused anyway; what expires meanwhile is refused unseen.",
                hint="sort by expires first.",
            ),
            Mistake(
                formula=lambda held, room: _order(held, lambda one: (one["expires"], -one["score"]), room),
                what="of two that expire together you take the more suspicious one.",
                why="the one with the lower score is more likely to be somebody's harmless picture.",
                hint="sort by (expires, score).",
            ),
            Mistake(
                formula=lambda held, room: _order(held, lambda one: (-one["expires"], one["score"]), room),
                what="you begin with what expires last.",
                why="what expires first is gone by then.",
                hint="the fewest hours first.",
            ),
            Mistake(
                formula=lambda held, room: _order(held, lambda one: one["expires"], room),
                what="of two that expire together you take the one that came first.",
                why="the task asks for the lower score among them.",
                hint="sort by (expires, score).",
            ),
            Mistake(
                formula=lambda held, room: _order(held, lambda one: (one["score"], one["expires"]), room),
                what="you sort by the score first.",
                why="what expires first cannot wait.",
                hint="sort by (expires, score).",
            ),
            Mistake(
                formula=lambda held, room: _order(
                    held, lambda one: (one["expires"], one["score"]), len(held)
                ),
                what="you return the whole queue.",
                why="there is room for so many only.",
                hint="[:room] behind the sorted list.",
            ),
            Mistake(
                formula=lambda held, room: [one["id"] for one in held[:room]],
                what="you take them in the order in which they came.",
                why="what expires first cannot wait.",
                hint="sorted(held, key=…)[:room].",
            ),
        ],
        why="what expires first comes first, then the lower score, at most as many as there is room for.",
        hint=direction_of(16, "work_queue"),
        praise="A queue is worked for those who wait in it, not for those who are refused anyway.",
    )


TASKS: Mapping[str, Grader] = {
    "term_layer": term_layer,
    "error_rates": error_rates,
    "stacked": stacked,
    "two_thresholds": two_thresholds,
    "work_queue": work_queue,
}
