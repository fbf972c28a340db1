"""What a distilled adapter draws in few steps, compared with what its base draws in many."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict

from detour.adapter_files import read_adapter
from detour.bases.base import Base
from detour.evaluation.distance import style_distance
from detour.evaluation.judge import Judge
from detour.evaluation.pixels import Pictures, mean_abs_diff
from detour.files import sha256_of, write_json
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.generation.few_steps import KINDS, names_of, recognise
from detour.specs.generation import PictureSpec
from detour.specs.resolved import ResolvedRun
from detour.training.resume import DISTILLED
from detour.verbs.progress import Progress, ProgressFn, silent

if TYPE_CHECKING:
    from detour.pocket.world import PromptedScene

PROMPT_SEED = 2026
"""Seed of the prompts that the embedded base's world writes."""

WAY_SEED = 5000
"""Seed of the first picture; picture i has the i-th after it, on every side."""


class Side(BaseModel):
    """One way of drawing the prompts, and what was seen in its pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int
    guidance_scale: float
    scheduler: str
    seconds_a_picture: float
    """Seconds of one picture drawn alone, the median of the pictures that were timed."""
    moved: float
    """Mean absolute difference to the base's pictures of many steps at the same seeds, of 255."""
    right: dict[str, float] | None = None
    """Object, colour and place → share of the pictures in which the base's judge reads the prompt's own."""
    kept: dict[str, float] | None = None
    """The same among those pictures that are right where the base draws them in many steps."""
    to_true: float | None = None
    """Distance (MMD of the judge's features) to true pictures of the prompts; smaller is nearer."""


class DistilledProof(BaseModel):
    """A distilled adapter beside its base, at the same prompts and seeds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: int
    base: Side
    """The base as its pictures are proved, guided, in ``evaluate.steps`` steps."""
    base_in_few: Side
    """The base in as many steps as the adapter, without it: what distillation has to beat."""
    distilled: Side
    """The file, read back beside a fresh base."""
    faster: float
    """Seconds of the base's picture, divided by those of the distilled one."""
    true_apart: float | None = None
    """Distance of two sets of true pictures of the same prompts: the floor of ``to_true``."""

    @property
    def words(self) -> str:
        """One sentence for the run's notes."""
        few = self.distilled
        said = f"In {few.steps} steps the file draws {self.faster:.1f} times as fast as the base in {self.base.steps}"
        if few.kept is None or few.right is None or self.base_in_few.right is None:
            return f"{said}; its pictures differ from the base's by {few.moved:.1f} of 255."
        listed = ", ".join(f"{name} {share:.0%}" for name, share in few.kept.items())
        return (
            f"{said}. Of {self.pictures} prompts it keeps {listed} of what the base gets right; without it "
            f"{few.steps} steps get {self.base_in_few.right['object']:.0%} of the objects right, "
            f"with it {few.right['object']:.0%}."
        )


@dataclass(frozen=True, kw_only=True)
class _Question:
    """Prompts to draw, and what is known of them."""

    prompts: tuple[str, ...]
    scenes: "tuple[PromptedScene, ...]" = ()


def prove_distilled(
    folder: Path,
    file: Path,
    base: Base,
    spec: ResolvedRun,
    captions: Sequence[str],
    progress: ProgressFn = silent,
) -> DistilledProof:
    """Draw with the file that a run left and with its base, and write ``distilled.json``.

    The prompts of an embedded base are combinations that it has never seen, and its judge reads the pictures; other
    bases draw captions of the run, and pictures are compared by their pixels alone.

    Args:
        folder: of the run.
        file: the adapter.
        base: as trained; its parts are loaded anew.
        spec: of the run: ``evaluate.steps`` of the base's pictures, ``evaluate.num_prompts`` prompts.
        captions: of the run's pictures.
        progress: told of the sides that are drawn.
    """
    adapter = read_adapter(file)
    found = recognise(names_of(file.stem, adapter.metadata)) or KINDS["lcm"]
    asked = _asked(base, spec, captions)
    engine = PictureEngine.load(base, device=spec.base.device, dtype="fp32")
    use = (AdapterInUse(adapter=adapter, sha256=sha256_of(file)),)
    ways: dict[str, tuple[PictureSpec, tuple[AdapterInUse, ...]]] = {
        "base": (PictureSpec(steps=spec.evaluate.steps, guidance_scale=spec.distill.guidance_scale), ()),
        "base_in_few": (PictureSpec(steps=found.steps, guidance_scale=spec.distill.guidance_scale), ()),
        "distilled": (PictureSpec.model_validate(found.settings), use),
    }
    drawn: dict[str, Pictures] = {}
    for done, (name, (how, adapters)) in enumerate(ways.items()):
        progress(Progress(stage="drawing the proof", done=done, total=len(ways)))
        drawn[name] = engine.draw(_requests(asked.prompts, how, adapters), batch=8).pictures
    seconds = _timed(engine, ways, asked.prompts)
    reader = _Reader(base, asked.scenes)
    sides = {
        name: Side(
            steps=how.steps,
            guidance_scale=float(engine.resolved(how).guidance_scale),
            scheduler=engine.resolved(how).scheduler,
            seconds_a_picture=seconds[name],
            moved=round(mean_abs_diff(drawn[name], drawn["base"]), 3),
            **reader.figures(drawn[name], drawn["base"]),
        )
        for name, (how, _) in ways.items()
    }
    proof = DistilledProof(
        pictures=len(asked.prompts),
        faster=round(seconds["base"] / seconds["distilled"], 2),
        true_apart=reader.floor,
        **sides,
    )
    write_json(folder / DISTILLED, {**proof.model_dump(mode="json"), "sha256": sha256_of(file)})
    return proof


def _asked(base: Base, spec: ResolvedRun, captions: Sequence[str]) -> _Question:
    count = max(spec.evaluate.num_prompts, 1)
    if spec.evaluate.prompts:
        return _Question(prompts=spec.evaluate.prompts)
    if base.embedded is not None:
        from detour.pocket.world import held_out_prompts

        scenes = tuple(held_out_prompts(count, seed=PROMPT_SEED))
        return _Question(prompts=tuple(one.prompt for one in scenes), scenes=scenes)
    distinct = tuple(dict.fromkeys(captions))
    return _Question(prompts=distinct[:count] or ("",))


def _requests(
    prompts: Sequence[str], how: PictureSpec, adapters: tuple[AdapterInUse, ...]
) -> list[PictureRequest]:
    return [
        PictureRequest(prompt=prompt, seed=WAY_SEED + number, how=how, adapters=adapters)
        for number, prompt in enumerate(prompts)
    ]


def _timed(
    engine: PictureEngine,
    ways: dict[str, tuple[PictureSpec, tuple[AdapterInUse, ...]]],
    prompts: Sequence[str],
    *,
    rounds: int = 3,
) -> dict[str, float]:
    """Median seconds of one picture drawn alone, the ways in turns, so that a busy moment meets all of them."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (how, adapters) in ways.items():
            began = time.perf_counter()
            engine.draw(_requests(prompts[:1], how, adapters), batch=1)
            taken[name].append(time.perf_counter() - began)
    return {name: round(float(np.median(seconds)), 4) for name, seconds in taken.items()}


class _Reader:
    """What the judge of an embedded base reads in pictures; nothing where there are no scenes to compare with."""

    def __init__(self, base: Base, scenes: "tuple[PromptedScene, ...]") -> None:
        self._scenes = scenes
        self.floor: float | None = None
        if not scenes:
            return
        from detour.pocket.world import HOUSE, compose_scene, render

        assert base.embedded is not None, "scenes are of an embedded base"
        self._judge = Judge.load(base.embedded.folder / "judge")
        others = [
            compose_scene(seed=PROMPT_SEED + number, things=[(one.object, one.colour)], place=one.place)
            for number, one in enumerate(scenes)
        ]
        self._true, other = (
            self._judge.picture_features(np.stack([render(scene, HOUSE) for scene in drawn]))
            for drawn in ([one.scene for one in scenes], others)
        )
        self.floor = round(style_distance(self._true, other), 5)

    def figures(self, pictures: Pictures, reference: Pictures) -> dict[str, object]:
        """``right``, ``kept`` and ``to_true`` of a side.

        Args:
            pictures: uint8 (N, H, W, 3), of the side.
            reference: those of the base in many steps.
        """
        if not self._scenes:
            return {}
        hits, before = self._hits(pictures), self._hits(reference)
        kept = {
            slot: [hit for hit, was in zip(row, before[slot], strict=True) if was]
            for slot, row in hits.items()
        }
        return {
            "right": {slot: round(sum(row) / len(row), 4) for slot, row in hits.items()},
            "kept": {slot: round(sum(row) / max(len(row), 1), 4) for slot, row in kept.items()},
            "to_true": round(style_distance(self._judge.picture_features(pictures), self._true), 5),
        }

    def _hits(self, pictures: Pictures) -> dict[str, list[bool]]:
        from detour.verbs.judge.material import WORDS, facts_of_scenes, phrase_of

        return self._judge.prompt_hits(pictures, facts_of_scenes(self._scenes), WORDS, phrase_of)
