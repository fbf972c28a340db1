"""What every drawing study shares: the base, prompts with their facts, the judge, and the scores of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detour.bases.base import Base, open_base
from detour.bases.hardware import drawing_dtype, pick_device, set_threads
from detour.data.captions import with_trigger
from detour.errors import ConfigError
from detour.evaluation.feature_cache import FeatureCache
from detour.evaluation.judge import Judge, PromptFacts, judge_fingerprint, judge_of
from detour.evaluation.judge_choice import can_be_judged, open_judge
from detour.evaluation.pixels import Pictures
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.generation.prompts import without_weights
from detour.generation.strength import StepWeight
from detour.specs.generation import PictureSpec
from detour.specs.studies import StudySpec
from detour.verbs.chosen_adapters import ChosenAdapter, base_for, choose_adapter, in_use
from detour.verbs.draw.picture_files import versions
from detour.verbs.draw.screening import Screening, open_policy
from detour.verbs.judge.figures import hits_of
from detour.verbs.judge.held_out_material import HELD_OUT_SEED
from detour.verbs.judge.material import PromptGroup
from detour.verbs.studies.screened import ScreenedPictures

SEEDS_A_CELL = 1000
"""Picture i of seed s is drawn with seed ``1000 (s + 1) + i``, so that cells of different seeds share none."""

TRIGGER = "modelspec.trigger_phrase"


@dataclass(frozen=True, kw_only=True)
class Studio:
    """Where pictures of a study are drawn and scored; models are loaded when they are first asked for.

    Attributes:
        spec: of the study.
        base: with the schedule that the adapter wants.
        adapter: that is studied, if one is.
        prompts: asked in every cell, the adapter's trigger in front of each.
        facts: what each prompt asks for, where the embedded base's world wrote them.
        screening: of the prompts by the safety policy; all of them may be drawn.
    """

    spec: StudySpec
    base: Base
    adapter: ChosenAdapter | None
    prompts: tuple[str, ...]
    facts: tuple[PromptFacts, ...]
    screening: Screening

    @classmethod
    def open(cls, spec: StudySpec) -> Studio:
        """Check everything that can be checked before a model is loaded.

        Raises:
            ConfigError: there is nobody to judge, or nothing to draw.
            BaseError, AdapterError: they cannot be opened or do not fit.
            Withheld: the safety policy stops a prompt.
        """
        base = open_base(spec.base, revision=spec.revision)
        base.require_weights()
        set_threads("auto")
        adapter = None
        if spec.lora is not None:
            adapter = choose_adapter(spec.lora, base, allow_pickle=spec.allow_pickle)
            base = base_for(base, [adapter])
        if not can_be_judged(spec.judge, base):
            raise ConfigError(
                f"base '{base.name}' has no judge of its own: name the folder of a CLIP model with --judge."
            )
        prompts, facts = _prompts(spec, base)
        trigger = adapter.adapter.metadata.get(TRIGGER, "") if adapter is not None else ""
        asked = [
            PictureRequest(
                prompt=with_trigger(prompt, trigger),
                seed=index,
                adapters=() if adapter is None else in_use([adapter]),
            )
            for index, prompt in enumerate(prompts)
        ]
        screening = Screening(open_policy(spec.policy, base, device=pick_device(spec.device)), asked)
        screening.require_every()
        return cls(
            spec=spec, base=base, adapter=adapter, facts=facts, screening=screening,
            prompts=tuple(request.prompt for _, request in screening.open),
        )  # fmt: skip

    @property
    def seeds(self) -> range:
        """Seeds of the study's pictures."""
        return range(self.spec.first_seed, self.spec.first_seed + self.spec.seeds)

    @property
    def device(self) -> str:
        """Device where pictures are drawn."""
        return pick_device(self.spec.device)

    @cached_property
    def engine(self) -> PictureEngine:
        """The base's parts, without adapters."""
        return PictureEngine.load(
            self.base,
            device=self.device,
            dtype=drawing_dtype(self.spec.dtype, self.device),
            prompts="written",
        )

    @cached_property
    def judge(self) -> Judge:
        """Load the judge that scores pictures."""
        found, nobody = open_judge(
            self.spec.judge,
            self.base,
            device=self.device,
            cache=FeatureCache(on_disk=False),
            fetch=False,
        )
        if found is None:
            raise ConfigError(nobody)
        return found

    @cached_property
    def prompt_features(self) -> Tensor:
        """(prompts, D): where the prompts lie for the judge."""
        return self.judge.text_features([without_weights(prompt) for prompt in self.prompts])

    @property
    def adapters(self) -> tuple[AdapterInUse, ...]:
        """The adapter that is studied at the weight with which the user named it, as requests carry it."""
        return () if self.adapter is None else in_use([self.adapter])

    def settings(self, **others: Any) -> dict[str, Any]:
        """Everything that a cell depends on, but for the variants and seeds; ``others`` go in as they are."""
        spec = self.spec
        adapter = None if self.adapter is None else self.adapter.use.model_dump(mode="json")
        return {
            "base": self.base.identity,
            "base_sha256": self.base.content_sha256(),
            "base_revision": self.base.revision,
            "adapter": adapter,
            "judge": judge_fingerprint(spec.judge or judge_of(self.base.folder)),
            "prompts": list(self.prompts),
            **({"policy": self.screening.version} if self.screening.version else {}),
            "picture": spec.picture.model_dump(mode="json"),
            "batch": spec.batch,
            "device": self.device.partition(":")[0],
            "dtype": drawing_dtype(spec.dtype, self.device),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            **others,
        }

    def requests(self, seed: int) -> list[PictureRequest]:
        """One picture of each prompt."""
        return [replace(request, adapters=()) for _, request in self._screened(seed).open]

    def _screened(self, seed: int) -> Screening:
        return self.screening.seeded(SEEDS_A_CELL * (seed + 1))

    def draw(
        self,
        seed: int,
        how: PictureSpec,
        *,
        adapters: Sequence[AdapterInUse],
        step_weights: Sequence[StepWeight] = (),
    ) -> Pictures:
        """Draw one picture of each prompt, which :meth:`screened` has to look at before it is kept.

        Args:
            seed: of the cell.
            how: size, steps, sampler and guidance.
            adapters: of all pictures.
            step_weights: factors on the adapters' strengths along the steps.

        Returns:
            uint8 (prompts, H, W, 3).
        """
        requests = [replace(request, step_weights=tuple(step_weights)) for request in self.requests(seed)]
        return self.engine.draw(requests, how, adapters=adapters, batch=self.spec.batch).pictures

    def screened(self, seed: int, pictures: Pictures) -> ScreenedPictures:
        """Let the safety policy look at the pictures of a cell.

        Args:
            seed: of the cell.
            pictures: uint8 (prompts, H, W, 3).
        """
        return ScreenedPictures.of(pictures, self._screened(seed))

    def true_pictures(self, seed: int) -> Pictures:
        """What the embedded base's world draws for its prompts, in scenes of its own for each seed."""
        from detour.pocket.world import HOUSE, compose_scene, render

        side = self.base.native_size_px
        scenes = [
            compose_scene(
                seed=SEEDS_A_CELL * (seed + 1) + i, things=[(one.object, one.colour)], place=one.place
            )
            for i, one in enumerate(self.facts)
        ]
        return np.stack([render(scene, HOUSE, size_px=side) for scene in scenes])

    def scores(self, pictures: Pictures) -> dict[str, list[float]]:
        """``clip``, and on the embedded base's own prompts ``object``, ``colour`` and ``place``, picture by picture.

        Args:
            pictures: uint8 (prompts, H, W, 3), one of each prompt.
        """
        features = self.judge.picture_features(pictures)
        scores = {"clip": (features * self.prompt_features).sum(-1).tolist()}
        if self.facts:
            scores |= self._hits(pictures)
        return scores

    def _hits(self, pictures: Pictures) -> dict[str, list[float]]:
        asked = PromptGroup(prompts=self.prompts, plain=self.prompts, facts=self.facts)
        hits = hits_of(self.judge, pictures, asked, 1)
        return {slot: [float(hit) for hit in row] for slot, row in hits.items()}

    def distances(self, pictures: Pictures, others: Pictures) -> dict[str, list[float]]:
        """How far pictures are from others of the same prompts: in pixels (0-255), and for the judge (0 to 2)."""
        pixels = np.abs(pictures.astype(np.int16) - others.astype(np.int16)).mean(axis=(1, 2, 3))
        mine, theirs = self.judge.picture_features(pictures), self.judge.picture_features(others)
        return {"pixels": pixels.tolist(), "judge_distance": (1 - (mine * theirs).sum(-1)).tolist()}

    def share_of_move(self, pictures: Pictures, plain: Pictures, full: Pictures) -> list[float]:
        """How far each picture went from the base's towards the adapter's in the judge's features: 0 none, 1 all.

        Each is the part of its move that lies along the full one, over the mean square of the full moves; so the mean
        over the pictures is the share of the whole move.
        """
        here, start, end = (self.judge.picture_features(some).double() for some in (pictures, plain, full))
        full_move = end - start
        size = full_move.square().sum(-1).mean().clamp_min(1e-12)
        return (((here - start) * full_move).sum(-1) / size).tolist()


def _prompts(spec: StudySpec, base: Base) -> tuple[tuple[str, ...], tuple[PromptFacts, ...]]:
    if spec.prompts:
        return spec.prompts, ()
    if base.embedded is None:
        raise ConfigError("no prompts: name some with --prompt, eight or more make differences visible.")
    from detour.pocket.world import held_out_prompts
    from detour.verbs.judge.material import facts_of_scenes

    asked = held_out_prompts(spec.num_prompts, seed=HELD_OUT_SEED)
    return tuple(one.prompt for one in asked), facts_of_scenes(asked)


def colours_of(pictures: Pictures) -> dict[str, list[float]]:
    """Saturation and contrast gone wild, picture by picture.

    ``saturation`` is the mean of HSV's S, ``clipped`` the share of channel values at the ends of the scale (0 to 2 and
    253 to 255), ``contrast`` the standard deviation of brightness; all between 0 and 1.
    """
    unit = pictures.astype(np.float64) / 255
    high, low = unit.max(axis=-1), unit.min(axis=-1)
    saturation = np.divide(high - low, high, out=np.zeros_like(high), where=high > 0)
    clipped = (pictures <= 2) | (pictures >= 253)
    return {
        "saturation": saturation.mean(axis=(1, 2)).tolist(),
        "clipped": clipped.mean(axis=(1, 2, 3)).tolist(),
        "contrast": unit.mean(axis=-1).std(axis=(1, 2)).tolist(),
    }
