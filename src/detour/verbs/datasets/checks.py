"""Look at a data set before training on it: what is there, what is wrong with it, and what to do."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict

from detour.bases.base import Base, open_base
from detour.bases.hardware import pick_device
from detour.data.captions import tag_table
from detour.data.finding import Finding, gravest_first
from detour.data.findings import Goal, find_flaws, ratio_text, word_table
from detour.data.folder import Dataset, Example, read_dataset
from detour.data.holdout import automatic_holdout, split_holdout
from detour.generation.grids import grid
from detour.generation.png import save_image
from detour.specs import DataSpec
from detour.training.data_fit import framing_of
from detour.verbs.datasets.caption_fit import caption_findings
from detour.verbs.progress import Progress, ProgressFn, silent

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
    """Number of pictures to learn from; class pictures are counted apart."""
    class_pictures: int
    captions: int
    distinct_captions: int
    width_px: tuple[int, int, int]
    """Smallest, median, largest."""
    height_px: tuple[int, int, int]
    aspect_ratios: dict[str, int]
    held_out: int
    tags: dict[str, int]
    """The 30 most frequent parts of captions between commas."""
    words: dict[str, int]
    """The 30 words that stand in most captions, with how many; words that name nothing are left out."""
    findings: tuple[Finding, ...]

    @property
    def usable(self) -> bool:
        """Whether training would begin with these pictures."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)


def check_data(
    spec: DataSpec,
    *,
    goal: Goal = "style",
    base: str = "pocket",
    resolution_px: int | None = None,
    seed: int = 0,
    sheet: Path | None = None,
    judge: str | None = None,
    progress: ProgressFn = silent,
) -> DataReport:
    """Read every picture and caption of a data set once and say what training would make of them.

    Args:
        spec: as in a run.
        goal: what the adapter is for.
        base: that would be trained on.
        resolution_px: side that it would be trained at; ``None`` takes the base's own.
        seed: of the run; it chooses the held-out pictures.
        sheet: a PNG with the pictures, at most 120, those with a flaw framed.
        judge: CLIP model that is asked whether captions fit their pictures, as a hub id or folder; ``None`` takes the
            base's own, or the default one where it was fetched before.
        progress: told of every picture.

    Raises:
        BaseError: there is no such base or judge.
        DataError: nothing there, or a caption file that cannot be read.
        StorageError: the sheet cannot be written.
    """
    opened = open_base(base, weights=False)
    spec = spec.model_copy(update={"resolution": resolution_px or opened.native_size_px})
    tiles: dict[str, np.ndarray] = {}

    def on_image(done: int, total: int, example: Example, image: Image.Image) -> None:
        progress(Progress(stage="looking at pictures", done=done, total=total))
        if sheet is not None and len(tiles) < SHEET_MAX:
            tile = ImageOps.pad(image, (SHEET_PX, SHEET_PX), color=(235, 235, 235))
            tiles[example.name] = np.asarray(tile)

    dataset = read_dataset(spec.for_subject() if goal == "subject" else spec, lenient=True, on_image=on_image)
    findings, held_out = findings_of(
        spec, dataset, opened, goal=goal, seed=seed, judge=judge, device=pick_device("auto")
    )
    if sheet is not None:
        _write_sheet(tiles, findings, sheet)
    given = [example.caption for example in dataset.examples if example.caption]
    widths, heights = zip(*(example.size_px for example in dataset.examples), strict=True)
    ratios = Counter(ratio_text(*example.size_px) for example in dataset.examples)
    return DataReport(
        source=spec.source,
        found=dataset.found,
        pictures=len(dataset),
        class_pictures=len(dataset.class_examples),
        captions=len(given),
        distinct_captions=len(set(given)),
        width_px=(min(widths), int(np.median(widths)), max(widths)),
        height_px=(min(heights), int(np.median(heights)), max(heights)),
        aspect_ratios=dict(ratios.most_common()),
        held_out=len(held_out),
        tags=dict(list(tag_table(given).items())[:30]),
        words=dict(list(word_table(given).items())[:30]),
        findings=findings,
    )


def findings_of(
    spec: DataSpec,
    dataset: Dataset,
    base: Base,
    *,
    goal: Goal,
    seed: int,
    class_prompts: Sequence[str] = (),
    judge: str | None = None,
    device: str = "cpu",
) -> tuple[tuple[Finding, ...], frozenset[str]]:
    """What is wrong with a data set under the settings of a run.

    Args:
        spec: its resolution is a number.
        dataset: that was looked at.
        base: that would be trained on.
        goal: what the adapter is for.
        seed: of the run; it chooses the held-out pictures.
        class_prompts: what the subject's class is called.
        judge: that is asked whether captions fit their pictures; ``None`` takes one that is on this machine.
        device: where the judge runs.

    Returns:
        The findings, and the names of the pictures that a run would keep out.
    """
    share = spec.holdout if isinstance(spec.holdout, float) else automatic_holdout(len(dataset))
    _, kept_out = split_holdout(dataset, share, seed)
    held_out = frozenset(example.name for example in kept_out.examples)
    findings = find_flaws(
        dataset,
        goal=goal,
        framing=framing_of(spec, base),
        held_out=held_out,
        triggers=spec.triggers(),
        known_words=(spec.template, *(folder.template or "" for folder in spec.folders), *class_prompts),
    )
    unfit = caption_findings(dataset, base, goal=goal, triggers=spec.triggers(), judge=judge, device=device)
    return gravest_first([*findings, *unfit]), held_out


def _write_sheet(tiles: dict[str, np.ndarray], findings: Sequence[Finding], path: Path) -> None:
    flawed = {
        name
        for finding in findings
        if finding.severity != "note"
        for text in finding.pictures
        for name in text.split(" = ")
    }
    framed = []
    for name, tile in sorted(tiles.items()):
        colour = (200, 30, 30) if name in flawed else (255, 255, 255)
        framed.append(np.asarray(ImageOps.expand(Image.fromarray(tile), border=4, fill=colour)))
    save_image(path, grid(np.stack(framed), min(SHEET_COLUMNS, len(framed))))
