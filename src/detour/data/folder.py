"""A data set: pictures that were checked, captions that are complete, and what was found, in words."""

import functools
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from detour.data.captions import completed, tag_orders, tag_table
from detour.data.conventions import Entry, Found, find_entries
from detour.data.hub import HUB_PREFIX, hub_entries
from detour.data.masks import mask_beside, open_mask
from detour.data.pictures import check_picture, open_picture
from detour.errors import DataError
from detour.files import sha256_of
from detour.specs import DataSpec, FolderSpec
from detour.specs.data import Role

ONE_GROUP = "train"
"""Where tags of a plain folder are counted: its own name is nobody's business."""


@dataclass(frozen=True)
class Example:
    """One picture and its caption.

    Attributes:
        name: relative to the data set, with ``/``; never a path of the user's machine.
        path: the file; None when the picture came from a hub data set (use :meth:`open`).
        caption: complete, trigger included.
        mask: file beside it that says which part counts.
        mask_sha256: hex digest of the mask's file; empty without one.
        shuffled: orders of its tags that are shown instead, complete; empty: the caption alone.
        sha256: hex digest of the file's bytes.
        repeats: how often it is shown in one epoch.
        size_px: upright (width, height).
        data: the file's bytes where there is no path.
        weight: factor on its loss.
        group: under which its tags are counted.
    """

    name: str
    path: Path | None
    caption: str
    sha256: str
    repeats: int = 1
    size_px: tuple[int, int] = (0, 0)
    data: bytes | None = None
    weight: float = 1.0
    group: str = ONE_GROUP
    shuffled: tuple[str, ...] = ()
    mask: Path | None = None
    mask_sha256: str = ""

    def __repr__(self) -> str:
        return f"Example({self.name!r}, caption={self.caption!r})"

    def open(self, *, max_megapixels: float = 100.0) -> Image.Image:
        """The picture, upright, RGB; raises DataError as :func:`detour.data.pictures.open_picture`."""
        source = self.path if self.path is not None else self.data
        assert source is not None, "an example has a path or data"
        return open_picture(source, max_megapixels=max_megapixels, name=self.name)

    def open_mask(self, *, alpha: bool) -> Image.Image | None:
        """Which part counts, 0 to 255 at the picture's size: the alpha channel, or the mask file; ``None``: all of it.

        Raises:
            DataError: unreadable, or of another size than the picture.
        """
        if not alpha:
            return open_mask(self.mask, self.size_px, name=self.mask.name, alpha=False) if self.mask else None
        source = self.path if self.path is not None else self.data
        assert source is not None, "an example has a path or data"
        return open_mask(source, self.size_px, name=self.name, alpha=True)


@dataclass(frozen=True)
class Dataset:
    """Examples in the order of their names.

    Attributes:
        examples: pictures to learn; at least one, but for an empty held-out part.
        problems: what was left out and why, one line each.
        found: what was recognised, one line a folder.
        class_examples: pictures that keep the base's idea of the class; never held out.
    """

    examples: tuple[Example, ...]
    problems: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    class_examples: tuple[Example, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of names, contents, captions, repeats and weights, in order, class pictures last."""
        digest = hashlib.sha256()
        for role, examples in (("train", self.examples), ("class", self.class_examples)):
            for e in examples:
                for text in (
                    role,
                    e.name,
                    e.sha256,
                    e.caption,
                    str(e.repeats),
                    repr(e.weight),
                    e.mask_sha256,
                ):
                    digest.update(f"{len(text.encode())}:".encode() + text.encode())
        return digest.hexdigest()

    @property
    def epoch(self) -> tuple[int, ...]:
        """Indices of one epoch: each example as often as its repeats say."""
        return tuple(index for index, example in enumerate(self.examples) for _ in range(example.repeats))

    @property
    def tags(self) -> dict[str, dict[str, int]]:
        """Group → frequency of its captions' comma-separated tags, most frequent first."""
        captions: dict[str, list[str]] = {}
        for example in (*self.examples, *self.class_examples):
            captions.setdefault(example.group, []).append(example.caption)
        return {group: tag_table(found) for group, found in sorted(captions.items())}


def read_dataset(spec: DataSpec) -> Dataset:
    """Find, check and caption the pictures of all folders.

    Every picture is read to its end, so that a broken one is named before training and not in its middle.

    Raises:
        DataError: no pictures; a broken or gigantic picture (unless ``skip_bad_images``); captions missing
            (unless ``caption`` is given).
        MissingExtra: ``hub:ID`` without the ``hub`` extra.
    """
    folders = spec.all_folders()
    if not any(folder.source for folder in folders):
        raise DataError("no data was named. Give a folder of pictures, or hub:ID for a hub data set.")
    parts = [
        _read_folder(folder, spec, name) for folder, name in zip(folders, _folder_names(folders), strict=True)
    ]
    examples = sorted((e for part in parts for e in part.examples), key=lambda e: e.name)
    of_class = sorted((e for part in parts for e in part.class_examples), key=lambda e: e.name)
    if not examples:
        raise DataError("all pictures are class pictures. Name those to learn: a folder of role 'train'.")
    problems = [problem for part in parts for problem in part.problems]
    return Dataset(
        _without_common_repeats(examples),
        (*problems, *_copies([*examples, *of_class])),
        tuple(line for part in parts for line in part.found),
        _without_common_repeats(of_class),
    )


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


def _read_folder(folder: FolderSpec, spec: DataSpec, name: str) -> Dataset:
    """One folder; ``name`` stands before the names of its pictures when there are several."""
    if not folder.source:
        raise DataError("a folder of data.folders has no 'source'. Name its pictures.")
    if folder.source.startswith(HUB_PREFIX):
        found = hub_entries(folder.source.removeprefix(HUB_PREFIX), folder.split)
    else:
        found = find_entries(Path(folder.source).expanduser())
    entries = sorted((_captioned(entry, folder) for entry in found.entries), key=lambda entry: entry.name)
    _require_captions(entries, folder)
    checked, problems = _check_all(entries, folder, spec)
    examples = [(entry, _example(entry, folder, spec, size_px, name)) for entry, size_px in checked]
    of_class = tuple(e for entry, e in examples if "class" in (entry.role, folder.role))
    kept = tuple(e for entry, e in examples if "class" not in (entry.role, folder.role))
    prefix = f"{name}/" if name else ""
    return Dataset(
        kept,
        tuple(f"{prefix}{problem}" for problem in [*found.remarks, *problems]),
        (_in_words(found, len(kept), folder.role, name),),
        of_class,
    )


def _folder_names(folders: Sequence[FolderSpec]) -> list[str]:
    """What tells the pictures of several folders apart: each one's own name, numbered where two are equal."""
    if len(folders) == 1:
        return [""]
    names: list[str] = []
    for folder in folders:
        last = folder.source.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or "folder"
        own, number = last, 2
        while own in names:
            own, number = f"{last}-{number}", number + 1
        names.append(own)
    return names


def _captioned(entry: Entry, folder: FolderSpec) -> Entry:
    if entry.caption is not None:
        return entry
    return replace(entry, caption=folder.caption or entry.words or folder.caption)


def _require_captions(entries: list[Entry], folder: FolderSpec) -> None:
    missing = [entry.name for entry in entries if entry.caption is None]
    if not missing:
        return
    names = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
    mend = (
        "give one for all of them with --caption"
        if folder.role == "train"
        else "name the class with that folder's caption, e.g. caption = 'a dog'"
    )
    raise DataError(
        f"{folder.source}: {len(missing)} of {len(entries)} pictures have no caption ({names}). "
        f"Write a .txt file beside each, or {mend}."
    )


def _check_all(
    entries: list[Entry], folder: FolderSpec, spec: DataSpec
) -> tuple[list[tuple[Entry, tuple[int, int]]], list[str]]:
    """Every readable entry with its size, and what was left out."""
    checked, problems = [], []
    for entry in entries:
        try:
            size_px = check_picture(entry.source, max_megapixels=spec.max_megapixels, name=_label(entry))
        except DataError as error:
            if not spec.skip_bad_images:
                raise
            problems.append(f"{entry.name}: left out ({str(error).removeprefix(_label(entry) + ': ')})")
            continue
        checked.append((entry, size_px))
    if not checked:
        raise DataError(
            f"{folder.source}: none of the {len(entries)} pictures can be used; first: {problems[0]}"
        )
    return checked, problems


def _label(entry: Entry) -> str:
    return str(entry.source) if isinstance(entry.source, Path) else entry.name


def _example(
    entry: Entry, folder: FolderSpec, spec: DataSpec, size_px: tuple[int, int], name: str
) -> Example:
    path, data = (entry.source, None) if isinstance(entry.source, Path) else (None, entry.source)
    # kohya's regularisation folders beside a subject's: trigger and template are the subject's alone.
    trigger, template = (folder.trigger, folder.template) if entry.role == "train" else ("", "")
    complete = functools.partial(completed, trigger=trigger or "", template=template or "")
    own = entry.caption or ""
    mask = mask_beside(path) if path and spec.mask == "file" else None
    orders = tag_orders(own, keep=spec.keep_tags, count=spec.shuffles) if spec.shuffle_tags else ()
    return Example(
        name=f"{name}/{entry.name}" if name else entry.name,
        path=path,
        caption=complete(own),
        sha256=sha256_of(path) if path else hashlib.sha256(data or b"").hexdigest(),
        repeats=folder.repeats or entry.repeats,
        size_px=size_px,
        data=data,
        weight=folder.weight,
        group=entry.group or name or ONE_GROUP,
        mask=mask,
        mask_sha256=sha256_of(mask) if mask else "",
        shuffled=tuple(dict.fromkeys(map(complete, orders))),
    )


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


def _in_words(found: Found, num_examples: int, role: Role, name: str) -> str:
    if len(found.entries) == 1 and not name:
        return found.convention
    num, kind = (len(found.entries), "class picture") if role == "class" else (num_examples, "picture")
    return (f"{name}: " if name else "") + f"{num} {kind}{'s' * (num != 1)}: {found.convention}"
