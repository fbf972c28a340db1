"""Makes the raw material of planted cases, so that rules can be scored again without drawing again.

A case is trained with what its goal sets on the embedded base, its file is read back, and the pictures that the quick
proof draws are kept with the training pictures and their captions. A stopped call goes on where it was: a case is one
file, written whole.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.verdicts import subjects, techniques
from benchmarks.verdicts.conditions import STYLES, SUBJECTS, Condition, Goal
from benchmarks.verdicts.drawings import Words, compose, honest_caption, random_words
from detour.adapter_files import read_adapter
from detour.adapters.adapter import Adapter
from detour.adapters.layers import LoraLayer
from detour.bases.base import Base, open_base
from detour.data.captions import with_trigger
from detour.data.folder import read_dataset
from detour.data.holdout import split_holdout
from detour.errors import RunError, TrainingDiverged
from detour.evaluation.prompts import new_scenes
from detour.evaluation.proof_pictures import ProofRequest, draw_proof_pictures
from detour.files import write_with
from detour.generation.engine import AdapterInUse, PictureEngine
from detour.pocket.world import VOCABULARY, held_out_prompts, place_phrase
from detour.specs import RunSpec, load_run_spec
from detour.verbs.judge.finished_run import FinishedRun, read_finished_run
from detour.verbs.train.run import train_adapter

Pictures = NDArray[np.uint8]
HELD_OUT_SEED = 7
FIRST_SEED = 1000
SEEDS_APART = 500_000
"""Distance between the seed of a picture and that of its control."""
NUM_PROMPTS = 16
SHORT: dict[Goal, int] = {"style": 60, "subject": 75}
"""Number of steps of a run: half of the default on the embedded base."""
SEEN_PLACES, NEW_PLACES = VOCABULARY.places[:3], VOCABULARY.places[3:]


@dataclass(frozen=True)
class Case:
    """One planted run."""

    goal: Goal
    look: str
    """Technique of a style, or name of a character."""
    condition: str
    seed: int

    @property
    def name(self) -> str:
        """Stem of the case's file name."""
        return "-".join(f"{self.goal} {self.look} {self.condition} {self.seed}".split())

    @property
    def how(self) -> Condition:
        """Condition of the case: how its run is made."""
        return (STYLES if self.goal == "style" else SUBJECTS)[self.condition]

    @property
    def tuning(self) -> bool:
        """Whether the case may be used to choose rules."""
        return self.look in techniques.TUNING or self.look in subjects.TUNING


def all_cases(*, tuning: bool, seeds: Sequence[int]) -> list[Case]:
    """Every case of one half, the most telling conditions first."""
    looks = techniques.TUNING if tuning else techniques.TEST
    characters = subjects.TUNING if tuning else subjects.TEST
    found: list[Case] = []
    for seed in seeds:
        rank = 0
        while rank < max(len(STYLES), len(SUBJECTS)):
            found += [
                Case("style", look, name, seed) for name in list(STYLES)[rank : rank + 1] for look in looks
            ]
            found += [
                Case("subject", one, name, seed)
                for name in list(SUBJECTS)[rank : rank + 1]
                for one in characters
            ]
            rank += 1
    return found


@dataclass(frozen=True)
class Asked:
    """Pictures that are drawn for a case on both sides.

    Attributes:
        new: sixteen new prompts of a style; of a subject eight different scenes in places that its pictures do not
            have, as the product writes them.
        own_class: the same without the subject's word, from the same seeds; empty for a style.
        plain: the new prompts as a judge reads them, without a trigger.
        words: what they ask for, of a style.
    """

    new: tuple[ProofRequest, ...]
    own_class: tuple[ProofRequest, ...]
    plain: tuple[str, ...]
    words: tuple[Words, ...]


def ask(case: Case) -> Asked:
    """Prompts and seeds of a case."""
    if case.goal == "style":
        scenes = held_out_prompts(NUM_PROMPTS, seed=HELD_OUT_SEED)
        plain = tuple(one.prompt for one in scenes)
        said = tuple(with_trigger(one, case.how.trigger) for one in plain)
        return Asked(
            _requests(said), (), plain, tuple(Words(one.object, one.colour, one.place) for one in scenes)
        )
    character = subjects.CHARACTERS[case.look]
    called = character.class_prompt if case.how.trigger == "none" else character.words
    places = tuple((place_phrase(place), place) for place in NEW_PLACES)
    new = new_scenes((), places, count=NUM_PROMPTS // 2, moments=VOCABULARY.skies[1:])
    plain = tuple(f"{character.class_prompt} {scene}" for scene in new)
    return Asked(_requests([f"{called} {scene}" for scene in new]), _requests(plain), plain, ())


def _requests(prompts: Sequence[str]) -> tuple[ProofRequest, ...]:
    return tuple(ProofRequest(prompt=prompt, seed=FIRST_SEED + i) for i, prompt in enumerate(prompts))


def draw_data(folder: Path, case: Case) -> None:
    """Pictures and captions of a case, as a user would bring them."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, captions = (draw_style if case.goal == "style" else draw_subject_pictures)(case)
    rng = np.random.default_rng([case.seed, 0xCAB])
    if case.how.captions == "alike":
        captions = ["a picture"] * len(captions)
    elif case.how.captions == "shuffled":
        captions = list(np.roll(captions, 1 + int(rng.integers(max(len(captions) - 1, 1)))))
    elif case.how.captions == "others":
        others = random_words(len(captions), seed=case.seed + 77)
        captions = [honest_caption(one, seed=i) for i, one in enumerate(others)]
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        Image.fromarray(picture).save(folder / f"{index:03d}.png")
        (folder / f"{index:03d}.txt").write_text(caption + "\n")


def draw_style(case: Case) -> tuple[list[Pictures], list[str]]:
    """Pictures of a style and captions that fit them, before a condition changes those."""
    count = case.how.pictures
    words = random_words(count, seed=100 * case.seed + len(case.look))
    looks = list(techniques.TUNING if case.tuning else techniques.TEST)
    other = looks[(looks.index(case.look) + 1) % len(looks)]
    pictures = []
    for index, one in enumerate(words):
        seed = 10_000 * case.seed + index
        look = other if case.how.mixed and index % 2 else case.look
        pictures.append(techniques.draw(look, compose(one, seed=seed), seed=seed))
    if case.how.noise:
        rng = np.random.default_rng(case.seed)
        pictures = [rng.integers(0, 256, one.shape, dtype=np.uint8) for one in pictures]
    return pictures, [honest_caption(one, seed=case.seed + index) for index, one in enumerate(words)]


def draw_subject_pictures(case: Case) -> tuple[list[Pictures], list[str]]:
    """Pictures of a subject and captions that fit them, before a condition changes those."""
    character = subjects.CHARACTERS[case.look]
    pictures, captions = [], []
    for index in range(case.how.pictures):
        place, seed = SEEN_PLACES[index % 3], 10_000 * case.seed + index
        pictures.append(subjects.draw_subject(character, place, seed=seed))
        said = subjects.subject_caption(character, place, seed=seed)
        captions.append(said.replace(f"{subjects.TOKEN} ", "") if case.how.trigger == "none" else said)
    return pictures, captions


def true_pictures(case: Case) -> Pictures:
    """Pictures of the new prompts drawn by code in this style or with this subject, hidden from the rules."""
    if case.goal == "style":
        return np.stack([techniques.draw(case.look, compose(one, seed=900_000 + i), seed=900_000 + i)
                         for i, one in enumerate(ask(case).words)])  # fmt: skip
    character = subjects.CHARACTERS[case.look]
    return np.stack(
        [
            subjects.draw_subject(character, NEW_PLACES[i % 3], seed=900_000 + i)
            for i in range(NUM_PROMPTS // 2)
        ]
    )


def settings_of(case: Case, data: Path) -> dict[str, Any]:
    """Command-line flags of the run: defaults of the goal, one thread, and no samples."""
    flags: dict[str, Any] = {
        "goal": case.goal, "base.name": "pocket", "seed": case.seed, "name": case.name, "data.source": str(data),
        "train.threads": 1, "sample.every": 0, "checkpoint.every": 0, "train.steps": SHORT[case.goal],
    }  # fmt: skip
    steps = int(case.how.settings.get("train.steps", SHORT[case.goal]))
    flags["validate.every"] = max(1, steps // 4)
    if case.goal == "style" and case.how.trigger:
        flags["data.trigger"] = case.how.trigger
    if case.goal == "subject" and case.how.prior:
        flags["prior.class_prompts"] = (subjects.CHARACTERS[case.look].class_prompt,)
        flags["prior.pictures"] = 8
    return flags | case.how.settings


class Maker:
    """Trains and draws cases; the base and its pictures are shared by all."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._drawn: dict[tuple[str, ...], Pictures] = {}

    @cached_property
    def base(self) -> Base:
        return open_base("pocket")

    @cached_property
    def engine(self) -> PictureEngine:
        return PictureEngine.load(self.base, device="cpu", dtype="fp32")

    def file(self, case: Case) -> Path:
        """Where the material of a case is kept."""
        return self.work / "cases" / f"{case.name}.npz"

    def make(self, case: Case) -> dict[str, Any] | None:
        """Train and draw one case; ``None`` when its material is there."""
        if self.file(case).exists():
            return None
        began = time.process_time()
        run, diverged = self._trained(case)
        trained = time.process_time() - began
        adapter = read_adapter(run.adapter_file)
        if case.how.scrambled:
            adapter = scrambled(adapter, seed=case.seed)
        arrays, facts = self._drawn_sides(case, run, adapter)
        facts |= {
            "case": case.name, "goal": case.goal, "look": case.look, "condition": case.condition, "seed": case.seed,
            "diverged": diverged, "training_s": round(trained), "all_s": round(time.process_time() - began),
            "rate": run.spec.train.optim.lr, "steps": run.spec.train.steps, "weight": case.how.weight,
            "validation": [loss for _, loss in run.metrics.validation],
        }  # fmt: skip
        write_arrays(self.file(case), {**arrays, "told": np.array(json.dumps(facts))})
        return facts

    def _trained(self, case: Case) -> tuple[FinishedRun, bool]:
        if case.how.adapter_of:
            source = replace(case, condition=case.how.adapter_of)
            self.make(source)
            return self._trained(source)
        folder, diverged = self.work / "runs" / case.name, False
        try:
            return read_finished_run(folder), (folder / "diverged").exists()
        except RunError:
            pass
        data = self.work / "data" / case.name
        draw_data(data, case)
        spec = load_run_spec(flags=settings_of(case, data))
        try:
            train_adapter(spec, runs=self.work / "runs", force=True, prove=False)
        except TrainingDiverged:
            diverged = True
            (folder / "diverged").touch()
        return read_finished_run(folder), diverged

    def _drawn_sides(
        self, case: Case, run: FinishedRun, adapter: Adapter
    ) -> tuple[dict[str, Pictures], dict[str, Any]]:
        spec, asked = run.spec, ask(case)
        train, held_back = split_holdout(read_dataset(spec.data), float(spec.data.holdout), spec.seed)
        sets = {
            name: requests for name, requests in (("new", asked.new), ("class", asked.own_class)) if requests
        }
        arrays = {f"base_{name}": self._base(requests, spec) for name, requests in sets.items()}
        if case.goal == "style" and not case.how.trigger:
            other = tuple(replace(one, seed=one.seed + SEEDS_APART) for one in asked.new)
            arrays["base_other_seed"] = self._base(other, spec)
        if changes_nothing(adapter):
            arrays |= {f"adapter_{name}": arrays[f"base_{name}"] for name in sets}
        else:
            used = [AdapterInUse(adapter=adapter, weight=case.how.weight)]
            arrays |= {f"adapter_{name}": draw_proof_pictures(self.engine, asked_for, spec, adapters=used)
                       for name, asked_for in sets.items()}  # fmt: skip
        arrays["train"] = np.stack(
            [np.asarray(one.open().convert("RGB"), np.uint8) for one in train.examples]
        )
        if held_back.examples:
            arrays["held_back"] = np.stack(
                [np.asarray(one.open().convert("RGB"), np.uint8) for one in held_back.examples]
            )
        arrays["true"] = true_pictures(case)
        facts = {
            "prompts": [one.prompt for one in asked.new], "plain": asked.plain,
            "class_prompts": [one.prompt for one in asked.own_class],
            "words": [[one.object, one.colour, one.place] for one in asked.words],
            "train_captions": [one.caption for one in train.examples],
            "held_back_captions": [one.caption for one in held_back.examples],
        }  # fmt: skip
        return arrays, facts

    def _base(self, requests: Sequence[ProofRequest], spec: RunSpec) -> Pictures:
        key = tuple(f"{one.prompt} {one.seed}" for one in requests)
        if key not in self._drawn:
            self._drawn[key] = draw_proof_pictures(self.engine, requests, spec)
        return self._drawn[key]


def scrambled(adapter: Adapter, *, seed: int) -> Adapter:
    """The adapter with the channels of every layer permuted, as a base from another start would have them."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for key, layer in adapter.layers.items():
        assert isinstance(layer, LoraLayer), "planted runs train plain LoRA"
        rows = torch.randperm(len(layer.up), generator=generator)
        columns = torch.randperm(layer.down.shape[1], generator=generator)
        layers[key] = replace(layer, up=layer.up[rows].contiguous(), down=layer.down[:, columns].contiguous())
    return replace(adapter, layers=layers)


def changes_nothing(adapter: Adapter) -> bool:
    """Whether every ``up`` is zero, so that the adapter adds exactly nothing in fp32."""
    return all(isinstance(layer, LoraLayer) and not layer.up.any() for layer in adapter.layers.values())


def read_case(path: Path) -> tuple[dict[str, Pictures], dict[str, Any]]:
    """Arrays and facts of a kept case."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files if name != "told"}
        return arrays, json.loads(str(stored["told"]))


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays to one compressed file, in place of one that is there."""

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as stream:  # NumPy appends .npz to a path
            np.savez_compressed(stream, **arrays)

    write_with(path, fill)
