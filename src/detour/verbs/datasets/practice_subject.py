"""Pictures of one individual of the embedded base's world, as somebody photographs a thing of theirs."""

import json
from dataclasses import dataclass
from pathlib import Path

from detour.errors import DetourError, RunError
from detour.files import write_json, write_text, write_with
from detour.pocket.world import VOCABULARY
from detour.verbs.judge.held_out_material import WORLD_STYLE
from detour.verbs.progress import Progress, ProgressFn, silent

SEEN_PLACES, NEW_PLACES = VOCABULARY.places[:3], VOCABULARY.places[3:]
"""Where a subject's pictures show it, and where it is asked for afterwards."""


@dataclass(frozen=True, kw_only=True)
class WorldSubject:
    """One individual: a thing that the base never saw, in one colour, and what its captions call it.

    Attributes:
        kind: of the thing: octopus, snail, robot.
        colour: of the world's.
        words: a rare token and the word of a class that the base knows, with their article: ``a sks cat``.
    """

    kind: str
    colour: str
    words: str

    @property
    def class_word(self) -> str:
        """The last of the words."""
        return self.words.rpartition(" ")[2]


def draw_subject_pictures(
    folder: Path, subject: WorldSubject, *, count: int, seed: int, progress: ProgressFn = silent
) -> None:
    """Draw the subject in the first three places of the world, captioned with its words and the place.

    ``world.json`` beside the pictures says what they show, so that a comparison can draw true pictures of it elsewhere.

    Args:
        folder: made if missing.
        subject: what is shown.
        count: of pictures.
        seed: of the scenes.
        progress: told after each picture.

    Raises:
        DetourError: the world has no such thing or colour.
        StorageError: disk full or folder not writable.
    """
    from PIL import Image

    from detour.pocket.world import HOUSE, compose_scene, place_phrase, render

    kinds = (*VOCABULARY.held_out_subjects, *VOCABULARY.objects)
    if subject.kind not in kinds or subject.colour not in VOCABULARY.colours:
        raise DetourError(
            f"the world has no {subject.colour} {subject.kind}. It has, in {', '.join(VOCABULARY.colours)}: "
            f"{', '.join(kinds)}."
        )
    for index in range(count):
        place = SEEN_PLACES[index % len(SEEN_PLACES)]
        scene = compose_scene(seed=1000 * seed + index, things=[(subject.kind, subject.colour)], place=place)
        image = Image.fromarray(render(scene, HOUSE))
        path = folder / f"{index:02d}.png"
        write_with(path, lambda temporary, image=image: image.save(temporary, "PNG"))  # type: ignore[misc]
        write_text(path.with_suffix(".txt"), f"{subject.words} {place_phrase(place)}\n")
        progress(Progress(stage="drawing pictures of the subject", done=index + 1, total=count))
    facts = {"subject": subject.kind, "colour": subject.colour, "words": subject.words}
    write_json(folder / WORLD_STYLE, facts)


def read_world_subject(folder: Path) -> WorldSubject | None:
    """The subject in ``world.json``; ``None`` where there is no such file or it speaks of a style.

    Raises:
        RunError: the file is broken.
    """
    path = folder / WORLD_STYLE
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if "subject" not in values:
            return None
        return WorldSubject(kind=values["subject"], colour=values["colour"], words=values["words"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: not what draws a subject ({error!r}). Correct or delete it.") from error
