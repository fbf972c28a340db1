"""Look at a data set before training on it: what is there, what is wrong with it, and what to do."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict

from detour.bases.base import open_base
from detour.data.captions import completed, tag_table
from detour.data.conventions import Entry, find_entries
from detour.data.flaws import blur, border_px, thumbnail
from detour.data.folder import Dataset, Example, split_holdout
from detour.data.hub import HUB_PREFIX, hub_entries
from detour.data.likeness import mirrored_hash, perceptual_hash
from detour.data.pictures import open_picture
from detour.errors import DataError
from detour.generation.grids import grid
from detour.generation.png import save_image
from detour.recipes.data_findings import Finding, Goal, Seen, find_flaws
from detour.recipes.progress import Progress, ProgressFn, silent
from detour.specs import DataSpec

SHEET_PX = 128
SHEET_COLUMNS = 8
SHEET_MAX = 120


class DataReport(BaseModel):
    """Everything that ``detour data check`` knows."""

    model_config = ConfigDict(frozen=True)

    source: str
    found: tuple[str, ...]
    """What was recognised, a line a folder."""
    pictures: int
    captions: int
    distinct_captions: int
    width_px: tuple[int, int, int]
    """Smallest, median, largest."""
    height_px: tuple[int, int, int]
    aspect_ratios: dict[str, int]
    held_out: int
    tags: dict[str, int]
    """The 30 most frequent."""
    findings: tuple[Finding, ...]

    @property
    def usable(self) -> bool:
        """Whether training would begin."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> str:
        """Indented JSON."""
        return self.model_dump_json(indent=2)


def check_data(
    spec: DataSpec,
    *,
    goal: Goal = "style",
    base: str = "pocket",
    resolution_px: int | None = None,
    seed: int = 0,
    sheet: Path | None = None,
    progress: ProgressFn = silent,
) -> DataReport:
    """Read every picture and caption of a data set once and say what training would make of them.

    Args:
        spec: as in a run; its folders, trigger, template and holdout are used.
        goal: what the adapter is for.
        base: that would be trained on.
        resolution_px: side that it would be trained at; ``None`` takes the base's own.
        seed: of the run; it chooses the held-out pictures.
        sheet: a PNG with the pictures, at most 120, those with a flaw framed.
        progress: told of every picture.

    Raises:
        BaseError: there is no such base.
        DataError: nothing there, or a caption file that cannot be read.
        StorageError: the sheet cannot be written.
    """
    if resolution_px is None:
        resolution_px = open_base(base, weights=False).native_size_px
    entries, found, problems = _entries(spec)
    seen = _look_at(entries, spec, progress)
    if not seen.names:
        raise DataError(
            f"{spec.source}: none of the {len(entries)} pictures can be read. First: {seen.unreadable[0]}"
        )
    held_out = _held_out(seen, spec, seed)
    findings = find_flaws(seen, spec, goal=goal, resolution_px=resolution_px, held_out=held_out)
    findings += [
        Finding(severity="note", kind="left out", what=problem, next="nothing, if that was meant")
        for problem in problems
    ]
    if sheet is not None:
        _write_sheet(seen, findings, sheet)
    given = [caption for caption in seen.captions if caption]
    widths, heights = zip(*seen.sizes, strict=True)
    return DataReport(
        source=spec.source,
        found=found,
        pictures=len(seen.names),
        captions=len(given),
        distinct_captions=len(set(given)),
        width_px=(min(widths), int(np.median(widths)), max(widths)),
        height_px=(min(heights), int(np.median(heights)), max(heights)),
        aspect_ratios=_aspect_ratios(seen.sizes),
        held_out=len(held_out),
        tags=dict(list(tag_table(given).items())[:30]),
        findings=tuple(findings),
    )


def _entries(spec: DataSpec) -> tuple[list[Entry], tuple[str, ...], list[str]]:
    entries: list[Entry] = []
    lines, problems = [], []
    for folder in spec.all_folders():
        if folder.source.startswith(HUB_PREFIX):
            found = hub_entries(folder.source.removeprefix(HUB_PREFIX), folder.split)
        else:
            found = find_entries(Path(folder.source).expanduser())
        entries += found.entries
        problems += found.remarks
        num = len(found.entries)
        lines.append(f"{num} picture{'s' * (num != 1)}: {found.convention}")
    if not entries:
        raise DataError("no data was named. Give a folder of pictures, or hub:ID for a hub data set.")
    return sorted(entries, key=lambda entry: entry.name), tuple(lines), problems


def _look_at(entries: Sequence[Entry], spec: DataSpec, progress: ProgressFn) -> Seen:
    seen = Seen()
    for done, entry in enumerate(entries, start=1):
        progress(Progress(stage="looking at pictures", done=done, total=len(entries)))
        try:
            image = open_picture(entry.source, max_megapixels=spec.max_megapixels, name=entry.name)
        except DataError as error:
            seen.unreadable.append(str(error))
            continue
        seen.names.append(entry.name)
        seen.captions.append(_caption(entry, spec))
        seen.sizes.append(image.size)
        seen.blurs.append(blur(image))
        seen.borders.append(border_px(image) / min(image.size))
        seen.hashes.append(perceptual_hash(image))
        seen.mirrored.append(mirrored_hash(image))
        seen.thumbs.append(thumbnail(image))
        if len(seen.sheet) < SHEET_MAX:
            seen.sheet.append(np.asarray(ImageOps.pad(image, (SHEET_PX, SHEET_PX), color=(235, 235, 235))))
    return seen


def _caption(entry: Entry, spec: DataSpec) -> str | None:
    own = entry.caption or entry.words or spec.caption
    if own is None:
        return None
    return completed(own, trigger=spec.trigger, template=spec.template)


def _held_out(seen: Seen, spec: DataSpec, seed: int) -> set[int]:
    """Indices of the pictures that a run with this seed keeps out."""
    share = spec.holdout if isinstance(spec.holdout, float) else (0.125 if len(seen.names) >= 8 else 0.0)
    examples = tuple(
        Example(name=name, path=None, caption=caption or "", sha256=name)
        for name, caption in zip(seen.names, seen.captions, strict=True)
    )
    _, kept_out = split_holdout(Dataset(examples), share, seed)
    names = {example.name for example in kept_out.examples}
    return {index for index, name in enumerate(seen.names) if name in names}


def _aspect_ratios(sizes: Sequence[tuple[int, int]]) -> dict[str, int]:
    """Common ratios and how many pictures are nearest to each, most frequent first."""
    known = ((1, 1), (5, 4), (4, 3), (3, 2), (16, 9), (2, 1), (4, 5), (3, 4), (2, 3), (9, 16), (1, 2))
    nearest = (
        min(known, key=lambda ratio: abs(math.log(width / height * ratio[1] / ratio[0])))
        for width, height in sizes
    )
    return {f"{a}:{b}": count for (a, b), count in Counter(nearest).most_common()}


def _write_sheet(seen: Seen, findings: Sequence[Finding], path: Path) -> None:
    flawed = {
        name
        for finding in findings
        if finding.severity != "note"
        for text in finding.pictures
        for name in text.split(" = ")
    }
    tiles = []
    for name, tile in zip(seen.names, seen.sheet, strict=False):
        image = Image.fromarray(tile)
        colour = (200, 30, 30) if name in flawed else (255, 255, 255)
        tiles.append(np.asarray(ImageOps.expand(image, border=4, fill=colour)))
    save_image(path, grid(np.stack(tiles), min(SHEET_COLUMNS, len(tiles))))
