"""Requests for pictures as clients send them, and as jobs keep them with every setting resolved."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from detour.errors import ConfigError
from detour.files import is_unicode
from detour.generation.png import SteeringUse
from detour.generation.widths import width_for
from detour.serving.engines import ServingEngine
from detour.serving.jobs import JobRequest, rows_of_picture
from detour.serving.refusals import BadRequest
from detour.serving.settings import LimitsSpec
from detour.serving.starts import AskedStart
from detour.specs.generation import PictureSpec


@dataclass(frozen=True, kw_only=True)
class ClientRequest:
    """A client's request for pictures, in the same form for every HTTP interface.

    Attributes:
        prompts: one for each picture.
        negative_prompt: of all of them.
        seed: of the first one, the others follow; ``None``: a random one.
        width_px: ``None``: the base's own, or of the start picture's shape.
        height_px: as ``width_px``.
        steps: denoising steps.
        scheduler: sampler, or ``auto``.
        guidance_scale: ``None``: the base's own.
        adapters: (name, strength).
        references: (content of a picture's file, strength), for an IP-Adapter.
        start: picture to begin with; ``None`` begins with noise.
        deadline_s: seconds from now after which what is not finished is dropped.
        attached: whether the job ends with the connection.
        idempotency: the client's own key for the request.
        body_sha256: of what the client sent under it.
    """

    prompts: tuple[str, ...]
    negative_prompt: str = ""
    seed: int | None = None
    width_px: int | None = None
    height_px: int | None = None
    steps: int = 25
    scheduler: str = "auto"
    guidance_scale: float | None = None
    adapters: tuple[tuple[str, float], ...] = ()
    references: tuple[tuple[bytes, float], ...] = ()
    start: AskedStart | None = None
    deadline_s: float | None = None
    attached: bool = False
    idempotency: str | None = None
    body_sha256: str = ""


def resolved_request(
    asked: ClientRequest,
    *,
    limits: LimitsSpec,
    engine: ServingEngine,
    steering: SteeringUse | None,
    size_px: tuple[int, int] | None = None,
) -> JobRequest:
    """Resolve every open setting of a request within the limits; the width class is that of the job alone.

    Args:
        asked: as a client sent it.
        limits: of one request.
        engine: draws; its base has sizes, samplers and a guidance scale of its own.
        steering: Safe Latent Diffusion that the policy asks for.
        size_px: width and height where the request names none; ``None``: the base's own.

    Raises:
        BadRequest: it asks for what cannot be drawn.
    """
    num = len(asked.prompts)
    _check_limits(asked, limits)
    seed = random.SystemRandom().randrange(2**32) if asked.seed is None else asked.seed
    if not 0 <= seed < 2**63 - num:
        raise BadRequest(f"seed {seed}: choose one from 0 to {2**63 - 1 - num}.", param="seed")
    how = _how_of(asked, engine, size_px)
    width, height = int(how.width_px), int(how.height_px)
    native = engine.base.native_size_px
    most = max(4 * native**2, 512**2) if limits.max_pixels == "auto" else limits.max_pixels
    if width * height > most:
        raise BadRequest(
            f"size {width}x{height}: this server draws {most:,} pixels at most; the base's own size is "
            f"{native}x{native}.",
            param="size",
        )
    assert how.guidance_scale != "auto"
    assert how.scheduler != "auto"
    rows = rows_of_picture(how.guidance_scale, steering) * num
    return JobRequest(
        prompts=asked.prompts,
        seeds=tuple(seed + index for index in range(num)),
        negative_prompt=asked.negative_prompt,
        width_px=width,
        height_px=height,
        steps=asked.steps,
        scheduler=how.scheduler,
        guidance_scale=how.guidance_scale,
        steering=steering,
        width_class=width_for(rows),
    )


def _check_limits(asked: ClientRequest, limits: LimitsSpec) -> None:
    _check_texts(asked, limits.max_prompt_chars)
    num = len(asked.prompts)
    if not 1 <= num <= limits.max_pictures:
        raise BadRequest(f"{num} pictures: ask for 1 to {limits.max_pictures} in one job.", param="n")
    if not 1 <= asked.steps <= limits.max_steps:
        raise BadRequest(f"{asked.steps} steps: choose 1 to {limits.max_steps}.", param="steps")
    if len(asked.adapters) > limits.max_adapters:
        raise BadRequest(
            f"{len(asked.adapters)} adapters: choose {limits.max_adapters} at most.", param="adapters"
        )


def _check_texts(asked: ClientRequest, longest: int) -> None:
    for name, texts in (("prompt", asked.prompts), ("negative_prompt", (asked.negative_prompt,))):
        for text in texts:
            if len(text) > longest:
                raise BadRequest(f"{name}: {len(text):,} characters; the limit is {longest:,}.", param=name)
            if not is_unicode(text):
                raise BadRequest(f"{name}: not Unicode text (a lone surrogate).", param=name)


def _how_of(asked: ClientRequest, engine: ServingEngine, size_px: tuple[int, int] | None) -> PictureSpec:
    values: dict[str, Any] = {"steps": asked.steps, "scheduler": asked.scheduler}
    if asked.guidance_scale is not None:
        values["guidance_scale"] = float(asked.guidance_scale)
    for name, value, own in zip(
        ("width_px", "height_px"), (asked.width_px, asked.height_px), size_px or (None, None), strict=True
    ):
        if value is not None or own is not None:
            values[name] = own if value is None else value
    try:
        return engine.resolved(PictureSpec(**values))
    except ConfigError as error:
        raise BadRequest(str(error), param="size" if "size" in str(error) else "scheduler") from error
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        raise BadRequest(f"{name}: {problem['msg']}.", param=name) from error
