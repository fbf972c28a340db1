"""Bases and adapters that were made for few steps: recognised by what they are called, and how they want to be drawn.

Distillation changes what steps, guidance and spacing of times have to be; drawn with the plain base's settings such
files give grey or burnt pictures, and nothing fails. No field of a file says it in a form that all share: names do.
Files that are distilled here say it in their metadata as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from detour.adapter_files.metadata import FEW_STEPS
from detour.specs.generation import PictureSpec, SchedulerName, Spacing

FewStepKind = Literal["lcm", "tcd", "turbo", "lightning", "hyper", "schnell"]


@dataclass(frozen=True, kw_only=True)
class FewSteps:
    """How files of one kind of distillation are drawn.

    Attributes:
        kind: the distillation.
        title: its name in sentences.
        steps: that a picture takes, unless the file's name says how many.
        most_steps: beyond which the file's pictures get worse.
        guidance_scale: 1 is no guidance.
        guidance_max: above which colours burn.
        scheduler: sampler that it was distilled for.
        spacing: of the sampler's times.
        eta: share of noise that the sampler adds back.
        source: where these settings are published.
    """

    kind: FewStepKind
    title: str
    steps: int
    most_steps: int
    guidance_scale: float
    guidance_max: float
    scheduler: SchedulerName
    spacing: Spacing = "own"
    eta: float | Literal["auto"] = "auto"
    source: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of a ``PictureSpec`` that it decides."""
        return {
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "scheduler": self.scheduler,
            "spacing": self.spacing,
            "eta": self.eta,
        }

    @property
    def words(self) -> str:
        """``4 steps, no guidance, sampler euler, trailing spacing``."""
        guidance = "no guidance" if self.guidance_scale <= 1 else f"guidance {self.guidance_scale:g}"
        spacing = "" if self.spacing == "own" else f", {self.spacing} spacing"
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        return f"{steps}, {guidance}, sampler {self.scheduler}{spacing}"


KINDS: Mapping[FewStepKind, FewSteps] = {
    one.kind: one
    for one in (
        FewSteps(
            kind="lcm",
            title="latent consistency (LCM)",
            steps=4,
            most_steps=8,
            guidance_scale=1.0,
            guidance_max=2.0,
            scheduler="lcm",
            source="arXiv 2311.05556; latent-consistency/lcm-lora-sdv1-5",
        ),
        FewSteps(
            kind="tcd",
            title="trajectory consistency (TCD)",
            steps=4,
            most_steps=20,
            guidance_scale=1.0,
            guidance_max=1.5,
            scheduler="tcd",
            eta=0.3,
            source="arXiv 2402.19159; h1t/TCD-SDXL-LoRA",
        ),
        FewSteps(
            kind="turbo",
            title="adversarial distillation (Turbo)",
            steps=4,
            most_steps=8,
            guidance_scale=1.0,
            guidance_max=1.5,
            scheduler="euler-a",
            spacing="trailing",
            source="arXiv 2311.17042; stabilityai/sdxl-turbo",
        ),
        FewSteps(
            kind="lightning",
            title="Lightning",
            steps=4,
            most_steps=10,
            guidance_scale=1.0,
            guidance_max=2.0,
            scheduler="euler",
            spacing="trailing",
            source="arXiv 2402.13929; ByteDance/SDXL-Lightning",
        ),
        FewSteps(
            kind="hyper",
            title="Hyper-SD",
            steps=4,
            most_steps=12,
            guidance_scale=1.0,
            guidance_max=1.5,
            scheduler="ddim",
            spacing="trailing",
            source="arXiv 2404.13686; ByteDance/Hyper-SD",
        ),
        FewSteps(
            kind="schnell",
            title="Flux-schnell",
            steps=4,
            most_steps=8,
            guidance_scale=1.0,
            guidance_max=1.0,
            scheduler="euler",
            source="black-forest-labs/FLUX.1-schnell",
        ),
    )
}
"""Kind → how it is drawn."""

# Word by word, so that "lcm" is not found in "falcmont" and "hyper" not in "hyperrealism".
_MARKS: tuple[tuple[str, FewStepKind], ...] = (
    (r"(?<![a-z])lcm(?![a-z])", "lcm"),
    (r"(?<![a-z])tcd(?![a-z])", "tcd"),
    (r"lightning", "lightning"),
    (r"(?<![a-z])hyper(?:[-_ ]?(?:sd|sdxl|flux|sd15|sd3))(?![a-z])", "hyper"),
    (r"(?<![a-z])(?:turbo|sdxl[-_ ]?turbo|sd[-_ ]?turbo)(?![a-z])", "turbo"),
    (r"schnell", "schnell"),
)
_STEPS = re.compile(r"(?<![0-9])([1-9]|1[0-6])[-_ ]?steps?(?![a-z])")
_TITLES = ("modelspec.title", "ss_output_name")


def names_of(stem: str, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """What an adapter file is called: by what it says it was distilled for, by its name, and by its titles."""
    said = (metadata.get(FEW_STEPS), stem, *(metadata.get(key) for key in _TITLES))
    return tuple(name for name in said if name)


def recognise(names: Iterable[str]) -> FewSteps | None:
    """Tell from names whether something was made for few steps; the first kind that a name speaks of counts.

    A number of steps in the name (``sdxl_lightning_2step``) is the number that is drawn.

    Args:
        names: of a base or an adapter: file, title, folder.
    """
    for name in names:
        plain = name.lower()
        for mark, kind in _MARKS:
            if re.search(mark, plain):
                steps = _STEPS.search(plain)
                return KINDS[kind] if steps is None else _of_steps(KINDS[kind], int(steps.group(1)))
    return None


def _of_steps(found: FewSteps, steps: int) -> FewSteps:
    """The kind with the number of steps that a file was distilled for."""
    named = replace(found, steps=steps, most_steps=max(steps, found.most_steps))
    if found.kind == "hyper" and steps == 1:  # the one-step file is distilled for TCD's sampler
        return replace(named, scheduler="tcd", spacing="own", eta=1.0)
    return named


def parse_kind(text: str) -> FewSteps | None:
    """Read what ``--fast`` says: ``lcm``, ``lightning:2`` or ``off``.

    Raises:
        ValueError: no kind, or no number of steps from 1 to 16.
    """
    name, _, steps = text.partition(":")
    if name == "off" and not steps:
        return None
    found = next((one for kind, one in KINDS.items() if kind == name), None)
    if found is None:
        raise ValueError(f"'{name}' is not one of {', '.join(KINDS)}, off")
    if steps and (not steps.isdecimal() or not 1 <= int(steps) <= 16):
        raise ValueError(f"'{steps}' is no number of steps from 1 to 16")
    return _of_steps(found, int(steps)) if steps else found


def with_few_steps(how: PictureSpec, found: FewSteps) -> PictureSpec:
    """The settings of a distilled file, under those that were named.

    Args:
        how: settings; fields that were set explicitly stay.
        found: of the file.
    """
    decided = {key: value for key, value in found.settings.items() if key not in how.model_fields_set}
    if "scheduler" in how.model_fields_set and how.scheduler not in ("auto", found.scheduler):
        decided.pop("eta", None)  # another sampler than the file's has its own
        if how.scheduler in ("lcm", "tcd"):
            decided.pop("spacing", None)
    return how.model_copy(update=decided)


def contradictions(found: FewSteps, how: PictureSpec, sampler: str) -> list[str]:
    """Sentences on settings with which the file's pictures come out wrong.

    Args:
        found: of the file.
        how: what is drawn with.
        sampler: resolved.
    """
    said = []
    if how.steps > found.most_steps:
        said.append(
            f"{how.steps} steps; it is made for {found.steps}, and gets worse above {found.most_steps}"
        )
    if how.guidance_scale != "auto" and how.guidance_scale > found.guidance_max:
        said.append(f"guidance {how.guidance_scale:g}; above {found.guidance_max:g} colours burn")
    if sampler != found.scheduler:
        said.append(f"sampler {sampler}; it is distilled for {found.scheduler}")
    elif found.spacing != "own" and how.spacing != found.spacing:
        spacing = "the base's own" if how.spacing == "own" else how.spacing
        said.append(f"{spacing} spacing; it is distilled for {found.spacing}")
    return said
