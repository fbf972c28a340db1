"""Features with a truth that is known: captions of three words, pictures that show them in a style, and noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detour.evaluation.raw_material import ClassSides, Material, PixelFacts, Slot
from detour.evaluation.reading import Rows, unit

WIDTH = 64
KINDS, COLOURS, PLACES = 12, 6, 5
SCALE = 40.0
Words = tuple[int, int, int]


@dataclass(frozen=True)
class World:
    """Directions of every word, and of styles."""

    seed: int = 0

    @property
    def directions(self) -> tuple[Rows, Rows, Rows]:
        rng = np.random.default_rng([self.seed, 1])
        kinds, colours, places = (unit(rng.normal(size=(count, WIDTH))) for count in (KINDS, COLOURS, PLACES))
        return kinds, colours, places

    def text(self, words: Sequence[Words]) -> Rows:
        return unit(np.stack([sum(d[w] for d, w in zip(self.directions, one, strict=True)) for one in words]))

    def pictures(
        self,
        words: Sequence[Words],
        *,
        style: int = 0,
        hidden: Sequence[int] = (),
        noise: float = 0.6,
        seed: int = 0,
    ) -> Rows:
        """What pictures of these words look like to a judge; ``hidden`` slots are not to be seen in this style."""
        rng = np.random.default_rng([self.seed, style, seed, 2])
        offset = unit(np.random.default_rng([self.seed, style, 3]).normal(size=(1, WIDTH))) * (
            1.5 if style else 0.5
        )
        shown = [sum(d[w] for slot, (d, w) in enumerate(zip(self.directions, one, strict=True)) if slot not in hidden)
                 for one in words]  # fmt: skip
        return unit(np.stack(shown) + offset + noise * unit(rng.normal(size=(len(words), WIDTH))))

    def words(self, count: int, *, seed: int) -> list[Words]:
        rng = np.random.default_rng([self.seed, seed, 4])
        found: list[Words] = []
        while len(found) < count:
            one = (int(rng.integers(KINDS)), int(rng.integers(COLOURS)), int(rng.integers(PLACES)))
            if one not in found:
                found.append(one)
        return found

    def slots(self, asked: Sequence[Words], shown: Sequence[Words]) -> dict[str, Slot]:
        found = {}
        for place, (name, count) in enumerate((("object", KINDS), ("colour", COLOURS), ("place", PLACES))):
            found[name] = Slot(
                phrases=self._phrases(asked, place, count), right=np.array([one[place] for one in asked]),
                reference_phrases=self._phrases(shown, place, count),
                reference_right=np.array([one[place] for one in shown]),
            )  # fmt: skip
        return found

    def _phrases(self, words: Sequence[Words], place: int, count: int) -> Rows:
        def put(one: Words, word: int) -> Words:
            a, b, c = (word if i == place else own for i, own in enumerate(one))
            return a, b, c

        return np.stack([self.text([put(one, word) for word in range(count)]) for one in words])


def planted(
    *,
    prompts: int = 16,
    references: int = 20,
    lost: float = 0.0,
    style: int = 1,
    learned: bool = True,
    hidden: Sequence[int] = (),
    captions: str = "true",
    effect: float = 20.0,
    vocabulary: bool = False,
    seed: int = 0,
) -> Material:
    """Material of a run in which a share of the prompts is ``lost``: their pictures show other scenes."""
    world = World(seed)
    asked, other, shown = (
        world.words(count, seed=s) for count, s in ((prompts, 1), (prompts, 2), (references, 3))
    )
    drawn = [other[i] if i < round(lost * prompts) else one for i, one in enumerate(asked)]
    said = {"true": shown, "shuffled": [*shown[3:], *shown[:3]], "alike": [shown[0]] * references}[captions]
    look = style if learned else 0
    return Material(
        scale=SCALE, prompts=world.text(asked), base=world.pictures(asked, seed=1),
        adapter=world.pictures(drawn, style=look, hidden=hidden if learned else (), seed=2),
        references=world.pictures(shown, style=style, hidden=hidden, seed=3), captions=world.text(said),
        slots=world.slots(asked, shown) if vocabulary else {}, pixels=PixelFacts(effect=effect),
    )  # fmt: skip


def planted_subject(
    *, taken: bool = True, class_goes: float = 0.0, seed: int = 0, prompts: int = 8
) -> Material:
    """Material of a run on a subject: style 7 stands for the subject, which references show in their places."""
    world = World(seed)
    asked, shown = world.words(prompts, seed=1), world.words(12, seed=3)
    base, class_base = (world.pictures(asked, seed=s) for s in (1, 5))
    subject = world.pictures(asked, style=7, seed=2)
    class_adapter = unit((1 - class_goes) * class_base + class_goes * world.pictures(asked, style=7, seed=6))
    return Material(
        goal="subject", scale=SCALE, prompts=world.text(asked), base=base, adapter=subject if taken else base,
        references=world.pictures(shown, style=7, seed=3), captions=world.text(shown),
        own_class=ClassSides(adapter=class_adapter, base=class_base), pixels=PixelFacts(effect=20.0),
    )  # fmt: skip
