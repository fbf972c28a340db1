"""Settings of picture generation."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from detour.specs.run import Dtype
from detour.specs.strict import Auto, NonNegative, PositiveInt, Spec

SchedulerName = Literal["ddpm", "ddim", "pndm", "euler", "euler-a", "dpm++", "lcm", "tcd"]
Spacing = Literal["own", "leading", "trailing", "linspace"]

SizePx = Annotated[int, Field(gt=0, le=8192, multiple_of=8)]


def _rising(interval: tuple[float, float]) -> tuple[float, float]:
    if not interval[0] < interval[1]:
        raise ValueError(
            f"begins at {interval[0]:g} and ends at {interval[1]:g}; let it end later than it begins"
        )
    return interval


StepInterval = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]], AfterValidator(_rising)
]


class PictureSpec(Spec):
    """How pictures are drawn; the same for every prompt of one call."""

    negative_prompt: str = ""
    """What guidance steers away from; empty is the family's unconditional text."""
    steps: PositiveInt = 25
    """Number of denoising steps."""
    guidance_scale: NonNegative | Auto = "auto"
    """Classifier-free guidance; 1 or less switches it off; ``auto`` is the base's recommended value. A base that
    is told its guidance scale (Flux-dev) is told this one."""
    true_guidance_scale: NonNegative = 1.0
    """Classifier-free guidance of a base that is told its guidance scale: above 1 a negative prompt has an effect,
    and a picture costs twice as much."""
    guidance_interval: StepInterval = (0.0, 1.0)
    """Shares of the steps at which classifier-free guidance begins and ends; a step outside makes one prediction
    instead of two (Kynkäänniemi et al. 2024, arXiv:2404.07724)."""
    deep_every: Annotated[int, Field(ge=1, le=20)] = 1
    """Run a UNet's deeper blocks in the first of every so many steps, and reuse what they made in the others
    (DeepCache, arXiv:2312.00858); 1 runs them in every step."""
    width_px: SizePx | Auto = "auto"
    """``auto`` is the base's own size."""
    height_px: SizePx | Auto = "auto"
    """``auto`` is the base's own size."""
    scheduler: SchedulerName | Auto = "auto"
    """Sampler; ``dpm++`` is DPM++ 2M; ``auto`` is ``dpm++``, and ``euler`` on a rectified flow."""
    spacing: Spacing = "own"
    """Where the sampler's times lie on the base's schedule; ``own`` is the base's own setting. Distilled files want
    ``trailing``, which begins at the last time."""
    eta: Annotated[float, Field(ge=0, le=1)] | Auto = "auto"
    """Share of noise that DDIM (0 to 1; 1 is DDPM's variance) or TCD adds back; ``auto`` is 0 of DDIM, 0.3 of TCD."""


class GenerateSpec(Spec):
    """Settings of one call of ``detour generate``."""

    prompts: tuple[str, ...]
    """One picture (times ``count``) each."""
    base: str = "pocket"
    """``pocket``, ``pocket-flow``, a hub id, a diffusers folder or a single ``.safetensors`` checkpoint."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    loras: tuple[str, ...] = ()
    """``FILE`` or ``FILE:weight``."""
    lora_steps: tuple[tuple[float, float], ...] = ()
    """(share of the steps that are done, factor on every adapter's weight from there on); empty is 1 throughout."""
    merge: bool = False
    """Add the adapters to the loaded weights before the first picture: each costs what the base's does, and differs
    from one with adapters beside the layers by rounding. Not with ``lora_steps`` or ``compare``."""
    fast: str = "auto"
    """How files made for few steps are drawn: ``auto`` tells from their names, ``lcm`` or ``lightning:2`` says it, and
    ``off`` does not look. Settings that are named win."""
    allow_pickle: bool = False
    """Read ``.pt``, ``.bin`` and ``.ckpt`` adapters too, their tensors alone."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the first picture; picture i uses ``seed + i``."""
    count: PositiveInt = 1
    """Pictures a prompt."""
    start: str | None = None
    """Picture to begin with, cut to the size that is drawn; without a size it gives its own shape."""
    strength: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Share of the steps that are drawn of a picture that begins as another one: 1 keeps nothing of it."""
    mask: str | None = None
    """Picture of ``start``'s size: white is drawn anew, black stays to the pixel."""
    references: tuple[str, ...] = ()
    """Pictures that the network is shown beside the prompt, ``FILE`` or ``FILE:strength``."""
    reference_adapter: str | None = None
    """File of the IP-Adapter that shows them; without one the base's own."""
    reference_encoder: str | None = None
    """Folder of the image encoder that it reads; without one it is looked for beside the file."""
    reference_blocks: tuple[tuple[str, float], ...] = ()
    """(block, factor) on the references' strength: ``down``, ``up.0``, or one attention, ``up.0.1``; others have 1."""
    reference_steps: tuple[tuple[float, float], ...] = ()
    """(share of the steps that are done, factor on the references' strength from there on); empty is 1 throughout."""
    device: Literal["cuda", "mps", "cpu"] | Auto = "auto"
    """Where it runs."""
    dtype: Dtype | Auto = "auto"
    """``auto``: fp32 on cpu and mps, fp16 on cuda."""
    batch: PositiveInt = 4
    """Pictures in one forward pass, at most; decides the width class where ``width_class`` does not."""
    width_class: Literal[1, 2, 4, 8, 16] | Auto = "auto"
    """Rows of every forward pass, guidance included; part of the bytes: classes differ by one step of 255. ``auto`` is
    the narrowest that holds each batch."""
    compare: bool = False
    """Draw each picture with and without the adapters at the same seed."""
    trace: Annotated[int, Field(ge=0)] = 0
    """Keep the picture at this many moments of denoising."""
    policy: str | None = None
    """File of a safety policy that requests and pictures have to pass."""
    c2pa_cert: str | None = None
    """PEM file of the certificate, with its chain, that each picture is signed with (extra ``provenance``)."""
    c2pa_key: str | None = None
    """PEM file of the certificate's key."""
    picture: PictureSpec = PictureSpec()


class InterpolateSpec(Spec):
    """Settings of one call of ``detour interpolate``: whatever has two ends goes along together."""

    prompts: tuple[str, ...]
    """One prompt, or the two ends."""
    base: str = "pocket"
    """``pocket``, ``pocket-flow``, a hub id, a diffusers folder or a single ``.safetensors`` checkpoint."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the start noise."""
    seed_to: Annotated[int, Field(ge=0)] | None = None
    """Seed of the start noise at the other end; the way there lies on the sphere."""
    loras: tuple[str, ...] = ()
    """Adapters that are on all the way, ``FILE`` or ``FILE:weight``."""
    lora_from: tuple[str, ...] = ()
    """Adapters whose strength falls to 0."""
    lora_to: tuple[str, ...] = ()
    """Adapters whose strength rises from 0."""
    allow_pickle: bool = False
    """Read ``.pt``, ``.bin`` and ``.ckpt`` adapters too, their tensors alone."""
    frames: Annotated[int, Field(ge=2, le=480)] = 9
    """Pictures, both ends included."""
    device: Literal["cuda", "mps", "cpu"] | Auto = "auto"
    """Where it runs."""
    dtype: Dtype | Auto = "auto"
    """``auto``: fp32 on cpu and mps, fp16 on cuda."""
    batch: PositiveInt = 4
    """Pictures in one forward pass, at most."""
    policy: str | None = None
    """File of a safety policy that requests and pictures have to pass."""
    picture: PictureSpec = PictureSpec()
