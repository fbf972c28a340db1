"""What is wrong with a data set, each with what to do about it: what ``data check`` and ``train`` both say."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from detour.bases.parts import num_clip_tokens
from detour.data.finding import MAX_NAMES, Finding, counted, gravest_first
from detour.data.flaws import Mark, PictureFacts, common_mark
from detour.data.folder import Dataset, Example
from detour.data.framing import Frame, Framing
from detour.data.likeness import NEAR_BITS, near_pairs
from detour.errors import DataError

Goal = Literal["style", "subject"]

BLURRED = 0.6
MANY = 0.3
"""Share of the pictures from which on something is a trait of the set."""
CAPTION_TOKENS = 75
"""All that a CLIP text encoder reads of a caption, without the marks of beginning and end."""
MUCH_CUT = 0.4
"""Share of a picture above which cutting it away is a warning: 3:2 as a square loses 33 %, 16:9 44 %."""
FEW_CAPTIONS = 4
"""Number of captions below which a word in each of them means nothing."""
BOUND = 0.9
"""Share of the captions from which on a word counts as one that all of them have."""

STYLE_NEEDS = (
    "a style wants 50 to 200 varied pictures (20 can do), captions that say what is shown and not the style"
)
SUBJECT_NEEDS = (
    "a subject wants 5 to 20 pictures from different sides, places and light, and a rare word as --trigger"
)
FUNCTION_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "this",
        "that",
        "these",
        "those",
        "some",
        "any",
        "no",
        "and",
        "or",
        "but",
        "of",
        "in",
        "on",
        "at",
        "by",
        "to",
        "from",
        "with",
        "without",
        "into",
        "onto",
        "over",
        "under",
        "near",
        "beside",
        "behind",
        "above",
        "below",
        "before",
        "after",
        "between",
        "through",
        "across",
        "against",
        "around",
        "inside",
        "outside",
        "up",
        "down",
        "off",
        "out",
        "as",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "being",
        "has",
        "have",
        "had",
        "it",
        "its",
        "he",
        "his",
        "she",
        "her",
        "him",
        "they",
        "their",
        "them",
        "there",
        "here",
        "one",
        "two",
        "very",
        "more",
        "most",
        "while",
        "which",
        "who",
        "whose",
        "what",
        "when",
        "where",
    ]
)
"""English words that name nothing in a picture."""


def find_flaws(
    dataset: Dataset,
    *,
    goal: Goal,
    framing: Framing,
    held_out: Collection[str],
    triggers: Sequence[str] = (),
    known_words: Sequence[str] = (),
) -> tuple[Finding, ...]:
    """Everything that is wrong with a data set, the gravest first, what reading it found included.

    A function of its arguments alone.

    Args:
        dataset: that was looked at, so that it has ``facts``; class pictures are not judged.
        goal: what the adapter is for.
        framing: how the pictures would be cut and scaled.
        held_out: names of the pictures that a run would keep out.
        triggers: words that call what is learned; they may stand in every caption.
        known_words: others that may, such as templates and class prompts.

    Raises:
        ValueError: the pictures were not looked at.
    """
    examples = dataset.examples
    if any(example.name not in dataset.facts for example in examples):
        raise ValueError("these pictures were read without looking at them: flaws cannot be found")
    facts = [dataset.facts[example.name] for example in examples]
    known = set(words_of(" ".join([*triggers, *known_words])))
    return gravest_first(
        [
            *dataset.findings,
            *_caption_findings(examples, goal, known),
            *_copies(examples, facts, held_out),
            *_frame_findings(examples, framing),
            *_flaws(examples, facts),
            *_amount(len(examples), goal, has_trigger=any(triggers)),
        ]
    )


def words_of(caption: str) -> list[str]:
    """The distinct words of a caption that can name something, lower case, in order."""
    words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", caption.lower())
    return [word for word in dict.fromkeys(words) if word not in FUNCTION_WORDS]


def word_table(captions: Iterable[str]) -> dict[str, int]:
    """Word → in how many captions it stands, most frequent first; words that name nothing are left out."""
    counts = Counter(word for caption in captions for word in words_of(caption))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _caption_findings(examples: Sequence[Example], goal: Goal, known: set[str]) -> list[Finding]:
    given = [example.caption for example in examples if example.caption]
    findings = []
    text, count = Counter(given).most_common(1)[0] if given else ("", 0)
    alike = len(given) > 1 and count > len(given) / 2
    if alike:
        findings.append(
            Finding(
                severity="note" if goal == "subject" and set(words_of(text)) <= known else "warning",
                kind="same caption",
                cause=f"{count} of {len(given)} captions are the same: '{text[:60]}'",
                fix="say what is shown in each, or the adapter ties all of it to those words",
            )
        )
    table = word_table(given)
    bound = [word for word, number in table.items() if number >= BOUND * len(given) and word not in known]
    if len(given) >= FEW_CAPTIONS and len(set(given)) > 1 and bound:
        least = min(table[word] for word in bound)
        findings.append(_bound_words(bound, goal, "every caption" if least == len(given) else
                                     f"{least} or more of {len(given)} captions" if len(bound) > 1 else
                                     f"{least} of {len(given)} captions"))  # fmt: skip
    long = [
        example.name
        for example in examples
        if len(example.caption) > CAPTION_TOKENS and num_clip_tokens(example.caption) > CAPTION_TOKENS
    ]
    if long:
        findings.append(
            Finding(
                severity="warning",
                kind="long caption",
                cause=f"{counted(len(long), 'caption')} {'is' if len(long) == 1 else 'are'} longer than the "
                f"{CAPTION_TOKENS} tokens that CLIP reads; the ends are never seen",
                fix="put what matters first, or shorten them",
                pictures=tuple(long[:MAX_NAMES]),
            )
        )
    return findings


def _bound_words(words: Sequence[str], goal: Goal, where: str) -> Finding:
    named = ", ".join(f"'{word}'" for word in words[:5])
    one = len(words) == 1
    return Finding(
        severity="warning",
        kind="same words",
        cause=f"{'the word' if one else 'the words'} {named} {'stands' if one else 'stand'} in {where}: the "
        f"{goal} will be bound to {'it' if one else 'them'}, and what {'it names' if one else 'they name'} is learned "
        f"as a part of the {goal}",
        fix="leave out of the captions what all pictures share, and call the "
        f"{goal} by a --trigger; if every picture shows the same thing, add pictures of others"
        if goal == "style"
        else "call the subject by a --trigger, and add pictures where the rest differs",
    )


def _copies(
    examples: Sequence[Example], facts: Sequence[PictureFacts], held_out: Collection[str]
) -> list[Finding]:
    names = [example.name for example in examples]
    hashes, mirrored = np.stack([one.hash for one in facts]), np.stack([one.mirrored for one in facts])
    pairs = {(i, j) for i, j, _ in near_pairs(hashes)}
    pairs |= {(min(i, j), max(i, j)) for i, j, _ in near_pairs(hashes, mirrored) if i != j}
    inside = sorted(pair for pair in pairs if (names[pair[0]] in held_out) == (names[pair[1]] in held_out))
    leaks = sorted(pairs - set(inside))
    findings = []
    if inside:
        findings.append(
            Finding(
                severity="warning",
                kind="copies",
                cause=f"{counted(len(inside), 'pair')} of pictures that look the same (within {NEAR_BITS} of 63 bits, "
                "or mirrored)",
                fix="keep one of each: a picture that is shown more often is copied sooner",
                pictures=_pair_names(names, inside),
            )
        )
    if leaks:
        findings.append(
            Finding(
                severity="warning",
                kind="leak",
                cause=f"{counted(len(leaks), 'pair')} of pictures that look the same, on both sides of the held-out "
                "split",
                fix="remove one of each, or validation measures memory",
                pictures=_pair_names(names, leaks),
            )
        )
    return findings


def _pair_names(names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    return tuple(f"{names[i]} = {names[j]}" for i, j in pairs[:MAX_NAMES])


def _frame_findings(examples: Sequence[Example], framing: Framing) -> list[Finding]:
    """Pictures that are enlarged, or of which much is cut away."""
    frames: dict[str, Frame] = {}
    too_small = []
    for example in examples:
        try:
            frames[example.name] = framing.frames(example, crops=False)[0]
        except DataError:
            too_small.append(example.name)
    small = [name for name, frame in frames.items() if frame.scale > 1]
    findings = []
    if too_small:
        findings.append(
            Finding(
                severity="error",
                kind="small",
                cause=f"{counted(len(too_small), 'picture')} smaller than the smallest bucket",
                fix="find larger ones, or enlarge them: --set data.upscale=true",
                pictures=tuple(too_small[:MAX_NAMES]),
            )
        )
    if small:
        tiny = min(min(frames[name].source_px) for name in small)
        findings.append(
            Finding(
                severity="warning",
                kind="small",
                cause=f"{counted(len(small), 'picture')} below the training size of {framing.resolution_px} px and "
                f"enlarged (smallest side {tiny})",
                fix="find larger ones, or train at a lower --resolution: enlarging adds blur and nothing else",
                pictures=tuple(small[:MAX_NAMES]),
            )
        )
    return [*findings, *_cut_away(frames, framing)]


def _cut_away(frames: Mapping[str, Frame], framing: Framing) -> list[Finding]:
    lost = {name: 1 - frame.kept for name, frame in frames.items()}
    much = sorted((name for name, share in lost.items() if share > MUCH_CUT), key=lambda name: -lost[name])
    if not much:
        return []
    worst, frame = much[0], frames[much[0]]
    shape = ratio_text(*frame.source_px)
    return [
        Finding(
            severity="warning",
            kind="cut away",
            cause=f"{counted(len(much), 'picture')} of which more than {MUCH_CUT:.0%} is cut away; "
            f"of {worst} ({shape}) {frame.kept:.0%} is trained on",
            fix="cut them yourself to what matters"
            if framing.step_px
            else "keep their shapes with --buckets, or cut them yourself to what matters",
            pictures=tuple(much[:MAX_NAMES]),
        )
    ]


COMMON_RATIOS = ((1, 1), (5, 4), (4, 3), (3, 2), (16, 9), (2, 1), (21, 9))
SAME_RATIO = 0.02
"""Logarithm of the largest factor between two ratios that go by the same name."""


def ratio_text(width: int, height: int) -> str:
    """``16:9`` where a common ratio is within 2 %, else the true one: ``20:1``, ``1:2.6``."""
    long, short = max(width, height), min(width, height)
    named = next(((a, b) for a, b in COMMON_RATIOS if abs(math.log(long / short * b / a)) < SAME_RATIO), None)
    first, second = (str(side) for side in named) if named else (f"{long / short:.2g}", "1")
    return f"{first}:{second}" if width >= height else f"{second}:{first}"


def _flaws(examples: Sequence[Example], facts: Sequence[PictureFacts]) -> list[Finding]:
    num, findings = len(examples), []
    blurred = [e.name for e, one in zip(examples, facts, strict=True) if one.blur > BLURRED]
    if blurred:
        findings.append(
            Finding(
                severity="warning" if len(blurred) <= MANY * num else "note",
                kind="blurred",
                cause=f"{counted(len(blurred), 'picture')} {'looks' if len(blurred) == 1 else 'look'} blurred",
                fix="leave them out, unless blur is the style",
                pictures=tuple(blurred[:MAX_NAMES]),
            )
        )
    framed = [e.name for e, one in zip(examples, facts, strict=True) if one.border > 0.01]
    if framed:
        findings.append(
            Finding(
                severity="warning" if len(framed) > MANY * num else "note",
                kind="border",
                cause=f"{counted(len(framed), 'picture')} with bars or a frame of one colour",
                fix="crop them, or the adapter learns to draw frames",
                pictures=tuple(framed[:MAX_NAMES]),
            )
        )
    mark = common_mark(np.stack([one.thumb for one in facts]).astype(np.float32))
    if mark is not None:
        findings.append(
            Finding(
                severity="warning",
                kind="mark",
                cause=f"something stands in the same place of most pictures: {mark.where} ({_box(mark)})",
                fix="remove the watermark, logo or caption bar, or the adapter learns to draw it",
            )
        )
    return findings


def _amount(num: int, goal: Goal, *, has_trigger: bool) -> list[Finding]:
    few, enough, many = (20, 50, 400) if goal == "style" else (5, 5, 40)
    findings = []
    if num < enough or num > many:
        size = "few" if num < few else "on the small side" if num < enough else "many"
        findings.append(
            Finding(
                severity="warning" if num < few else "note",
                kind="amount",
                cause=f"{counted(num, 'picture')} {'is' if num == 1 else 'are'} {size} for a {goal}",
                fix=STYLE_NEEDS if goal == "style" else SUBJECT_NEEDS,
            )
        )
    if goal == "subject" and not has_trigger:
        findings.append(
            Finding(
                severity="warning",
                kind="no trigger",
                cause="no trigger word was named, so the subject gets the words of the captions",
                fix="name a rare one with --trigger, e.g. --trigger 'sks robot'",
            )
        )
    return findings


def _box(mark: Mark) -> str:
    return (
        f"{mark.left:.0%} to {mark.right:.0%} across, {mark.top:.0%} to {mark.bottom:.0%} down, "
        f"{mark.strength:.0%} the same"
    )
