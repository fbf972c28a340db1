"""Captions exchanged among the pictures: what training learns when words and pictures do not belong together."""

import hashlib
from dataclasses import replace

from detour.data.folder import Dataset, Example
from detour.errors import DataError


def with_shuffled_captions(dataset: Dataset, seed: int) -> Dataset:
    """Every picture with the caption of another one, and with its orders of tags.

    As many captions as possible change: all of them, unless one caption stands beside more than half of the pictures.

    Args:
        dataset: pictures to learn; class pictures keep theirs.
        seed: another one exchanges them in another way.

    Returns:
        the same pictures in the same order; the captions are a permutation of those before.

    Raises:
        DataError: no two captions differ, so that exchanging them changes nothing.
    """
    groups: dict[str, list[Example]] = {}
    for example in sorted(dataset.examples, key=lambda example: _drawn(seed, example.name)):
        groups.setdefault(example.caption, []).append(example)
    if len(groups) < 2:
        raise DataError("every picture has the same caption: exchanging captions would change nothing.")
    # Equal captions stand together; moved on by the largest group, none meets its own again.
    in_turn = [example for group in groups.values() for example in group]
    step = max(len(group) for group in groups.values())
    given = {example.name: in_turn[(place + step) % len(in_turn)] for place, example in enumerate(in_turn)}
    return replace(
        dataset,
        examples=tuple(
            replace(example, caption=given[example.name].caption, shuffled=given[example.name].shuffled)
            for example in dataset.examples
        ),
    )


def _drawn(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/captions/{name}".encode(), digest_size=16).digest()
