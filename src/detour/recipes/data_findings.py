"""What is wrong with a data set, each with what to do about it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from detour.bases.parts import num_clip_tokens
from detour.data.flaws import Mark, common_mark
from detour.data.likeness import NEAR_BITS, near_pairs
from detour.specs import DataSpec

BLURRED = 0.6
MANY = 0.3
"""Share of the pictures from which on something is a trait of the set."""
CAPTION_TOKENS = 75
"""All that a CLIP text encoder reads of a caption, without the marks of beginning and end."""

STYLE_NEEDS = (
    "a style wants 50 to 200 varied pictures (20 can do), captions that say what is shown and not the style"
)
SUBJECT_NEEDS = (
    "a subject wants 5 to 20 pictures from different sides, places and light, and a rare word as --trigger"
)


Goal = Literal["style", "subject"]
Severity = Literal["error", "warning", "note"]


class Finding(BaseModel):
    """One thing that was found.

    Attributes:
        severity: ``error`` stops training, ``warning`` makes it worse, ``note`` is good to know.
        what: in one line.
        next: what to do about it.
        pictures: names, at most 20.
    """

    model_config = ConfigDict(frozen=True)

    severity: Severity
    kind: str
    what: str
    next: str
    pictures: tuple[str, ...] = ()


@dataclass
class Seen:
    """What one pass over the pictures leaves, in the order of the names."""

    names: list[str] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    blurs: list[float] = field(default_factory=list)
    borders: list[float] = field(default_factory=list)
    hashes: list[np.ndarray] = field(default_factory=list)
    mirrored: list[np.ndarray] = field(default_factory=list)
    thumbs: list[np.ndarray] = field(default_factory=list)
    sheet: list[np.ndarray] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


ORDER: tuple[Severity, ...] = ("error", "warning", "note")


def find_flaws(
    seen: Seen, spec: DataSpec, *, goal: Goal, resolution_px: int, held_out: set[int]
) -> list[Finding]:
    """Everything that is wrong with a data set, the gravest first.

    Args:
        seen: what one pass over the pictures left; at least one picture.
        spec: whether unreadable pictures are left out, and which trigger is put in front.
        goal: what the adapter is for.
        resolution_px: side that it would be trained at.
        held_out: indices of the pictures that a run would keep out.
    """
    findings = [
        *_unreadable(seen, spec),
        *_caption_findings(seen),
        *_copies(seen, held_out),
        *_size_findings(seen, resolution_px),
        *_flaws(seen),
        *_amount(seen, goal, spec),
    ]
    return sorted(findings, key=lambda finding: ORDER.index(finding.severity))


def _unreadable(seen: Seen, spec: DataSpec) -> list[Finding]:
    if not seen.unreadable:
        return []
    return [
        Finding(
            severity="warning" if spec.skip_bad_images else "error",
            kind="unreadable",
            what=f"{_pictures(len(seen.unreadable))} cannot be read: {seen.unreadable[0]}",
            next="save them again as PNG, or leave them out with --skip-bad-images",
            pictures=tuple(text.partition(":")[0] for text in seen.unreadable[:20]),
        )
    ]


def _caption_findings(seen: Seen) -> list[Finding]:
    findings = []
    missing = [name for name, caption in zip(seen.names, seen.captions, strict=True) if caption is None]
    if missing:
        findings.append(
            Finding(
                severity="error",
                kind="no caption",
                what=f"{_pictures(len(missing))} of {len(seen.names)} have no caption, or an empty one",
                next="write a .txt file beside each, or give one for all with --caption",
                pictures=tuple(missing[:20]),
            )
        )
    given = [caption for caption in seen.captions if caption]
    text, count = Counter(given).most_common(1)[0] if given else ("", 0)
    if len(given) >= 4 and count > len(given) / 2:
        findings.append(
            Finding(
                severity="warning",
                kind="same caption",
                what=f"{count} of {len(given)} captions are the same: '{text[:60]}'",
                next="say what is shown in each, or the adapter ties all of it to those words",
            )
        )
    long = [
        name
        for name, caption in zip(seen.names, seen.captions, strict=True)
        if caption and len(caption) > CAPTION_TOKENS and num_clip_tokens(caption) > CAPTION_TOKENS
    ]
    if long:
        findings.append(
            Finding(
                severity="warning",
                kind="long caption",
                what=f"{len(long)} captions are longer than the {CAPTION_TOKENS} tokens that CLIP reads; "
                "their ends are never seen",
                next="put what matters first, or shorten them",
                pictures=tuple(long[:20]),
            )
        )
    return findings


def _copies(seen: Seen, held_out: set[int]) -> list[Finding]:
    hashes, mirrored = np.stack(seen.hashes), np.stack(seen.mirrored)
    pairs = {(i, j) for i, j, _ in near_pairs(hashes)}
    pairs |= {(min(i, j), max(i, j)) for i, j, _ in near_pairs(hashes, mirrored) if i != j}
    if not pairs:
        return []
    inside = sorted(pair for pair in pairs if (pair[0] in held_out) == (pair[1] in held_out))
    leaks = sorted(pairs - set(inside))
    findings = []
    if inside:
        findings.append(
            Finding(
                severity="warning",
                kind="copies",
                what=f"{len(inside)} pairs look the same (within {NEAR_BITS} of 63 bits, or mirrored)",
                next="keep one of each: a picture that is shown more often is copied sooner",
                pictures=_pair_names(seen, inside),
            )
        )
    if leaks:
        findings.append(
            Finding(
                severity="warning",
                kind="leak",
                what=f"{len(leaks)} pairs that look the same stand on both sides of the held-out split",
                next="remove one of each, or validation measures memory",
                pictures=_pair_names(seen, leaks),
            )
        )
    return findings


def _pair_names(seen: Seen, pairs: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    return tuple(f"{seen.names[i]} = {seen.names[j]}" for i, j in pairs[:20])


def _size_findings(seen: Seen, resolution_px: int) -> list[Finding]:
    small = [
        name
        for name, (width, height) in zip(seen.names, seen.sizes, strict=True)
        if min(width, height) < resolution_px
    ]
    if not small:
        return []
    tiny = min(min(size) for size in seen.sizes)
    return [
        Finding(
            severity="warning",
            kind="small",
            what=f"{_pictures(len(small))} are below the training size of {resolution_px} px (smallest side {tiny})",
            next="find larger ones, or train at a lower --resolution: enlarging adds blur and nothing else",
            pictures=tuple(small[:20]),
        )
    ]


def _flaws(seen: Seen) -> list[Finding]:
    findings = []
    blurred = [name for name, value in zip(seen.names, seen.blurs, strict=True) if value > BLURRED]
    if blurred:
        findings.append(
            Finding(
                severity="warning" if len(blurred) <= MANY * len(seen.names) else "note",
                kind="blurred",
                what=f"{_pictures(len(blurred))} look blurred",
                next="leave them out, unless blur is the style",
                pictures=tuple(blurred[:20]),
            )
        )
    framed = [name for name, share in zip(seen.names, seen.borders, strict=True) if share > 0.01]
    if framed:
        findings.append(
            Finding(
                severity="warning" if len(framed) > MANY * len(seen.names) else "note",
                kind="border",
                what=f"{_pictures(len(framed))} have bars or a frame of one colour",
                next="crop them, or the adapter learns to draw frames",
                pictures=tuple(framed[:20]),
            )
        )
    mark = common_mark(np.stack(seen.thumbs))
    if mark is not None:
        findings.append(
            Finding(
                severity="warning",
                kind="mark",
                what=f"something stands in the same place of most pictures: {mark.where} ({_box(mark)})",
                next="remove the watermark, logo or caption bar, or the adapter learns to draw it",
            )
        )
    return findings


def _amount(seen: Seen, goal: str, spec: DataSpec) -> list[Finding]:
    num = len(seen.names)
    few, enough, many = (20, 50, 400) if goal == "style" else (5, 5, 40)
    needs = STYLE_NEEDS if goal == "style" else SUBJECT_NEEDS
    findings = []
    if num < enough or num > many:
        size = "few" if num < few else "on the small side" if num < enough else "many"
        findings.append(
            Finding(
                severity="warning" if num < few else "note",
                kind="amount",
                what=f"{_pictures(num)} are {size} for a {goal}",
                next=needs,
            )
        )
    if goal == "subject" and not spec.triggers():
        findings.append(
            Finding(
                severity="warning",
                kind="no trigger",
                what="no trigger word was named, so the subject gets the words of the captions",
                next="name a rare one with --trigger, e.g. --trigger 'sks robot'",
            )
        )
    return findings


def _pictures(count: int) -> str:
    return f"{count} picture{'s' * (count != 1)}"


def _box(mark: Mark) -> str:
    return (
        f"{mark.left:.0%} to {mark.right:.0%} across, {mark.top:.0%} to {mark.bottom:.0%} down, "
        f"{mark.strength:.0%} the same"
    )
