"""Which pictures are kept out of training, so that they can say what was learned and what was learned by heart."""

import hashlib
from dataclasses import replace

from detour.data.folder import Dataset, Example


def automatic_holdout(num_pictures: int) -> float:
    """Share of the pictures that ``data.holdout = "auto"`` keeps out: one in eight, none below eight pictures."""
    return 0.125 if num_pictures >= 8 else 0.0


def split_holdout(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Keep ``share`` of the pictures out of training, chosen by (seed, name) alone.

    Identical pictures go to the same side. At least one stays on each side when ``share`` is above zero; a
    data set of one picture is not split.

    Args:
        dataset: at least one example.
        share: in [0, 1).
        seed: another one chooses other pictures.

    Returns:
        (train, held_out); held_out is empty when ``share`` is 0.
    """
    groups: dict[str, list[Example]] = {}
    for example in dataset.examples:
        groups.setdefault(example.sha256, []).append(example)
    wanted = min(max(round(share * len(dataset)), 1), len(dataset) - 1) if share > 0 else 0
    chosen: set[str] = set()
    for group in sorted(groups.values(), key=lambda group: _rank(seed, group[0].name)):
        if len(chosen) + len(group) <= wanted:
            chosen.update(example.name for example in group)
    train = tuple(example for example in dataset.examples if example.name not in chosen)
    held_out = tuple(example for example in dataset.examples if example.name in chosen)
    return replace(dataset, examples=train), replace(dataset, examples=held_out, class_examples=())


def _rank(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/holdout/{name}".encode(), digest_size=16).digest()
