"""How pictures are drawn: guidance, steps, sampler, size, precision, seed.

Figures are those of ``docs/studies.md`` and ``docs/doctor.md``, measured on the embedded base.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from detour.generation.few_steps import FewSteps, contradictions, recognise
from detour.specs.generation import PictureSpec, Spacing
from detour.verbs.doctor.finding import Finding, Rule

GUIDANCE_HIGH = 2.5
"""Times the base's own guidance: 2 on ``pocket``, where 7.5 clips three times what true pictures do."""

GUIDANCE_BROKEN = 10.0
"""Times the base's own guidance: 20 on ``pocket``, where pictures are visibly broken."""

GUIDANCE_WANTED = 3.0
"""Bases whose own guidance is at least this are not drawn with without any."""

FEWEST_STEPS = {"dpm++": 3, "euler": 5, "ddpm": 5, "ddim": 10, "pndm": 10}
"""Number of steps at which ``pocket`` draws the picture that many steps draw (DDPM: keeps the prompt)."""

USUAL_STEPS = {"dpm++": 15, "euler": 20, "ddpm": 50, "ddim": 25, "pndm": 25}
"""Number of steps below which ``detour schedulers`` is advised for a base of photographs; usual figures, not
measured here.
"""

PHOTO_SIZE_PX = 512
"""Bases of at least this size are taken for bases of photographs."""

SIZE_APART = 1.5
"""Times a side of the base's own size, either way."""

LONG_SIDE = 2.0
"""Largest ratio of the longer side to the shorter one."""

HIGH = Rule(
    name="guidance-high",
    subject="picture",
    severity="warning",
    fires=f"guidance above {GUIDANCE_HIGH:g} times the base's own",
    cause="Colours clip, contrast hardens and seeds resemble each other.",
    fix="Take the base's own (leave --guidance out), or measure: detour guidance.",
    sure=True,
)
BROKEN = Rule(
    name="guidance-broken",
    subject="picture",
    severity="error",
    fires=f"guidance from {GUIDANCE_BROKEN:g} times the base's own on",
    cause="Pictures are visibly broken there.",
    fix="Take the base's own (leave --guidance out).",
    sure=True,
)
LOW = Rule(
    name="guidance-low",
    subject="picture",
    severity="warning",
    fires=f"guidance of 1 or less on a base whose own is {GUIDANCE_WANTED:g} or more, not a distilled one",
    cause="Without guidance the picture follows the prompt only weakly, and comes out vague.",
    fix="Take the base's own (leave --guidance out).",
    sure=True,
)
INTERVAL_UNUSED = Rule(
    name="guidance-interval-unused",
    subject="picture",
    severity="warning",
    fires="a guidance interval with guidance of 1 or less, as files made for few steps are drawn",
    cause="Without guidance there is nothing to leave out of some steps: the interval saves and changes nothing.",
    fix="Leave --guidance-interval out, or raise --guidance above 1.",
    sure=True,
)
DEEP_FEW_STEPS = Rule(
    name="deep-few-steps",
    subject="picture",
    severity="warning",
    fires="deep features that are reused (--deep-every) with a base or adapter made for few steps",
    cause="Its steps are far apart: what the deeper blocks made in one step is not what the next one needs.",
    fix="Leave --deep-every out.",
    sure=True,
)
NEGATIVE_UNREAD = Rule(
    name="negative-unread",
    subject="picture",
    severity="warning",
    fires="a negative prompt with guidance of 1 or less",
    cause="Without guidance the negative prompt is not used at all.",
    fix="Raise --guidance above 1, or leave the negative prompt out.",
    sure=True,
)
DISTILLED = Rule(
    name="distilled-settings",
    subject="picture",
    severity="warning",
    fires="a base or adapter made for few steps (by its name) with steps, guidance, sampler or spacing of other bases",
    cause="It was distilled for other settings; pictures come out grey, burnt or blurred, and nothing fails.",
    fix="Leave --steps, --guidance, --scheduler and --spacing out: they follow from the file, or from --fast KIND.",
    sure=True,
)
STEPS_BROKEN = Rule(
    name="steps-too-few",
    subject="picture",
    severity="error",
    fires="fewer steps than the embedded base needs: "
    + ", ".join(f"{name} {least}" for name, least in FEWEST_STEPS.items())
    + "; not with a distilled base or adapter",
    cause="The picture is not finished: it is grey or blurred, or differs from the one that more steps draw.",
    fix="Take --steps 25, or find the fewest that do: detour schedulers.",
    sure=True,
)
STEPS_FEW = Rule(
    name="steps-few",
    subject="picture",
    severity="warning",
    fires=f"on bases of {PHOTO_SIZE_PX} px and more, fewer steps than usual: "
    + ", ".join(f"{name} {least}" for name, least in USUAL_STEPS.items()),
    cause="Bases of photographs usually want more steps for fine detail.",
    fix="Take --steps 25, or find the fewest that do on this base: detour schedulers.",
)
DDPM = Rule(
    name="ddpm-serving",
    subject="picture",
    severity="warning",
    fires="the sampler is DDPM",
    cause="It adds noise at every step, so more steps draw another picture, nearly as different as another seed's, at "
    "the same cost a step.",
    fix="Take --scheduler dpm++: it follows prompts as well in 10 to 25 steps, and more steps refine the same picture.",
)
SIZE = Rule(
    name="size-far",
    subject="picture",
    severity="warning",
    fires=f"a side more than {SIZE_APART:g} times larger or smaller than the base's own, or one {LONG_SIDE:g} times "
    "the other",
    cause="The base was not trained at such sizes: larger pictures may repeat things, smaller ones cut and blur them.",
    fix="Draw at the base's own size (leave --width and --height out) and enlarge the picture afterwards.",
    sure=True,
)
FULL_PRECISION = Rule(
    name="fp32-on-gpu",
    subject="picture",
    severity="note",
    fires="fp32 on a CUDA GPU",
    cause="Half precision draws nearly the same picture, in half the memory and less time.",
    fix="Take --dtype fp16 for drawing, bf16 for training.",
)
HALF_ON_CPU = Rule(
    name="fp16-on-cpu",
    subject="picture",
    severity="warning",
    fires="fp16 on a CPU",
    cause="CPUs compute fp16 slowly, and its small range overflows.",
    fix="Take --dtype fp32, or bf16 where the CPU has it.",
)
NO_SEED = Rule(
    name="no-seed",
    subject="picture",
    severity="note",
    fires="a picture whose seed is not known",
    cause="It cannot be drawn again, or compared with the same picture under other settings.",
    fix="Name a seed: --seed 1.",
)
RULES = (
    HIGH, BROKEN, LOW, INTERVAL_UNUSED, DEEP_FEW_STEPS, NEGATIVE_UNREAD, DISTILLED, STEPS_BROKEN, STEPS_FEW, DDPM,
    SIZE, FULL_PRECISION, HALF_ON_CPU, NO_SEED,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How a picture is drawn, as far as it is known; ``None`` is not looked at.

    Attributes:
        where: names it in findings.
        base: its name.
        native_size_px: the base's own side.
        own_guidance: the guidance it recommends.
        guidance_scale: classifier-free guidance, or what the base is told.
        embeds_guidance: whether the base is told its guidance scale (Flux-dev).
        true_guidance_scale: classifier-free guidance of such a base.
        steps: denoising steps.
        scheduler: a sampler's name.
        width_px: of the picture.
        height_px: of the picture.
        device: cuda, mps or cpu.
        dtype: fp32, bf16 or fp16.
        negative_prompt: what guidance steers away from.
        seed: ``None`` where nobody knows it.
        wants_seed: whether an unknown seed is worth a word.
        adapters: names of those that are on.
        spacing: of the sampler's times; ``own`` is the base's.
        guidance_interval: shares of the steps between which guidance applies.
        deep_every: steps a run of the network's deeper blocks.
    """

    where: str
    base: str
    native_size_px: int
    own_guidance: float
    guidance_scale: float | None = None
    embeds_guidance: bool = False
    true_guidance_scale: float = 1.0
    steps: int | None = None
    scheduler: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    device: str | None = None
    dtype: str | None = None
    negative_prompt: str = ""
    seed: int | None = None
    wants_seed: bool = False
    adapters: tuple[str, ...] = ()
    spacing: Spacing = "own"
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    deep_every: int = 1

    @property
    def few_steps(self) -> FewSteps | None:
        """What an adapter or the base was distilled for, by their names."""
        return recognise((*self.adapters, self.base))

    @property
    def is_distilled(self) -> bool:
        """Whether base or adapters are made for few steps and little guidance, by their names."""
        return self.few_steps is not None


def examine_drawing(drawing: Drawing) -> Iterator[Finding]:
    """Findings on how pictures are drawn."""
    yield from _guidance(drawing)
    yield from _steps(drawing)
    yield from _distilled(drawing)
    if drawing.deep_every > 1 and drawing.is_distilled:
        yield DEEP_FEW_STEPS.found(f"deep features reused for {drawing.deep_every} steps", drawing.where)
    yield from _size(drawing)
    yield from _precision(drawing)
    if drawing.wants_seed and drawing.seed is None:
        yield NO_SEED.found("the seed is not known", drawing.where)


def _guidance(drawing: Drawing) -> Iterator[Finding]:
    scale, own = drawing.guidance_scale, drawing.own_guidance
    if scale is None:
        return
    what = f"guidance {scale:g}; the base's own is {own:g}"
    if scale >= GUIDANCE_BROKEN * own:
        yield BROKEN.found(what, drawing.where)
    elif scale > GUIDANCE_HIGH * own:
        yield HIGH.found(what, drawing.where)
    if scale <= 1 and own >= GUIDANCE_WANTED and not drawing.is_distilled:
        yield LOW.found(what, drawing.where)
    true = drawing.true_guidance_scale if drawing.embeds_guidance else scale
    kind = "true guidance" if drawing.embeds_guidance else "guidance"
    if true <= 1 and drawing.guidance_interval != (0, 1):
        yield INTERVAL_UNUSED.found(f"{kind} {true:g} with a guidance interval", drawing.where)
    if true <= 1 and drawing.negative_prompt:
        yield NEGATIVE_UNREAD.found(f"{kind} {true:g} with a negative prompt", drawing.where)


def _steps(drawing: Drawing) -> Iterator[Finding]:
    steps, sampler = drawing.steps, drawing.scheduler
    if sampler == "ddpm":
        yield DDPM.found("pictures are drawn with DDPM", drawing.where)
    if steps is None or sampler not in FEWEST_STEPS or drawing.is_distilled:
        return
    what = f"{steps} step{'s' * (steps != 1)} of {sampler}"
    if steps < FEWEST_STEPS[sampler]:
        yield STEPS_BROKEN.found(what, drawing.where)
    elif drawing.native_size_px >= PHOTO_SIZE_PX and steps < USUAL_STEPS[sampler]:
        yield STEPS_FEW.found(what, drawing.where)


def _distilled(drawing: Drawing) -> Iterator[Finding]:
    found = drawing.few_steps
    if found is None or drawing.steps is None or drawing.scheduler is None:
        return
    how = PictureSpec.model_validate(
        {
            "steps": drawing.steps,
            "guidance_scale": "auto" if drawing.guidance_scale is None else drawing.guidance_scale,
            "spacing": drawing.spacing,
        }
    )
    for what in contradictions(found, how, drawing.scheduler):
        yield DISTILLED.found(f"{found.title} drawn with {what}", drawing.where)


def _size(drawing: Drawing) -> Iterator[Finding]:
    native = drawing.native_size_px
    sides = [side or native for side in (drawing.width_px, drawing.height_px)]
    far = any(not native / SIZE_APART <= side <= native * SIZE_APART for side in sides)
    if far or max(sides) >= LONG_SIDE * min(sides):
        yield SIZE.found(
            f"{sides[0]} × {sides[1]} px; the base's own size is {native} × {native}", drawing.where
        )


def _precision(drawing: Drawing) -> Iterator[Finding]:
    device = (drawing.device or "").partition(":")[0]
    if device == "cuda" and drawing.dtype == "fp32":
        yield FULL_PRECISION.found("fp32 on a GPU", drawing.where)
    if device == "cpu" and drawing.dtype == "fp16":
        yield HALF_ON_CPU.found("fp16 on a CPU", drawing.where)
