"""Pictures on the way from one seed, prompt or adapter to another, and how evenly they change."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from detour.bases.base import open_base
from detour.bases.hardware import drawing_dtype, pick_device
from detour.errors import ConfigError, Withheld
from detour.files import write_json
from detour.generation.between import Toward
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.generation.png import save_image
from detour.generation.video import check_video, save_video
from detour.generation.widths import width_for
from detour.specs.generation import InterpolateSpec, PictureSpec
from detour.verbs.chosen_adapters import base_for, choose_adapter, in_use
from detour.verbs.draw.screening import GREY, Screening, WithheldPicture, open_policy
from detour.verbs.progress import Progress, ProgressFn, silent
from detour.verbs.staging import refuse_no_png, refuse_taken

COLUMNS = 9
"""Pictures in a row of the strip."""

JUMP = 2.0
"""Largest step over the median one from which on a note says that the way is uneven; sun and cloud that change sides
in one step gave 2.65 on the embedded base (docs/drawing.md)."""


class Interpolation(BaseModel):
    """The strip and how evenly its pictures change; distances are mean absolute differences on the 0-255 scale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    figures: Path
    video: Path | None
    base: str
    shares: tuple[float, ...]
    """Share of the way of each picture that was handed out."""
    steps: tuple[float, ...]
    """Distance of each picture to the one before."""
    jump: float
    """Largest of these over their median; 1 where all are alike."""
    monotone: float
    """Share of the steps that lead away from the first picture and towards the last one."""
    length: float
    """Sum of the steps over the distance of the two ends; 1 is the straight line of pixels."""
    seconds: float
    policy: str = ""
    """Version of the safety policy; empty without one."""
    withheld: tuple[WithheldPicture, ...] = ()
    """Pictures that the policy refused or held: a grey field in the strip and the video, and in no figure."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)


def interpolate_pictures(
    spec: InterpolateSpec,
    *,
    out: Path,
    video: Path | None = None,
    fps: float = 8.0,
    force: bool = False,
    progress: ProgressFn = silent,
) -> Interpolation:
    """Draw pictures from one seed, prompt or adapter to another, by DDIM without noise.

    Args:
        spec: the two ends; whatever has two ends goes along together.
        out: the strip, a ``.png``; its figures go beside it as ``.json``.
        video: the same pictures as ``.gif``, ``.mp4`` or ``.webm``; the last two need the extra ``video``.
        fps: pictures a second of the video.
        force: overwrite existing output.
        progress: told after every denoising step; counts pictures.

    Raises:
        ConfigError: only one end, another sampler, or ``out`` is taken.
        AdapterError: an adapter is broken or made for another base.
        MissingExtra: a video that needs the extra.
        Withheld: the policy lets fewer than two pictures pass.
    """
    began = time.monotonic()
    how = _how(spec)
    refuse_no_png(out)
    figures = out.with_suffix(".json")
    for place in (out, figures, *([video] if video is not None else [])):
        refuse_taken(place, force=force)
    if video is not None:
        check_video(video)
    base = open_base(spec.base, revision=spec.revision)
    base.require_weights()
    always, falling, rising = (
        [choose_adapter(text, base, allow_pickle=spec.allow_pickle) for text in texts]
        for texts in (spec.loras, spec.lora_from, spec.lora_to)
    )
    base = base_for(base, [*always, *falling, *rising])
    if not base.is_flow and how.scheduler == "auto":
        how = how.model_copy(update={"scheduler": "ddim"})
    device = pick_device(spec.device)
    policy = open_policy(spec.policy, base, device=device)
    engine = PictureEngine.load(
        base, device=device, dtype=drawing_dtype(spec.dtype, device), safety=True, prompts="written"
    )
    shares = tuple(float(share) for share in np.linspace(0, 1, spec.frames))

    def adapters(share: float) -> tuple[AdapterInUse, ...]:
        return (*in_use(always), *in_use(falling, factor=1 - share), *in_use(rising, factor=share))

    steered = policy is not None and policy.spec.latent is not None
    rows = 3 if steered else 2 if engine.resolved(how).guidance_scale > 1 else 1
    requests = [
        PictureRequest(
            prompt=spec.prompts[0],
            seed=spec.seed,
            how=how,
            toward=Toward(
                share=share, prompt=spec.prompts[1] if len(spec.prompts) > 1 else None, seed=spec.seed_to
            ),
            adapters=adapters(share),
            width_class=width_for(rows * spec.batch),  # one for all: another one is another rounding
        )
        for share in shares
    ]

    def on_step(done: int, total: int) -> None:
        progress(Progress(stage="drawing", done=done * spec.frames // total, total=spec.frames))

    screening = Screening(policy, requests)
    screening.require_open()
    numbers = [number for number, _ in screening.open]
    drawn = engine.draw([request for _, request in screening.open], batch=spec.batch, on_step=on_step)
    passed = screening.passed(numbers, drawn, how=engine.resolved(how))
    shown = [number for number, passes in zip(numbers, passed, strict=True) if passes]
    if len(shown) < 2:
        raise Withheld(f"policy {screening.version} lets {len(shown)} of {spec.frames} pictures pass.")
    frames = np.full((spec.frames, *drawn.pictures.shape[1:]), GREY, np.uint8)
    frames[shown] = drawn.pictures[np.array(passed)]
    labels = [f"{share:.0%}" for share in shares]
    save_image(out, _strip(frames, labels, _words(spec)))
    if video is not None:
        save_video(video, frames, fps=fps)
    result = Interpolation(
        path=out,
        figures=figures,
        video=video,
        base=base.identity,
        shares=tuple(shares[number] for number in shown),
        **measure(frames[shown]),
        policy=screening.version,
        withheld=tuple(screening.withheld),
        seconds=round(time.monotonic() - began, 3),
        notes=(),
    )
    notes = (*screening.notes(), *notes_on(result, drawn.nsfw))
    result = result.model_copy(update={"notes": notes})
    write_json(
        figures, result.model_dump(mode="json", exclude={"path", "figures", "video", "seconds", "notes"})
    )
    return result


def measure(frames: np.ndarray) -> dict[str, Any]:
    """How evenly pictures change: ``steps``, ``jump``, ``monotone`` and ``length`` of :class:`Interpolation`.

    Args:
        frames: uint8 (N, H, W, 3), N at least 2.
    """
    pictures = frames.astype(np.float64)

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(a - b).mean())

    steps = [distance(a, b) for a, b in itertools.pairwise(pictures)]
    away = np.diff([distance(pictures[0], one) for one in pictures])
    towards = np.diff([distance(pictures[-1], one) for one in pictures])
    median, whole = float(np.median(steps)), distance(pictures[0], pictures[-1])
    return {
        "steps": tuple(round(step, 4) for step in steps),
        "jump": round(max(steps) / median, 3) if median else (1.0 if not max(steps) else float("inf")),
        "monotone": round(float(((away >= 0) & (towards <= 0)).mean()), 3),
        "length": round(sum(steps) / whole, 3) if whole else 1.0,
    }


def _how(spec: InterpolateSpec) -> PictureSpec:
    if not 1 <= len(spec.prompts) <= 2:
        raise ConfigError(f"{len(spec.prompts)} prompts: name one, or the two ends of the way.")
    if len(spec.prompts) == 1 and spec.seed_to is None and not (spec.lora_from or spec.lora_to):
        raise ConfigError(
            "there is nothing to go between: name a second prompt, --seed-to, or --lora-to FILE (and --lora-from)."
        )
    how = spec.picture
    if how.scheduler not in ("auto", "ddim") or how.eta not in ("auto", 0):
        raise ConfigError(
            "pictures in between are drawn by DDIM without noise (Euler on a rectified flow), or neighbours would have "
            "noise of their own. Leave the scheduler and eta out."
        )
    return how


def _strip(frames: np.ndarray, labels: Sequence[str], words: str) -> Image.Image:
    """One row where all fit, else rows of :data:`COLUMNS`, each picture with its share of the way."""
    if len(frames) <= COLUMNS:
        return grid(frames, len(frames), row_labels=[words], column_labels=labels)
    rows = [labels[start : start + COLUMNS] for start in range(0, len(labels), COLUMNS)]
    return grid(frames, COLUMNS, row_labels=[f"{words}  ({row[0]} to {row[-1]})" for row in rows])


def _words(spec: InterpolateSpec) -> str:
    prompts = " → ".join(spec.prompts)
    seeds = f"seed {spec.seed}" if spec.seed_to is None else f"seed {spec.seed} → {spec.seed_to}"
    names = [
        " + ".join(Path(text).name for text in texts) or "base" for texts in (spec.lora_from, spec.lora_to)
    ]
    adapters = f", {names[0]} → {names[1]}" if spec.lora_from or spec.lora_to else ""
    return f"{prompts}  ({seeds}{adapters})"


def notes_on(result: Interpolation, nsfw: Sequence[bool] | None) -> tuple[str, ...]:
    """Sentences on a jump, and on pictures that the base's checker refused.

    Args:
        result: what was measured.
        nsfw: which pictures were refused; ``None`` without a checker.
    """
    notes = []
    if result.jump >= JUMP:
        place = result.steps.index(max(result.steps))
        notes.append(
            f"The way is uneven: between {result.shares[place]:.0%} and {result.shares[place + 1]:.0%} it goes "
            f"{result.jump:g} times the median step. More --frames show whether it jumps there."
        )
    if nsfw is not None and any(nsfw):
        notes.append(f"the base's safety checker refused {sum(nsfw)} of the pictures; they are black.")
    return tuple(notes)
