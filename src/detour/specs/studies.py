"""Settings of the studies that draw pictures under many conditions."""

from typing import Annotated, Literal

from pydantic import Field

from detour.specs.generation import PictureSpec
from detour.specs.run import Dtype, RunSpec
from detour.specs.strict import Auto, Count, PositiveInt, Spec


class StudySpec(Spec):
    """What a study draws, how often, and with what."""

    base: str = "pocket"
    """``pocket``, ``pocket-flow``, a hub id, a diffusers folder or a single ``.safetensors`` checkpoint."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    judge: str | None = None
    """Folder or hub id of a CLIP model that scores the pictures; the base's own where it has one."""
    prompts: tuple[str, ...] = ()
    """Each is drawn in every cell; empty takes held-out prompts of the embedded base's world."""
    num_prompts: PositiveInt = 8
    """Number of held-out prompts that are taken when none are given."""
    first_seed: Count = 0
    """Seed of each prompt's first picture; later ones use consecutive seeds."""
    seeds: PositiveInt = 2
    """Seeds that each cell is measured with; differences are held against the scatter over prompts and seeds."""
    lora: str | None = None
    """``FILE`` or ``FILE:weight`` of the adapter that is studied."""
    allow_pickle: bool = False
    """Read ``.pt``, ``.bin`` and ``.ckpt`` adapters too, their tensors alone."""
    device: Literal["cuda", "mps", "cpu"] | Auto = "auto"
    """Where it runs."""
    dtype: Dtype | Auto = "auto"
    """``auto``: fp32 on cpu and mps, fp16 on cuda."""
    batch: Annotated[int, Field(gt=0)] = 8
    """Pictures in one forward pass."""
    policy: str | None = None
    """File of a safety policy that prompts and pictures have to pass."""
    picture: PictureSpec = PictureSpec(steps=20)
    """How pictures are drawn where the study does not vary it."""


class AxisSpec(Spec):
    """One setting of a run that a comparison varies."""

    key: str
    """Dotted, as in ``run.toml``: ``adapter.rank``."""
    values: tuple[str | int | float | bool, ...]
    """Values that the setting takes, one after the other."""


class CompareSpec(Spec):
    """Runs that differ in a few settings, each trained with several seeds."""

    run: RunSpec
    """What all of them share; its seed is the first one."""
    axes: tuple[AxisSpec, ...]
    """Every combination of their values is a variant."""
    seeds: PositiveInt = 3
    """Seeds that each variant is trained with; differences are held against the scatter over them."""
    equal_parameters: bool = False
    """Give each choice of layers the rank at which it has about as many parameters as the largest of them."""
    judge: str | None = None
    """Folder of a CLIP model that scores the pictures; the base's own where it has one."""
    batch: Annotated[int, Field(gt=0)] = 8
    """Pictures in one forward pass."""
    policy: str | None = None
    """File of a safety policy that prompts and pictures have to pass."""
