"""Gathers what an adapter is judged on: new prompts, true pictures, references, and unrelated prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from detour.bases.base import Base
from detour.data.captions import with_trigger
from detour.data.folder import read_dataset
from detour.errors import ConfigError
from detour.evaluation.judge import PromptFacts
from detour.evaluation.pixels import Pictures
from detour.evaluation.prompts import (
    ACTIONS,
    PLACES,
    HeldOutPrompt,
    caption_prompts,
    given_prompts,
    new_scenes,
    subject_words,
    template_prompts,
    unrelated_prompts,
    without_trigger,
)
from detour.pocket.world import (
    HELD_OUT,
    NAMED_STYLES,
    PALETTES,
    VOCABULARY,
    PromptedScene,
    compose_scene,
    held_out_prompts,
    place_phrase,
    plain_prompt,
)
from detour.specs import RunSpec
from detour.training.resolving import spread
from detour.verbs.judge.finished_run import FinishedRun
from detour.verbs.judge.held_out_material import (
    HELD_OUT_SEED,
    MAX_TRAINING_PICTURES,
    TrainingPictures,
    rendered,
    style_of_training,
    training_pictures_or_note,
    world_references,
    world_style_of,
)
from detour.verbs.judge.presets import Preset

SCENES_APART = 100_000
"""Difference between the scene seeds of a prompt's true pictures; seeds of references lie between them."""

WORDS = {"object": VOCABULARY.objects, "colour": VOCABULARY.colours, "place": VOCABULARY.places}
"""Slot of a prompt of the embedded world → all words that can fill it."""

WORLD_PLACES = tuple((place_phrase(place), place) for place in VOCABULARY.places)
"""Places of the embedded world, each with the word that shows that a caption names the place already."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One slot of several prompts or captions, with the right word of each and all words that can fill it.

    Attributes:
        phrases: of each prompt, itself with every word in that part: as many of each.
        right: which of them was asked for.
    """

    phrases: tuple[tuple[str, ...], ...]
    right: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PromptGroup:
    """Prompts with what is known of them.

    Attributes:
        prompts: as they are drawn.
        plain: without the trigger, as they are judged.
        facts: what each asks for; empty where that is not known word by word.
        choices: part of the prompts → what could stand there instead, where that is known.
        slots: parts of the facts that pictures are read for.
    """

    prompts: tuple[str, ...]
    plain: tuple[str, ...]
    facts: tuple[PromptFacts, ...] = ()
    choices: Mapping[str, Choice] = field(default_factory=dict)
    slots: tuple[str, ...] = ("object", "colour", "place")


UNCHECKED = "The training captions are not known: whether a prompt is one of them was not checked."
NO_NEW_PROMPTS = "Held-out prompts were left out by evaluate.num_prompts = 0."
NONE_GIVEN = "No held-out prompts were given: set evaluate.prompts to see some drawn."


@dataclass(frozen=True, kw_only=True)
class EvaluationMaterial:
    """All prompts of an evaluation, and all pictures that drawn ones are compared with.

    Attributes:
        held_out: prompts, with where they come from.
        new_prompts: the same, ready to draw.
        unrelated: prompts that have nothing to do with the training, without the trigger and, where there is one, with.
        recited: training captions, asked again: what is learned by heart comes back for them first.
        trigger: of the data; may be empty.
        references: uint8 (M, H, W, 3) that fidelity is measured against; ``None``: there are none.
        prompt_of_reference: which prompt each reference shows; ``None`` where they do not show the prompts.
        others: uint8 (K, H, W, 3), further true pictures: the ceiling of fidelity.
        truths: uint8 (prompts × seeds, H, W, 3), true pictures of the prompts in the style, prompt-major.
        own_class: prompts of the subject's class alone, one for each of ``new_prompts`` at its seeds; ``None``
            where a style is judged, or where nothing says what the class is called.
        training: what was trained on.
        own_facts: what the captions of :attr:`own` name, word by word; empty where one of them names no object, colour
            or place of the world.
        notes: what is not known.
    """

    held_out: tuple[HeldOutPrompt, ...]
    new_prompts: PromptGroup
    unrelated: tuple[PromptGroup, ...]
    recited: tuple[str, ...] = ()
    trigger: str
    references: Pictures | None = None
    prompt_of_reference: tuple[int, ...] | None = None
    others: Pictures | None = None
    truths: Pictures | None = None
    own_class: PromptGroup | None = None
    training: TrainingPictures | None = None
    own_facts: tuple[PromptFacts, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def own(self) -> Pictures | None:
        """The user's own pictures, held-out ones first: uint8 (M, H, W, 3); ``None`` where there are none."""
        training = self.training
        if training is None or not len(training.train) + len(training.held_out):
            return None
        return np.concatenate([training.held_out, training.train])[:MAX_TRAINING_PICTURES]

    @property
    def own_choices(self) -> dict[str, Choice]:
        """Slot → words that can fill it in the captions of :attr:`own`."""
        return choices_of(self.own_facts) if self.own_facts else {}

    @property
    def own_captions(self) -> tuple[str, ...]:
        """Captions of the pictures in :attr:`own`, without the trigger."""
        shown = () if self.training is None else self.training.shown_captions
        return tuple(without_trigger(one, self.trigger) for one in shown[:MAX_TRAINING_PICTURES])


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Captions of training pictures and held-out pictures, or tags where only tags are known."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    known: bool = True


def gather_material(
    run: FinishedRun, base: Base, preset: Preset, *, size_px: int, judged: bool = True
) -> EvaluationMaterial:
    """Gather prompts, references and true pictures for a run or an adapter file.

    Args:
        run: what is judged.
        base: that it is for; an embedded one brings a world that knows what its prompts show.
        preset: prompts, how many, and how many seeds.
        size_px: side of the pictures.
        judged: whether somebody will score the pictures: the quick proof draws no prompts of its own for nobody.

    Raises:
        ConfigError: of the thorough preset: a given prompt is a training caption, or nothing says what to ask for.
        RunError: ``world.json`` is broken.
    """
    own = run.folder if run.is_run else None
    training, notes = training_pictures_or_note(
        run.spec, size_px=size_px, run_folder=own, dataset=run.dataset
    )
    captions = _captions(run, training)
    trigger = ", ".join(run.spec.called_by())
    style = style_of_training(training)
    shared = EvaluationMaterial(
        held_out=(),
        new_prompts=PromptGroup(prompts=(), plain=()),
        unrelated=(),
        recited=()
        if training is None or not len(training.train)
        else spread(captions.trained, preset.recited),
        trigger=trigger,
        references=style.references if style else None,
        others=style.others if style else None,
        training=training,
        notes=notes if captions.known or not preset.thorough else (*notes, UNCHECKED),
    )
    if preset.drift_prompts:
        shared = replace(shared, unrelated=_unrelated(base, captions, preset.drift_prompts, trigger))
    if not preset.num_prompts and not preset.prompts:
        return replace(shared, notes=(*shared.notes, NO_NEW_PROMPTS))
    if base.embedded is not None:
        shared = replace(shared, own_facts=facts_in(shared.own_captions))
    if run.spec.goal == "subject" and (found := _of_subject(run, base, preset, captions, shared)):
        return found
    if base.embedded is not None and not preset.prompts:
        return _of_the_world(run, preset, shared, size_px=size_px)
    if not preset.thorough and not preset.prompts and not judged:
        return replace(shared, notes=(*shared.notes, NONE_GIVEN))
    try:
        held_out = choose_prompts(run.spec, captions, preset, trigger)
    except ConfigError as error:
        if preset.thorough:
            raise
        return replace(shared, notes=(*shared.notes, str(error)))
    group = PromptGroup(
        prompts=tuple(one.prompt for one in held_out), plain=tuple(one.plain for one in held_out)
    )
    return replace(shared, held_out=held_out, new_prompts=group)


def _of_subject(
    run: FinishedRun, base: Base, preset: Preset, captions: Captions, shared: EvaluationMaterial
) -> EvaluationMaterial | None:
    """Prompts that put a subject, and its class alone, into scenes that no training picture shows.

    Half of the prompts are the class's, so that a subject costs as many pictures as a style. ``None`` where nothing
    says what the subject and its class are called.
    """
    everything = (*captions.trained, *captions.held_out)
    said = subject_words(everything, shared.trigger, run.spec.prior.class_prompts)
    if said is None:
        return None
    choices: dict[str, Choice] = {}
    if preset.prompts:
        held_out = given_prompts(preset.prompts, captions.trained if preset.thorough else (), shared.trigger)
    else:
        count = max(1, preset.num_prompts // 2)
        if base.embedded is not None:
            scenes = new_scenes(everything, WORLD_PLACES, count=count, moments=VOCABULARY.skies[1:])
        else:
            scenes = new_scenes(everything, PLACES, count=count, actions=ACTIONS)
        held_out = tuple(
            HeldOutPrompt(
                prompt=f"{said.called} {scene}", plain=f"{said.of_class} {scene}", source="template"
            )
            for scene in scenes
        )
        if base.embedded is not None:
            every = [phrase for phrase, _ in WORLD_PLACES]
            choices["place"] = Choice(
                phrases=tuple(
                    tuple(f"{said.of_class} {replace(scene, place=phrase)}" for phrase in every)
                    for scene in scenes
                ),
                right=tuple(every.index(scene.place) for scene in scenes),
            )
    plain = tuple(said.class_prompt(one.prompt) for one in held_out)
    group = PromptGroup(prompts=tuple(one.prompt for one in held_out), plain=plain, choices=choices)
    return replace(
        shared, held_out=held_out, new_prompts=group, own_class=PromptGroup(prompts=plain, plain=plain)
    )


def _unrelated(base: Base, captions: Captions, count: int, trigger: str) -> tuple[PromptGroup, ...]:
    if base.embedded is not None:
        return _unrelated_of_the_world(captions, count, trigger)
    return _with_and_without(unrelated_prompts(captions.trained, count), trigger)


def choose_prompts(
    run: RunSpec, captions: Captions, preset: Preset, trigger: str
) -> tuple[HeldOutPrompt, ...]:
    """Choose the new prompts: the user's, or held-out captions filled up with templates.

    Raises:
        ConfigError: a given prompt is a training caption, or nothing says what to ask for.
    """
    if preset.prompts:
        # The quick proof comes after hours of training: it takes the prompts that the run was told to take.
        return given_prompts(preset.prompts, captions.trained if preset.thorough else (), trigger)
    kept_out = caption_prompts(captions.held_out, captions.trained, trigger)[: preset.num_prompts]
    left = preset.num_prompts - len(kept_out)
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
    """Captions of the data where it still exists, or the tags in the adapter file's metadata."""
    if training is None:
        return Captions(trained=run.tags, known=False)
    return Captions(trained=training.train_captions or run.tags, held_out=training.held_out_captions)


def _of_the_world(
    run: FinishedRun, preset: Preset, shared: EvaluationMaterial, *, size_px: int
) -> EvaluationMaterial:
    """Prompts of the embedded world that its base was never shown, with their true pictures."""
    named = world_style_of(run.folder, run.spec) if run.is_run else None
    scenes = held_out_prompts(preset.num_prompts, seed=HELD_OUT_SEED)
    group = _group_of(scenes, shared.trigger)
    held_out = tuple(
        HeldOutPrompt(prompt=prompt, plain=plain, source="world")
        for prompt, plain in zip(group.prompts, group.plain, strict=True)
    )
    material = replace(shared, held_out=held_out, new_prompts=group)
    if named is None:
        return material
    style = (NAMED_STYLES | PALETTES)[named]
    truths = rendered(_in_several_scenes(scenes, preset.seeds), style, size_px=size_px)
    references = world_references(scenes, style, size_px=size_px)
    return replace(
        material,
        truths=truths,
        references=references,
        prompt_of_reference=tuple(i % len(scenes) for i in range(len(references))),
        others=truths,
    )


def facts_of_scenes(scenes: Sequence[PromptedScene]) -> tuple[PromptFacts, ...]:
    """Facts of prompted scenes that the judge is asked about."""
    return tuple(PromptFacts(object=one.object, colour=one.colour, place=one.place) for one in scenes)


def phrase_of(facts: PromptFacts) -> str:
    """Write the world's plain prompt of facts."""
    return plain_prompt(facts.object, facts.colour, facts.place)


def choices_of(facts: Sequence[PromptFacts]) -> dict[str, Choice]:
    """Slot of the prompts → the right word of each, and the words of the world that can fill the slot."""
    return {
        slot: Choice(
            phrases=tuple(tuple(phrase_of(replace(one, **{slot: word})) for word in words) for one in facts),
            right=tuple(words.index(getattr(one, slot)) for one in facts),
        )
        for slot, words in WORDS.items()
    }


def facts_in(captions: Sequence[str]) -> tuple[PromptFacts, ...]:
    """Object, colour and place that user captions name; empty where a caption names none that the world has."""
    facts = []
    for caption in captions:
        said = re.findall(r"\w+", caption.lower())
        found = {slot: next((word for word in said if word in words), None) for slot, words in WORDS.items()}
        if None in found.values():
            return ()
        facts.append(PromptFacts(**{slot: str(word) for slot, word in found.items()}))
    return tuple(facts)


def _in_several_scenes(group: Sequence[PromptedScene], seeds: int) -> list[PromptedScene]:
    """Repeat each prompt in several scenes, prompt-major; its own scene comes first."""

    def again(number: int, one: PromptedScene, copy: int) -> PromptedScene:
        if not copy:
            return one
        seed = HELD_OUT_SEED + SCENES_APART * copy + number
        scene = compose_scene(seed=seed, things=[(one.object, one.colour)], place=one.place)
        return replace(one, scene=scene)

    return [again(number, one, copy) for number, one in enumerate(group) for copy in range(seeds)]


def _group_of(scenes: Sequence[PromptedScene], trigger: str) -> PromptGroup:
    facts = facts_of_scenes(scenes)
    return PromptGroup(
        prompts=tuple(with_trigger(one.prompt, trigger) for one in scenes),
        plain=tuple(one.prompt for one in scenes),
        facts=facts,
        choices=choices_of(facts),
    )


def _unrelated_of_the_world(captions: Captions, count: int, trigger: str) -> tuple[PromptGroup, ...]:
    """Things that the base knows in places that no caption of the data names; new things come first."""
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
    prompts = tuple(phrase_of(one) for one in chosen)
    return tuple(replace(group, facts=chosen) for group in _with_and_without(prompts, trigger))


def _with_and_without(prompts: tuple[str, ...], trigger: str) -> tuple[PromptGroup, ...]:
    if not prompts:
        return ()
    plain = PromptGroup(prompts=prompts, plain=prompts)
    if not trigger:
        return (plain,)
    return (plain, replace(plain, prompts=tuple(with_trigger(prompt, trigger) for prompt in prompts)))


def folder_pictures(folder: Path, *, size_px: int) -> Pictures:
    """Read every readable picture below a folder, cropped to squares: uint8 (N, S, S, 3).

    Raises:
        DataError: no such folder, or no picture in it.
    """
    from detour.data.transform import to_square
    from detour.specs import DataSpec

    dataset = read_dataset(DataSpec(source=str(folder), caption="", skip_bad_images=True))
    return np.stack([to_square(example.open(), size_px) for example in dataset.examples])
