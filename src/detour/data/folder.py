"""A data set: pictures that were checked, captions that are complete, and what was found, in words."""

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from detour.data.captions import completed, tag_orders, tag_table
from detour.data.conventions import Entry, Found, find_entries
from detour.data.finding import MAX_NAMES, Finding, counted
from detour.data.flaws import PictureFacts, look_at
from detour.data.hub import HUB_PREFIX, hub_entries
from detour.data.masks import open_mask
from detour.data.pictures import open_picture, read_bytes, read_picture
from detour.errors import DataError
from detour.files import is_unicode, printable
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

    def read(self) -> bytes:
        """The bytes of its file.

        Raises:
            DataError: it cannot be read, or is not the file any more that was hashed.
        """
        if self.path is None:
            assert self.data is not None, "an example has a path or data"
            return self.data
        return _unchanged(read_bytes(self.path, self.name), self.sha256, self.name)

    @property
    def is_there(self) -> bool:
        """Whether its file, changed or not, can still be found."""
        return self.path is None or self.path.exists()

    def open(self, *, max_megapixels: float = 100.0) -> Image.Image:
        """The picture, upright, sRGB; what is decoded are the bytes that ``sha256`` is of.

        Raises:
            DataError: as :func:`detour.data.pictures.open_picture`, or the file was changed meanwhile.
        """
        return open_picture(self.read(), max_megapixels=max_megapixels, name=self.name)

    def open_mask(self, *, alpha: bool) -> Image.Image | None:
        """Which part counts, 0 to 255 at the picture's size: the alpha channel, or the mask file; ``None``: all of it.

        Raises:
            DataError: unreadable, of another size than the picture, or changed meanwhile.
        """
        if alpha:
            return open_mask(self.read(), self.size_px, name=self.name, alpha=True)
        if self.mask is None:
            return None
        data = _unchanged(read_bytes(self.mask, self.mask.name), self.mask_sha256, self.mask.name)
        return open_mask(data, self.size_px, name=self.mask.name, alpha=False)


def _unchanged(data: bytes, sha256: str, name: str) -> bytes:
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(
            f"{name}: changed since the pictures were checked. Leave the folder alone and start again."
        )
    return data


@dataclass(frozen=True)
class Dataset:
    """Examples in the order of their names.

    Attributes:
        examples: pictures to learn; at least one, but for an empty held-out part.
        findings: what reading found: what was left out, and what is wrong with single files.
        found: what was recognised, one line a folder.
        class_examples: pictures that keep the base's idea of the class; never held out.
        facts: name → how a picture to learn looks; empty where the pictures were not looked at.
    """

    examples: tuple[Example, ...]
    findings: tuple[Finding, ...] = ()
    found: tuple[str, ...] = ()
    class_examples: tuple[Example, ...] = ()
    facts: Mapping[str, PictureFacts] = field(default_factory=dict, compare=False, repr=False)

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


OnImage = Callable[[int, int, Example, Image.Image], None]
"""(pictures done, pictures in all, the picture's example, its image)."""


def read_dataset(
    spec: DataSpec, *, lenient: bool = False, decode: bool = True, on_image: OnImage | None = None
) -> Dataset:
    """Find, check, look at and caption the pictures of all folders.

    Every picture is read to its end, so that a broken one is named before training and not in its middle.

    Args:
        spec: names the folders.
        lenient: make findings of severity ``error`` of unreadable pictures and missing captions, which are left out
            or empty, in place of raising.
        decode: ``False`` reads and hashes the files without decoding them: sizes stay 0, and nothing is looked at.
        on_image: called with every decoded picture.

    Raises:
        DataError: no pictures; a broken or gigantic picture (unless ``skip_bad_images``); captions missing
            (unless ``caption`` is given).
        MissingExtra: ``hub:ID`` without the ``hub`` extra.
    """
    folders = spec.all_folders()
    if not any(folder.source for folder in folders):
        raise DataError("no data was named. Give a folder of pictures, or hub:ID for a hub data set.")
    named = list(zip(folders, _folder_names(folders), strict=True))
    found = [_found_in(folder) for folder in folders]
    total, done, parts = sum(len(one.entries) for one in found), 0, list[Dataset]()
    for (folder, name), one in zip(named, found, strict=True):
        reader = _Reader(folder, spec, name, lenient, decode, done, total, on_image)
        parts.append(reader.read(one))
        done += len(one.entries)
    examples = sorted((e for part in parts for e in part.examples), key=lambda e: e.name)
    of_class = sorted((e for part in parts for e in part.class_examples), key=lambda e: e.name)
    if not examples:
        raise DataError("all pictures are class pictures. Name those to learn: a folder of role 'train'.")
    return Dataset(
        _without_common_repeats(examples),
        tuple(finding for part in parts for finding in part.findings),
        tuple(line for part in parts for line in part.found),
        _without_common_repeats(of_class),
        {name: facts for part in parts for name, facts in part.facts.items()},
    )


def _found_in(folder: FolderSpec) -> Found:
    if not folder.source:
        raise DataError("a folder of data.folders has no 'source'. Name its pictures.")
    if not is_unicode(folder.source):
        raise DataError(f"{printable(folder.source)}: the folder's name is not UTF-8. Rename it.")
    if folder.source.startswith(HUB_PREFIX):
        return hub_entries(folder.source.removeprefix(HUB_PREFIX), folder.split)
    return find_entries(Path(folder.source).expanduser(), recursive=folder.recursive)


@dataclass(frozen=True)
class _Reader:
    """Reads one folder; ``name`` stands before the names of its pictures when there are several."""

    folder: FolderSpec
    spec: DataSpec
    name: str
    lenient: bool
    decode: bool
    done: int
    total: int
    on_image: OnImage | None

    def read(self, found: Found) -> Dataset:
        entries = sorted((_captioned(entry, self.folder) for entry in found.entries), key=lambda e: e.name)
        uncaptioned = [entry for entry in entries if entry.caption is None]
        if uncaptioned and not self.lenient:
            raise self._without_captions(uncaptioned, len(entries))
        examples, facts, unreadable = self._checked(entries)
        kept = tuple(example for entry, example in examples if not self._is_class(entry))
        findings = [*self._prefixed(found.findings)]
        if unreadable:
            findings.append(self._unreadable(unreadable))
        if uncaptioned:
            findings.append(self._uncaptioned(uncaptioned, len(entries)))
        if odd := [
            (name, remark) for name, picture_facts in facts.items() for remark in picture_facts.remarks
        ]:
            findings += _colour_findings(odd)
        return Dataset(
            kept,
            tuple(findings),
            (_in_words(found, len(kept), self.folder.role, self.name),),
            tuple(example for entry, example in examples if self._is_class(entry)),
            {example.name: facts[example.name] for example in kept if example.name in facts},
        )

    def _is_class(self, entry: Entry) -> bool:
        return "class" in (entry.role, self.folder.role)

    def _named(self, entry: Entry) -> str:
        return f"{self.name}/{entry.name}" if self.name else entry.name

    def _prefixed(self, findings: Sequence[Finding]) -> list[Finding]:
        prefix = f"{self.name}/" if self.name else ""
        return [finding.model_copy(update={"cause": f"{prefix}{finding.cause}"}) for finding in findings]

    def _checked(
        self, entries: list[Entry]
    ) -> tuple[list[tuple[Entry, Example]], dict[str, PictureFacts], list[tuple[str, str]]]:
        """Readable entries with their examples, how they look, and (name, cause) of the others."""
        examples, facts, unreadable = [], dict[str, PictureFacts](), list[tuple[str, str]]()
        for done, entry in enumerate(entries, start=self.done + 1):
            try:
                example, picture_facts = self._example(entry, done)
            except DataError as error:
                if not (self.spec.skip_bad_images or self.lenient):
                    raise
                # The file's place on this machine is nobody's business in a run folder.
                name = printable(self._named(entry))
                unreadable.append((name, f"{name}: {str(error).removeprefix(f'{_label(entry)}: ')}"))
                continue
            examples.append((entry, example))
            if picture_facts is not None:
                facts[example.name] = picture_facts
        if not examples:
            raise DataError(
                f"{self.folder.source}: none of the {len(entries)} pictures can be used; first: {unreadable[0][1]}"
            )
        return examples, facts, unreadable

    def _example(self, entry: Entry, done: int) -> tuple[Example, PictureFacts | None]:
        label = _label(entry)
        if not is_unicode(entry.name):
            raise DataError(f"{label}: its name is not UTF-8. Rename it, or pass --skip-bad-images.")
        data = entry.source if isinstance(entry.source, bytes) else read_bytes(entry.source, label)
        picture = (
            read_picture(data, max_megapixels=self.spec.max_megapixels, name=label) if self.decode else None
        )
        # kohya's regularisation folders beside a subject's: trigger and template are the subject's alone.
        ours = entry.role == "train"
        complete = functools.partial(
            completed,
            trigger=(self.folder.trigger or "") if ours else "",
            template=(self.folder.template or "") if ours else "",
        )
        own, spec = entry.caption or "", self.spec
        mask = entry.mask if spec.mask == "file" else None
        orders = tag_orders(own, keep=spec.keep_tags, count=spec.shuffles) if spec.shuffle_tags else ()
        example = Example(
            name=self._named(entry),
            path=entry.source if isinstance(entry.source, Path) else None,
            caption="" if entry.caption is None else complete(own),
            sha256=hashlib.sha256(data).hexdigest(),
            repeats=self.folder.repeats or entry.repeats,
            size_px=picture.image.size if picture else (0, 0),
            data=entry.source if isinstance(entry.source, bytes) else None,
            weight=self.folder.weight,
            group=entry.group or self.name or ONE_GROUP,
            mask=mask,
            mask_sha256=hashlib.sha256(read_bytes(mask)).hexdigest() if mask else "",
            shuffled=tuple(dict.fromkeys(map(complete, orders))),
        )
        if picture is None:
            return example, None
        if self.on_image is not None:
            self.on_image(done, self.total, example, picture.image)
        return example, look_at(picture.image, picture.remarks)

    def _without_captions(self, missing: list[Entry], num: int) -> DataError:
        names = ", ".join(entry.name for entry in missing[:3]) + (" …" if len(missing) > 3 else "")
        return DataError(
            f"{self.folder.source}: {len(missing)} of {num} pictures have no caption ({printable(names)}). "
            f"Write a .txt file beside each, or {self._caption_fix()}."
        )

    def _caption_fix(self) -> str:
        if self.folder.role == "train":
            return "give one for all of them with --caption"
        return "name the class with that folder's caption, e.g. caption = 'a dog'"

    def _uncaptioned(self, missing: list[Entry], num: int) -> Finding:
        return Finding(
            severity="error",
            kind="no caption",
            cause=f"of {counted(num, 'picture')}, {len(missing)} without a caption, or with an empty one",
            fix=f"write a .txt file beside each, or {self._caption_fix()}",
            pictures=tuple(printable(self._named(entry)) for entry in missing[:MAX_NAMES]),
        )

    def _unreadable(self, unreadable: list[tuple[str, str]]) -> Finding:
        skipped = self.spec.skip_bad_images
        return Finding(
            severity="warning" if skipped else "error",
            kind="unreadable",
            cause=f"{counted(len(unreadable), 'picture')} cannot be read"
            f"{' and left out' if skipped else ''}; first: {unreadable[0][1].rstrip('.')}",
            fix="save them again as PNG, or leave them out with --skip-bad-images",
            pictures=tuple(name for name, _ in unreadable[:MAX_NAMES]),
        )


def _label(entry: Entry) -> str:
    """What messages call a picture while it is read."""
    return printable(str(entry.source) if isinstance(entry.source, Path) else entry.name)


def _colour_findings(odd: Sequence[tuple[str, str]]) -> list[Finding]:
    """One finding for each kind of remark on what was not taken over from the files."""
    kinds: dict[str, list[str]] = {}
    for name, remark in odd:
        kinds.setdefault(remark, []).append(name)
    return [
        Finding(
            severity="warning",
            kind="colours",
            cause=f"{counted(len(names), 'picture')}: {remark}",
            fix="save as an 8-bit PNG in sRGB what does not look as it should",
            pictures=tuple(names[:MAX_NAMES]),
        )
        for remark, names in kinds.items()
    ]


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


def _without_common_repeats(examples: list[Example]) -> tuple[Example, ...]:
    """Only proportions count: where every picture is repeated ten times, none is."""
    common = math.gcd(*(example.repeats for example in examples))
    return tuple(replace(example, repeats=example.repeats // common) for example in examples)


def _in_words(found: Found, num_examples: int, role: Role, name: str) -> str:
    if len(found.entries) == 1 and not name:
        return found.convention
    num, kind = (len(found.entries), "class picture") if role == "class" else (num_examples, "picture")
    return (f"{name}: " if name else "") + f"{num} {kind}{'s' * (num != 1)}: {found.convention}"
