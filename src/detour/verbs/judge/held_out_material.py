"""Finds true pictures to compare drawn ones with: a run's own, and those that the embedded base's world renders.

A run in a style of that world says which one in ``world.json``. Other styles are known by the run's own pictures alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from detour.errors import DataError, DetourError, RunError
from detour.evaluation.pixels import Pictures
from detour.files import write_json
from detour.specs import RunSpec

if TYPE_CHECKING:
    from detour.data.folder import Dataset
    from detour.pocket.world import PromptedScene, Style

WORLD_STYLE = "world.json"
"""Name of the file in a run folder that names the world's style of its pictures: ``{"style": NAME}``."""

HELD_OUT_SEED = 7
"""Seed that chooses the held-out prompts and the scenes of their true pictures."""

FIRST_HELD_OUT_SEED = 1000
"""Seed of the first held-out picture; picture i uses the i-th after it."""

REFERENCES_A_PROMPT = 4
"""Number of true pictures of each prompt that the generated ones are compared with."""

MAX_TRAINING_PICTURES = 128
"""Largest number of training pictures that are read: enough to measure a style and find copies."""


@dataclass(frozen=True, kw_only=True)
class StyleTask:
    """True pictures of a style, in two sets that share no picture.

    Attributes:
        references: uint8 (M, H, W, 3), which the generated pictures are compared with.
        others: uint8 (K, H, W, 3), whose distance to the references is the ceiling.
    """

    references: Pictures
    others: Pictures


@dataclass(frozen=True, kw_only=True)
class TrainingPictures:
    """Pictures that a run was trained on, as far as they still exist.

    Attributes:
        train: uint8 (N, S, S, 3) as trained on, at most :data:`MAX_TRAINING_PICTURES`.
        held_out: those kept out, in the same way.
        train_captions: of all pictures that were trained on, trigger included.
        held_out_captions: of all pictures that were kept out.
        shown_captions: of the pictures in ``held_out`` and then in ``train``, one each.
        notes: pictures of the folder that are not the run's.
        num_found: how many of the run's pictures are still there.
    """

    train: Pictures
    held_out: Pictures
    train_captions: tuple[str, ...]
    held_out_captions: tuple[str, ...] = ()
    shown_captions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    num_found: int = 0

    @property
    def captions(self) -> tuple[str, ...]:
        """Captions of all pictures, those of held-out pictures last."""
        return (*self.train_captions, *self.held_out_captions)


def write_world_style(run_folder: Path, style: str) -> None:
    """Record which style of the world the run's pictures are rendered in."""
    write_json(run_folder / WORLD_STYLE, {"style": style})


def read_world_style(run_folder: Path) -> str | None:
    """Read the style named in ``world.json``; ``None`` where there is none, or where it describes a subject.

    Raises:
        RunError: the file is broken or names no style of the world.
    """
    from detour.pocket.world import NAMED_STYLES, PALETTES

    path = run_folder / WORLD_STYLE
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if "subject" in values:
            return None
        name = values["style"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f'{path}: expected {{"style": NAME}} ({error!r}). Correct or delete it.') from error
    named = NAMED_STYLES | PALETTES
    if name not in named:
        raise RunError(f"{path}: the world has no style {name!r}. It has: {', '.join(named)}.")
    return str(name)


def world_style_of(run_folder: Path, spec: RunSpec) -> str | None:
    """Style of the world that the run's pictures are rendered in, from its own folder or its data folders.

    Args:
        run_folder: may hold ``world.json``, as the demo's does.
        spec: of the run; ``detour pocket draw`` leaves ``world.json`` beside the pictures.

    Raises:
        RunError: a file is broken or names no style of the world.
    """
    if (named := read_world_style(run_folder)) is not None:
        return named
    trained_on = [folder for folder in spec.data.all_folders() if folder.role == "train"]
    found = {read_world_style(Path(folder.source)) for folder in trained_on}
    return found.pop() if len(found) == 1 else None


T = TypeVar("T")


def evenly(things: Sequence[T]) -> Sequence[T]:
    """Choose at most :data:`MAX_TRAINING_PICTURES` items, evenly spaced over the list."""
    return things[:: -(-len(things) // MAX_TRAINING_PICTURES) or 1]


def read_training_pictures(
    spec: RunSpec, *, size_px: int, run_folder: Path | None = None, dataset: "Dataset | None" = None
) -> TrainingPictures:
    """Read the run's pictures as they were trained on, at most :data:`MAX_TRAINING_PICTURES` of each kind.

    Pictures that were changed, added or taken away since are left out, as far as the run remembers what it was
    trained on.

    Args:
        spec: of the run.
        size_px: side of the squares.
        run_folder: of the run; ``None``: everything that is in the folder of pictures now is taken for the run's.
        dataset: the run's, where it was read before; ``None`` reads the folders.

    Raises:
        DataError: they are not where the run found them.
    """
    from detour.data.folder import Example, read_dataset
    from detour.data.transform import to_square
    from detour.training.recorded_pictures import as_trained_on, left_out, read_recorded

    recorded = read_recorded(run_folder) if run_folder else None
    # Without a record, nothing vouches for a file: it has to be a picture, as training would want it.
    if dataset is None:
        dataset = read_dataset(spec.data, lenient=recorded is not None, decode=recorded is None)
    share = spec.data.holdout if isinstance(spec.data.holdout, float) else 0.0
    found = as_trained_on(dataset, recorded, holdout=share, seed=spec.seed)

    lost: list[str] = []

    def squares(examples: Sequence[Example]) -> tuple[Pictures, tuple[str, ...]]:
        """Read the pictures that have not changed since they were listed, and their captions."""
        pictures, captions = [], []
        for example in evenly(examples):
            try:
                picture = example.open(max_megapixels=spec.data.max_megapixels)
            except DataError:
                lost.append(f"{example.name} ({'changed' if example.is_there else 'gone'})")
                continue
            pictures.append(to_square(picture, size_px))
            captions.append(example.caption)
        empty = np.empty((0, size_px, size_px, 3), np.uint8)
        return np.stack(pictures) if pictures else empty, tuple(captions)

    train, shown_of_train = squares(found.train)
    held_out, shown_of_held_out = squares(found.held_out)
    return TrainingPictures(
        train=train,
        held_out=held_out,
        train_captions=found.train_captions,
        held_out_captions=found.held_out_captions,
        shown_captions=(*shown_of_held_out, *shown_of_train),
        notes=(*found.notes, left_out(sorted(lost))) if lost else found.notes,
        num_found=len(found.train) + len(found.held_out) - len(lost),
    )


def training_pictures_or_note(
    spec: RunSpec, *, size_px: int, run_folder: Path | None = None, dataset: "Dataset | None" = None
) -> tuple[TrainingPictures | None, tuple[str, ...]]:
    """Read the run's pictures, and say in sentences which could not be used; see :func:`read_training_pictures`."""
    if not any(folder.source for folder in spec.data.all_folders()):
        return None, ("No training pictures were named: copies were not looked for.",)
    try:
        pictures = read_training_pictures(spec, size_px=size_px, run_folder=run_folder, dataset=dataset)
    except DetourError:
        return None, ("The training pictures are not where the run found them: copies were not looked for.",)
    read, count = len(pictures.train) + len(pictures.held_out), pictures.num_found
    if not read:
        return None, (*pictures.notes, "None of the run's own pictures is left: copies were not looked for.")
    if read == count:
        return pictures, pictures.notes
    note = f"Of {count} pictures {read} were compared with: a copy of another one is not seen."
    return pictures, (*pictures.notes, note)


def world_references(scenes: "Sequence[PromptedScene]", style: "Style", *, size_px: int) -> Pictures:
    """Render the same prompts in other scenes, so that the distance separates styles and not contents.

    Args:
        scenes: P prompts of the world, each with a scene.
        style: that the pictures are drawn in.
        size_px: side of the pictures.

    Returns:
        uint8 (REFERENCES_A_PROMPT × P, S, S, 3): one picture of each prompt, then another of each, and so on.
    """
    from detour.pocket.world import compose_scene, render

    pictures = [
        render(
            compose_scene(
                seed=HELD_OUT_SEED + 10_000 * (copy + 1) + i,
                things=[(one.object, one.colour)],
                place=one.place,
            ),
            style,
            size_px=size_px,
        )
        for copy in range(REFERENCES_A_PROMPT)
        for i, one in enumerate(scenes)
    ]
    return np.stack(pictures)


def rendered(scenes: "Sequence[PromptedScene]", style: "Style", *, size_px: int) -> Pictures:
    """Render the scenes that came with the prompts: uint8 (P, S, S, 3)."""
    from detour.pocket.world import render

    return np.stack([render(one.scene, style, size_px=size_px) for one in scenes])


def style_of_training(training: TrainingPictures | None) -> StyleTask | None:
    """Split the training pictures into two halves, held-out pictures first."""
    if training is None:
        return None
    pictures = np.concatenate([training.held_out, training.train])[:MAX_TRAINING_PICTURES]
    return StyleTask(references=pictures[0::2], others=pictures[1::2])
