"""What an adapter is judged on: prompts, true pictures, references, and prompts that have nothing to do with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from detour.bases.base import Base
from detour.data.captions import with_trigger
from detour.data.folder import read_dataset
from detour.errors import ConfigError
from detour.evaluation.judge import PromptFacts
from detour.evaluation.pixels import Pictures
from detour.evaluation.prompts import (
    HeldOutPrompt,
    caption_prompts,
    given_prompts,
    template_prompts,
    unrelated_prompts,
)
from detour.pocket.world import (
    HELD_OUT,
    HOUSE,
    NAMED_STYLES,
    PALETTES,
    VOCABULARY,
    PromptedScene,
    compose_scene,
    held_out_prompts,
    plain_prompt,
)
from detour.recipes.finished_run import FinishedRun
from detour.recipes.held_out_material import (
    HELD_OUT_SEED,
    TrainingPictures,
    rendered,
    style_of_training,
    training_pictures_or_note,
    world_references,
    world_style_of,
)
from detour.specs import RunSpec
from detour.specs.evaluation import EvaluationSpec
from detour.training.resolve import spread

SCENES_APART = 100_000
"""Between the scene seeds of a prompt's first true picture and its next; references lie between."""

WORDS = {"object": VOCABULARY.objects, "colour": VOCABULARY.colours, "place": VOCABULARY.places}
"""Slot of a prompt of the world → what can stand there."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Prompts with what is known of them.

    Attributes:
        prompts: as they are drawn.
        plain: without the trigger, as they are judged.
        facts: what each asks for; empty where that is not known word by word.
    """

    prompts: tuple[str, ...]
    plain: tuple[str, ...]
    facts: tuple[PromptFacts, ...] = ()


UNCHECKED = "The training captions are not known: whether a prompt is one of them was not checked."
RECITED = 8
"""Training captions that are asked again, evenly spread over the data."""


@dataclass(frozen=True, kw_only=True)
class EvaluationMaterial:
    """Everything that pictures are asked for by and compared with.

    Attributes:
        held_out: prompts, with where they come from.
        asked: the same, ready to draw.
        unrelated: prompts that have nothing to do with the training, without the trigger and, where there is one, with.
        recited: training captions, asked again: what is learned by heart comes back for them first.
        trigger: of the data; may be empty.
        references: uint8 (M, H, W, 3) that fidelity is measured against; ``None``: there are none.
        prompt_of_reference: which prompt each reference shows; ``None`` where they do not show the prompts.
        others: uint8 (K, H, W, 3), further true pictures: the ceiling of fidelity.
        truths: uint8 (prompts × seeds, H, W, 3), true pictures of the prompts, prompt-major.
        truths_in_style: whether they are in the style that was learned.
        training: what was trained on.
        notes: what is not known.
    """

    held_out: tuple[HeldOutPrompt, ...]
    asked: Asked
    unrelated: tuple[Asked, ...]
    recited: tuple[str, ...] = ()
    trigger: str
    references: Pictures | None = None
    prompt_of_reference: tuple[int, ...] | None = None
    others: Pictures | None = None
    truths: Pictures | None = None
    truths_in_style: bool = False
    training: TrainingPictures | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Of the pictures that were trained on, and of those kept out; tags where only those are known."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    known: bool = True


def gather_material(
    run: FinishedRun, base: Base, spec: EvaluationSpec, *, size_px: int
) -> EvaluationMaterial:
    """Prompts, references and true pictures for a run or an adapter file.

    Args:
        run: what is judged.
        base: that it is for; ``pocket`` brings a world that knows what its prompts show.
        spec: prompts, how many, and how many seeds.
        size_px: side of the pictures.

    Raises:
        ConfigError: a given prompt is a training caption, or nothing says what to ask for.
        RunError: ``world.json`` is broken.
    """
    own = run.folder if run.is_run else None
    training, notes = training_pictures_or_note(run.spec, size_px=size_px, run_folder=own)
    captions = _captions(run, training)
    trigger = ", ".join(run.spec.called_by())
    style = style_of_training(training)
    shared = EvaluationMaterial(
        held_out=(),
        asked=Asked(prompts=(), plain=()),
        unrelated=(),
        recited=() if training is None or not len(training.train) else spread(captions.trained, RECITED),
        trigger=trigger,
        references=style.references if style else None,
        others=style.others if style else None,
        training=training,
        notes=notes if captions.known else (*notes, UNCHECKED),
    )
    if base.embedded is not None:
        shared = replace(shared, unrelated=_unrelated_of_the_world(captions, spec.drift_prompts, trigger))
        if not spec.prompts:
            return _of_the_world(run, spec, shared, size_px=size_px)
    else:
        shared = replace(
            shared,
            unrelated=_with_and_without(unrelated_prompts(captions.trained, spec.drift_prompts), trigger),
        )
    held_out = choose_prompts(run.spec, captions, spec, trigger)
    asked = Asked(prompts=tuple(one.prompt for one in held_out), plain=tuple(one.plain for one in held_out))
    return replace(shared, held_out=held_out, asked=asked)


def choose_prompts(
    run: RunSpec, captions: Captions, spec: EvaluationSpec, trigger: str
) -> tuple[HeldOutPrompt, ...]:
    """Those of the user; else captions that were kept out, filled up with templates.

    Raises:
        ConfigError: a given prompt is a training caption, or nothing says what to ask for.
    """
    if spec.prompts:
        return given_prompts(spec.prompts, captions.trained, trigger)
    kept_out = caption_prompts(captions.held_out, captions.trained, trigger)[: spec.num_prompts]
    left = spec.num_prompts - len(kept_out)
    everything = (*captions.trained, *captions.held_out)
    things = [f"{trigger} {one}".strip() for one in run.prior.class_prompts if not everything]
    found = (*kept_out, *template_prompts(everything, trigger, count=left, things=things))
    if not found:
        raise ConfigError(
            "nothing says what the adapter was trained on: name what to ask for with --prompt, or --pictures with "
            "captions."
        )
    return found


def _captions(run: FinishedRun, training: TrainingPictures | None) -> Captions:
    """Of the data where it is there, else the tags that the adapter file speaks of."""
    if training is None:
        return Captions(trained=run.tags, known=False)
    return Captions(trained=training.train_captions or run.tags, held_out=training.held_out_captions)


def _of_the_world(
    run: FinishedRun, spec: EvaluationSpec, shared: EvaluationMaterial, *, size_px: int
) -> EvaluationMaterial:
    """The world writes prompts that its base was never shown, and draws their true pictures."""
    named = world_style_of(run.folder, run.spec) if run.is_run else None
    style = (NAMED_STYLES | PALETTES)[named] if named else HOUSE
    scenes = held_out_prompts(spec.num_prompts, seed=HELD_OUT_SEED)
    asked = _asked(scenes, shared.trigger)
    truths = rendered(_in_several_scenes(scenes, spec.seeds), style, size_px=size_px)
    held_out = tuple(
        HeldOutPrompt(prompt=prompt, plain=plain, source="world")
        for prompt, plain in zip(asked.prompts, asked.plain, strict=True)
    )
    material = replace(shared, held_out=held_out, asked=asked, truths=truths)
    if named is None:
        return material
    references = world_references(scenes, style, size_px=size_px)
    return replace(
        material,
        references=references,
        prompt_of_reference=tuple(i % len(scenes) for i in range(len(references))),
        others=truths,
        truths_in_style=True,
    )


def _in_several_scenes(asked: Sequence[PromptedScene], seeds: int) -> list[PromptedScene]:
    """As many scenes of each prompt, prompt-major; the first is its own."""

    def again(number: int, one: PromptedScene, copy: int) -> PromptedScene:
        if not copy:
            return one
        seed = HELD_OUT_SEED + SCENES_APART * copy + number
        scene = compose_scene(seed=seed, things=[(one.object, one.colour)], place=one.place)
        return replace(one, scene=scene)

    return [again(number, one, copy) for number, one in enumerate(asked) for copy in range(seeds)]


def _asked(scenes: Sequence[PromptedScene], trigger: str) -> Asked:
    return Asked(
        prompts=tuple(with_trigger(one.prompt, trigger) for one in scenes),
        plain=tuple(one.prompt for one in scenes),
        facts=tuple(PromptFacts(object=one.object, colour=one.colour, place=one.place) for one in scenes),
    )


def _unrelated_of_the_world(captions: Captions, count: int, trigger: str) -> tuple[Asked, ...]:
    """Things that the base knows, in places where no caption of the data has them; unseen things come first."""
    everything = [caption.lower() for caption in (*captions.trained, *captions.held_out)]
    new = [word for word in VOCABULARY.objects if not any(word in caption for caption in everything)]
    objects = (*new, *(word for word in VOCABULARY.objects if word not in new))
    facts: list[PromptFacts] = []
    for turn, thing in enumerate(objects):
        for shift in range(len(VOCABULARY.places)):
            place = VOCABULARY.places[(turn + shift) % len(VOCABULARY.places)]
            colour = VOCABULARY.colours[turn % len(VOCABULARY.colours)]
            together = any(thing in caption and place in caption for caption in everything)
            if not together and (thing, colour, place) not in HELD_OUT.combinations:
                facts.append(PromptFacts(object=thing, colour=colour, place=place))
                break
    chosen = tuple(facts[:count])
    prompts = tuple(plain_prompt(one.object, one.colour, one.place) for one in chosen)
    return tuple(replace(asked, facts=chosen) for asked in _with_and_without(prompts, trigger))


def _with_and_without(prompts: tuple[str, ...], trigger: str) -> tuple[Asked, ...]:
    if not prompts:
        return ()
    plain = Asked(prompts=prompts, plain=prompts)
    if not trigger:
        return (plain,)
    return (plain, replace(plain, prompts=tuple(with_trigger(prompt, trigger) for prompt in prompts)))


def folder_pictures(folder: Path, *, size_px: int) -> Pictures:
    """Every readable picture below a folder, squared: uint8 (N, S, S, 3).

    Raises:
        DataError: no such folder, or no picture in it.
    """
    from detour.data.transform import to_square
    from detour.specs import DataSpec

    dataset = read_dataset(DataSpec(source=str(folder), caption="", skip_bad_images=True))
    return np.stack([to_square(example.open(), size_px) for example in dataset.examples])
