"""A data set: pictures that were checked, captions that are complete, and what was found, in words."""

import functools
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from detour.data.captions import tag_table, with_trigger
from detour.data.conventions import Entry, Found, find_entries
from detour.data.hub import HUB_PREFIX, hub_entries
from detour.data.pictures import check_picture, open_picture
from detour.errors import DataError
from detour.files import sha256_of
from detour.specs import DataSpec


@dataclass(frozen=True)
class Example:
    """One picture and its caption.

    Attributes:
        name: relative to the data set, with ``/``; never a path of the user's machine.
        path: the file; None when the picture came from a hub data set (use :meth:`open`).
        caption: complete, trigger included.
        sha256: hex digest of the file's bytes.
        repeats: how often it is shown in one epoch.
        size_px: upright (width, height).
        data: the file's bytes where there is no path.
    """

    name: str
    path: Path | None
    caption: str
    sha256: str
    repeats: int = 1
    size_px: tuple[int, int] = (0, 0)
    data: bytes | None = None

    def __repr__(self) -> str:
        return f"Example({self.name!r}, caption={self.caption!r})"

    def open(self, *, max_megapixels: float = 100.0) -> Image.Image:
        """The picture, upright, RGB; raises DataError as :func:`detour.data.pictures.open_picture`."""
        source = self.path if self.path is not None else self.data
        assert source is not None, "an example has a path or data"
        return open_picture(source, max_megapixels=max_megapixels, name=self.name)


@dataclass(frozen=True)
class Dataset:
    """Examples in the order of their names.

    Attributes:
        examples: at least one, but for an empty held-out part.
        problems: what was left out and why, one line each.
        convention: what was recognised, in words.
    """

    examples: tuple[Example, ...]
    problems: tuple[str, ...] = ()
    convention: str = ""

    def __len__(self) -> int:
        return len(self.examples)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of names, contents, captions and repeats, in order."""
        digest = hashlib.sha256()
        for example in self.examples:
            for text in (example.name, example.sha256, example.caption, str(example.repeats)):
                digest.update(f"{len(text.encode())}:".encode() + text.encode())
        return digest.hexdigest()

    @property
    def epoch(self) -> tuple[int, ...]:
        """Indices of one epoch: each example as often as its repeats say."""
        return tuple(index for index, example in enumerate(self.examples) for _ in range(example.repeats))

    @property
    def tags(self) -> dict[str, int]:
        """Frequency of the captions' comma-separated tags, most frequent first."""
        return tag_table(example.caption for example in self.examples)


def read_dataset(spec: DataSpec) -> Dataset:
    """Find, check and caption the pictures of ``spec.source``.

    Every picture is read to its end, so that a broken one is named before training and not in its middle.

    Raises:
        DataError: no pictures; a broken or gigantic picture (unless ``skip_bad_images``); captions missing
            (unless ``caption`` is given).
        MissingExtra: ``hub:ID`` without the ``hub`` extra.
    """
    if not spec.source:
        raise DataError("no data was named. Give a folder of pictures, or hub:ID for a hub data set.")
    if spec.source.startswith(HUB_PREFIX):
        found = hub_entries(spec.source.removeprefix(HUB_PREFIX), spec.split)
    else:
        found = find_entries(Path(spec.source).expanduser())
    entries = sorted(found.entries, key=lambda entry: entry.name)
    _require_captions(entries, spec)
    examples, problems = _check_all(entries, spec)
    problems = [*found.remarks, *problems, *_copies(examples)]
    return Dataset(_without_common_repeats(examples), tuple(problems), _in_words(found, len(examples)))


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
    return replace(dataset, examples=train), replace(dataset, examples=held_out)


def _rank(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/holdout/{name}".encode(), digest_size=16).digest()


def _require_captions(entries: list[Entry], spec: DataSpec) -> None:
    missing = [entry.name for entry in entries if entry.caption is None]
    if not missing or spec.caption is not None:
        return
    names = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
    raise DataError(
        f"{spec.source}: {len(missing)} of {len(entries)} pictures have no caption ({names}). "
        "Write a .txt file beside each, or give one for all of them with --caption."
    )


def _check_all(entries: list[Entry], spec: DataSpec) -> tuple[list[Example], list[str]]:
    examples, problems = [], []
    for entry in entries:
        try:
            size_px = check_picture(entry.source, max_megapixels=spec.max_megapixels, name=_label(entry))
        except DataError as error:
            if not spec.skip_bad_images:
                raise
            problems.append(f"{entry.name}: left out ({str(error).removeprefix(_label(entry) + ': ')})")
            continue
        examples.append(_example(entry, spec, size_px))
    if not examples:
        raise DataError(
            f"{spec.source}: none of the {len(entries)} pictures can be used; first: {problems[0]}"
        )
    return examples, problems


def _label(entry: Entry) -> str:
    return str(entry.source) if isinstance(entry.source, Path) else entry.name


def _example(entry: Entry, spec: DataSpec, size_px: tuple[int, int]) -> Example:
    caption = with_trigger(entry.caption if entry.caption is not None else spec.caption or "", spec.trigger)
    if isinstance(entry.source, Path):
        digest = sha256_of(entry.source)
        return Example(entry.name, entry.source, caption, digest, entry.repeats, size_px)
    digest = hashlib.sha256(entry.source).hexdigest()
    return Example(entry.name, None, caption, digest, entry.repeats, size_px, entry.source)


def _copies(examples: Iterable[Example]) -> list[str]:
    first: dict[str, str] = {}
    remarks = []
    for example in examples:
        original = first.setdefault(example.sha256, example.name)
        if original != example.name:
            remarks.append(f"{example.name}: the same picture as {original}, kept")
    return remarks


def _without_common_repeats(examples: list[Example]) -> tuple[Example, ...]:
    """Only proportions count: where every picture is repeated ten times, none is."""
    common = math.gcd(*(example.repeats for example in examples))
    return tuple(replace(example, repeats=example.repeats // common) for example in examples)


def _in_words(found: Found, num_examples: int) -> str:
    if num_examples == 1:
        return found.convention
    return f"{num_examples} pictures: {found.convention}"
