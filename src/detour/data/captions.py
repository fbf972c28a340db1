"""Captions: read, completed by a trigger word, counted."""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from detour.data.listing import Listing
from detour.errors import DataError
from detour.files import read_text

MAX_CAPTION_BYTES = 64 * 1024


def read_sidecar(picture: Path, listing: Listing | None = None) -> str | None:
    """The caption in a text file beside the picture, see :meth:`detour.data.listing.Listing.captions_of`.

    Args:
        picture: its file.
        listing: of its folder; read when it is not given.

    Returns:
        The first that is not empty; ``None`` where there is none.

    Raises:
        DataError: not UTF-8 text, or larger than a caption can be.
    """
    for sidecar in (listing or Listing.of(picture.parent)).captions_of(picture):
        if text := one_line(read_text(sidecar, max_bytes=MAX_CAPTION_BYTES, error=DataError)):
            return text
    return None


def one_line(text: str) -> str:
    """Lines and runs of blanks joined by single blanks."""
    return " ".join(text.replace("\x00", " ").split())


def with_trigger(caption: str, trigger: str) -> str:
    """``"sks, a dog"`` for trigger ``"sks"``; unchanged when the trigger is empty or there already."""
    trigger = one_line(trigger)
    if not trigger or f" {trigger.lower()} " in f" {_words(caption)} ":
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def completed(caption: str, *, trigger: str, template: str) -> str:
    """The caption as it is trained on.

    ``"a photo of {trigger}, {caption}"`` makes ``"a photo of sks, sitting"`` of ``"sitting"``, and ``"a photo of sks"``
    of an empty caption. A trigger that the template does not name is put in front.

    Raises:
        DataError: the template names something else, or has a lone brace.
    """
    if not template:
        return with_trigger(caption, trigger)
    try:
        filled = template.format(trigger=one_line(trigger), caption=caption)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise DataError(
            f"data.template '{template}': not a template ({error}). It may name {{trigger}} and {{caption}}, "
            "e.g. 'a photo of {trigger}, {caption}'."
        ) from error
    parts = [part for part in map(one_line, filled.split(",")) if part]  # no comma before or after nothing
    return with_trigger(", ".join(parts), trigger)


def tag_orders(caption: str, *, keep: int, count: int) -> tuple[str, ...]:
    """At most ``count`` different orders of a caption's tags, its first ``keep`` tags staying in front.

    A function of its arguments alone, so that what was encoded for one run serves the next. Where there are no more
    than ``count`` orders, these are all of them.
    """
    tags = [tag for part in caption.split(",") if (tag := part.strip())]
    kept, free = tags[:keep], tags[keep:]
    if len(free) < 2:
        return (caption,)
    if math.factorial(len(free)) <= count:
        orders = [list(order) for order in itertools.permutations(free)]
    else:
        orders = [_order(free, caption, number) for number in range(4 * count)]
    found = dict.fromkeys(", ".join([*kept, *order]) for order in orders)
    return tuple(itertools.islice(found, count))


def _order(tags: list[str], caption: str, number: int) -> list[str]:
    """One of all orders, drawn by the caption and a number."""

    def drawn(place: int) -> bytes:
        return hashlib.blake2b(f"{number}/{place}/{caption}".encode(), digest_size=8).digest()

    return [tags[place] for place in sorted(range(len(tags)), key=drawn)]


def _words(text: str) -> str:
    return one_line("".join(" " if sign in ",.;:!?()" else sign for sign in text.lower()))


def tag_table(captions: Iterable[str]) -> dict[str, int]:
    """Frequency of each comma-separated tag (a caption without commas is one tag), most frequent first."""
    counts = Counter(tag for caption in captions for part in caption.split(",") if (tag := part.strip()))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
