"""Draws pictures: text to conditioning, noise to latents, latents to pixels.

The loop is our own over diffusers' schedulers: importing the pipeline classes takes seconds, and per-picture
seeds, tracing and adapters need nothing of them. It draws what ``StableDiffusionPipeline`` draws (a test
compares).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from detour.bases.base import Base
from detour.bases.denoiser import Denoiser, make_denoiser
from detour.bases.hardware import torch_dtype
from detour.bases.latents import decode_latents
from detour.bases.safety import SafetyChecker
from detour.bases.text import Conditioning
from detour.diffusion.guidance import GuidanceScales, guidance_scales, guided
from detour.errors import ConfigError
from detour.generation.prompts import PromptReader, reads_weights
from detour.generation.schedulers import pick_sampler, start_sampler
from detour.specs.generation import PictureSpec

OnStep = Callable[[int, int], None]

BeforeStep = Callable[[int, int], None]
"""Told (finished steps, steps in all) before each step of each batch; may change what is attached."""


class Request(Protocol):
    """What the engine reads of a request."""

    @property
    def prompt(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def negative_prompt(self) -> str: ...


class TextSource(Protocol):
    """What the engine needs of a text stage; states that were encoded earlier serve as well."""

    def encode(self, prompts: Sequence[str]) -> Conditioning: ...
    def unconditional(self, num: int) -> Conditioning: ...


@dataclass(frozen=True, kw_only=True)
class PictureRequest:
    """One picture.

    Attributes:
        prompt: what it shows.
        seed: of its start noise, and of the noise of samplers that add some.
        negative_prompt: what guidance steers away from; empty takes the spec's, then the family's own.
    """

    prompt: str
    seed: int
    negative_prompt: str = ""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The pictures at one moment of denoising.

    Attributes:
        step: finished steps.
        total: steps in all.
        pictures: uint8 (N, H, W, 3), the latents as they are then, decoded.
    """

    step: int
    total: int
    pictures: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Finished pictures.

    Attributes:
        pictures: uint8 (N, H, W, 3); what the base's safety checker refuses is black.
        trace: moments of denoising, the last one before the safety checker has looked.
        nsfw: which pictures were refused; ``None`` without a checker.
        safety: whether the base's own checker looked.
    """

    pictures: np.ndarray
    trace: tuple[Moment, ...] = ()
    nsfw: tuple[bool, ...] | None = None
    safety: Literal["checked", "absent"] = "absent"


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A picture spec with every ``auto`` resolved."""

    width_px: int
    height_px: int
    guidance: GuidanceScales
    moments: tuple[int, ...]

    @property
    def guides(self) -> bool:
        return self.guidance.true > 1


class PictureEngine:
    """A base with its parts loaded, ready to draw; adapters are attached to its modules from outside."""

    def __init__(
        self,
        base: Base,
        *,
        unet: nn.Module,
        vae: nn.Module,
        text: Any,
        device: str = "cpu",
        dtype: str | torch.dtype = "fp32",
        safety: SafetyChecker | None = None,
        prompts: Literal["plain", "written"] = "plain",
    ) -> None:
        """Put loaded parts together.

        Args:
            base: for its schedule, sizes and guidance.
            unet: on ``device``.
            vae: on ``device``.
            text: a ``TextStage``, or anything with its ``encode`` and ``unconditional``.
            device: where the latents live.
            dtype: precision of what the UNet is handed; latents stay in fp32 between steps.
            safety: the base's checker, if it is to look.
            prompts: ``plain`` reads them as training reads captions: brackets are brackets, and 77 tokens are all.
                ``written`` reads weights and any length (``detour.generation.prompts``); it wants a ``TextStage``.
        """
        self.base = base
        self.unet = unet
        self.vae = vae
        self.text = text
        self.device = device
        self.dtype = torch_dtype(dtype) if isinstance(dtype, str) else dtype
        self.safety = safety
        self.prompts = prompts

    @classmethod
    def load(
        cls,
        base: Base,
        *,
        device: str = "cpu",
        dtype: str = "fp32",
        safety: bool = False,
        prompts: Literal["plain", "written"] = "plain",
    ) -> PictureEngine:
        """Load every part of a base.

        Args:
            base: with weights.
            device: cpu, cuda or mps.
            dtype: fp32, bf16 or fp16.
            safety: load the base's own safety checker where it has one.
            prompts: how they are read.

        Raises:
            BaseError: a part cannot be loaded.
        """
        kind = torch_dtype(dtype)
        return cls(
            base,
            unet=base.load_network(kind, device),
            vae=base.load_vae(kind, device),
            text=base.load_text(kind, device),
            device=device,
            dtype=kind,
            safety=base.load_safety_checker(device) if safety else None,
            prompts=prompts,
        )

    @property
    def denoiser(self) -> Denoiser:
        """The network as it stands now, behind the one question that training asks too."""
        return make_denoiser(self.base, self.unet, device=self.device, dtype=self.dtype)

    @property
    def models(self) -> dict[str, nn.Module]:
        """Part → model, for every part of the base that an adapter can sit on."""
        return {self.base.family.network_part: self.unet, **self.text.models}

    @property
    def reader(self) -> TextSource:
        """What turns prompts into states, with the adapters and new words of this moment."""
        reads = self.prompts == "written" and reads_weights(self.base)
        return PromptReader(self.text) if reads else self.text

    def draw(
        self,
        requests: Sequence[Request],
        spec: PictureSpec,
        *,
        batch: int = 4,
        on_step: OnStep | None = None,
        before_step: BeforeStep | None = None,
        trace: int = 0,
    ) -> Drawn:
        """Draw the requests in order.

        A picture depends on its own prompt and seed; its neighbours and the batch size move it by rounding
        alone (one step of 255 in fp32).

        Args:
            requests: at least one.
            spec: how; ``auto`` values are the base's own.
            batch: pictures in one forward pass.
            on_step: told (finished steps, steps in all) over all batches.
            before_step: may set the strength of adapters for the step; the prompt is encoded before the first one.
            trace: keep the pictures at this many moments, evenly spread, the last one at the end.

        Raises:
            ConfigError: no requests, a size or a seed that the base cannot draw.
        """
        if not requests:
            raise ConfigError("no prompts: name at least one picture to draw.")
        plan = self._plan(spec, trace)
        chunks = [requests[start : start + batch] for start in range(0, len(requests), batch)]
        pictures, moments = [], []
        with torch.no_grad(), _evaluating(self.unet):
            for index, chunk in enumerate(chunks):
                counted = _counted(on_step, index, len(chunks))
                latents, kept = self._denoise(chunk, spec, plan, counted, before_step)
                pictures.append(decode_latents(self.vae, latents))
                moments.append({step: decode_latents(self.vae, then) for step, then in kept.items()})
        traced = tuple(
            Moment(step=step, total=spec.steps, pictures=np.concatenate([kept[step] for kept in moments]))
            for step in plan.moments
        )
        return self._checked(np.concatenate(pictures), traced)

    @torch.no_grad()
    def predict(self, latents: Tensor, timestep: float, text: Conditioning) -> Tensor:
        """The UNet's answer to noisy latents as it stands now, without guidance.

        Args:
            latents: (N, C, h, w) on the schedule of training, any device.
            timestep: of all of them, in the units of the base's process.
            text: states of N prompts.

        Returns:
            (N, C, h, w) fp32 on the engine's device: noise, velocity or clean latents, as the base predicts.
        """
        denoiser = self.denoiser
        times = denoiser.process.times([timestep] * len(latents)).to(self.device)
        with _evaluating(self.unet):
            return denoiser.predict(latents.to(self.device), times, text).float()

    def resolved(self, spec: PictureSpec) -> PictureSpec:
        """The spec with every ``auto`` replaced by what :meth:`draw` uses."""
        plan = self._plan(spec, 0)
        told = plan.guidance.embedded
        return spec.model_copy(
            update={
                "guidance_scale": plan.guidance.true if told is None else told,
                "scheduler": pick_sampler(spec.scheduler, self.base.scheduler_config()),
                "width_px": plan.width_px,
                "height_px": plan.height_px,
            }
        )

    def _plan(self, spec: PictureSpec, trace: int) -> _Plan:
        native = self.base.native_size_px
        width = native if spec.width_px == "auto" else spec.width_px
        height = native if spec.height_px == "auto" else spec.height_px
        factor = self.base.drawing_step_px
        if width % factor or height % factor:
            raise ConfigError(
                f"size {width}x{height}: base '{self.base.name}' draws multiples of {factor} px."
            )
        scale = spec.guidance_scale
        guidance = guidance_scales(
            self.base.recommended_guidance if scale == "auto" else float(scale),
            spec.true_guidance_scale,
            embeds=self.base.embeds_guidance,
        )
        moments = {-(-spec.steps * part // trace) for part in range(1, trace + 1)} if trace else set()
        return _Plan(width_px=width, height_px=height, guidance=guidance, moments=tuple(sorted(moments)))

    def _denoise(
        self,
        requests: Sequence[Request],
        spec: PictureSpec,
        plan: _Plan,
        on_step: OnStep | None,
        before_step: BeforeStep | None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Latents (n, C, h, w) fp32 of one batch, and those at the moments that are kept."""
        size = {"width_px": plan.width_px, "height_px": plan.height_px}
        scheduler = start_sampler(spec.scheduler, self.base, steps=spec.steps, device=self.device, **size)
        generators = [_generator(request.seed) for request in requests]
        latents = self._start_noise(generators, plan) * getattr(scheduler, "init_noise_sigma", 1.0)
        conditioning = self._conditioning(requests, spec, plan)
        denoiser = self.denoiser
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        extra = {"generator": generators} if takes_generator else {}
        timesteps = list(scheduler.timesteps)
        # Samplers that warm up (PNDM) take more forward passes than steps; moments are counted in passes.
        kept_at = {-(-step * len(timesteps) // spec.steps): step for step in plan.moments}
        kept: dict[int, Tensor] = {}
        for done, timestep in enumerate(timesteps, start=1):
            if before_step is not None:
                before_step(done - 1, len(timesteps))
            prediction = self._predict(denoiser, scheduler, latents, timestep, conditioning, plan)
            latents = scheduler.step(prediction, timestep, latents, **extra, return_dict=False)[0]
            if done in kept_at:
                last = done == len(timesteps)
                kept[kept_at[done]] = latents if last else _scaled(scheduler, latents, timesteps[done])
            if on_step is not None:
                on_step(done, len(timesteps))
        return latents, kept

    def _predict(
        self,
        denoiser: Denoiser,
        scheduler: Any,
        latents: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        plan: _Plan,
    ) -> Tensor:
        """The guided prediction, fp32; both halves of guidance go through the UNet as one batch."""
        model_input = _scaled(scheduler, torch.cat([latents, latents]) if plan.guides else latents, timestep)
        times = denoiser.process.times_of(timestep.to(self.device).expand(len(model_input)))
        prediction = denoiser.predict(model_input, times, conditioning).float()
        if not plan.guides:
            return prediction
        uncond, text = prediction.chunk(2)
        return guided(text, uncond, plan.guidance.true)

    def _start_noise(self, generators: Sequence[torch.Generator], plan: _Plan) -> Tensor:
        factor = self.base.latent_factor
        shape = (1, self.base.latent_channels, plan.height_px // factor, plan.width_px // factor)
        # Drawn on the CPU in fp32 whatever the device and dtype, so that a seed means the same everywhere.
        return torch.cat([torch.randn(shape, generator=generator) for generator in generators]).to(
            self.device
        )

    def _conditioning(self, requests: Sequence[Request], spec: PictureSpec, plan: _Plan) -> Conditioning:
        """States of the prompts; with guidance, those of what it steers away from come first."""
        reader = self.reader
        prompts = reader.encode([request.prompt for request in requests])
        if plan.guides:
            negatives = [request.negative_prompt or spec.negative_prompt for request in requests]
            away = [reader.encode([text]) if text else reader.unconditional(1) for text in negatives]
            joined = away[0]
            for other in [*away[1:], prompts]:
                joined = joined.cat(other)
            prompts = joined
        if plan.guidance.embedded is not None:
            prompts = prompts.guided_by(plan.guidance.embedded)
        return prompts.to(device=self.device, dtype=self.dtype)

    def _checked(self, pictures: np.ndarray, trace: tuple[Moment, ...]) -> Drawn:
        if self.safety is None:
            return Drawn(pictures=pictures, trace=trace)
        flags = self.safety.flag(pictures)
        pictures[np.asarray(flags, dtype=bool)] = 0
        return Drawn(pictures=pictures, trace=trace, nsfw=tuple(flags), safety="checked")


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the block: a model in training would drop adapter inputs while it draws."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _scaled(scheduler: Any, latents: Tensor, timestep: Tensor) -> Tensor:
    """Latents as the network is handed them; samplers of a rectified flow hand them on as they are."""
    scale = getattr(scheduler, "scale_model_input", None)
    scaled: Tensor = latents if scale is None else scale(latents, timestep)
    return scaled


def _generator(seed: int) -> torch.Generator:
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed {seed}: choose one from 0 to {2**63 - 1}.")
    return torch.Generator("cpu").manual_seed(seed)


def _counted(on_step: OnStep | None, index: int, num: int) -> OnStep | None:
    """The steps of one batch as part of those of all batches."""
    if on_step is None:
        return None
    report = on_step
    return lambda done, total: report(index * total + done, num * total)
