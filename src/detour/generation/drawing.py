"""What is done with one picture: check its request, start it, take it a step further, finish it.

Called by one thread, which owns the models.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from detour.adapters.mixed import RowGroup, plan_rows
from detour.adapters.prepared import PreparedAdapter
from detour.adapters.reference_rows import RowReference, check_blocks
from detour.bases.base import Base
from detour.bases.latents import decode_latents
from detour.bases.safety import SafetyChecker
from detour.bases.text import Conditioning
from detour.diffusion.guidance import ClassifierFree, Guidance, GuidanceScales, guidance_scales
from detour.errors import ConfigError
from detour.generation.adapter_store import AdapterStore
from detour.generation.between import between_texts, spherical
from detour.generation.bounds import KEPT_TEXTS
from detour.generation.deep_features import DeepFeatures
from detour.generation.metering import Meter
from detour.generation.prompts import PromptReader, reads_weights
from detour.generation.references import ReferenceStore
from detour.generation.requests import Moment, Picture, PictureRequest
from detour.generation.runner import AsksNetwork, Runner
from detour.generation.schedulers import check_spacing, pick_eta, pick_sampler, start_sampler
from detour.generation.starts import Kept, encode_start, latent_mask, noised, pasted, skipped_steps
from detour.generation.states import PictureState, check_seed, seeded, start_noise
from detour.generation.strength import check_step_weights, is_guided
from detour.generation.widths import WidthClass, check_width
from detour.specs.generation import PictureSpec
from detour.specs.resolved import ResolvedPicture

PromptStyle = Literal["plain", "written"]
Adapters = tuple[tuple[PreparedAdapter, float], ...]


class TextSource(Protocol):
    """What drawing needs of a text stage; states that were encoded earlier serve as well."""

    def encode(self, prompts: Sequence[str]) -> Conditioning: ...
    def unconditional(self, num: int) -> Conditioning: ...


class Drawing:
    """The parts of a base and what is done with them for one picture."""

    def __init__(
        self,
        base: Base,
        *,
        denoiser: AsksNetwork,
        vae: nn.Module,
        text: Any,
        models: Mapping[str, nn.Module],
        device: str,
        dtype: torch.dtype,
        safety: SafetyChecker | None,
        prompts: PromptStyle,
        adapter_bytes: int,
    ) -> None:
        self.base, self.vae, self.text, self.safety, self.prompts = base, vae, text, safety, prompts
        self.device, self.dtype = device, dtype
        on_cuda = device.startswith("cuda")  # a pass is timed until it is finished, not until it is queued
        wait = {"wait": torch.cuda.synchronize} if on_cuda else {}
        self.meter = Meter(base.native_size_px, **wait)
        network = models[base.family.network_part]
        deep = DeepFeatures(network) if base.family.network_part == "unet" else None
        self.runner = Runner(denoiser, deep, self.meter)
        self.adapters = AdapterStore(base, models, max_bytes=adapter_bytes)
        self.references = ReferenceStore(network, device=device, dtype=dtype)
        self._texts: dict[tuple[object, ...], Conditioning] = {}
        self._samplers: dict[tuple[object, ...], Any] = {}

    def resolved(self, how: PictureSpec) -> ResolvedPicture:
        """The spec with every ``auto`` replaced.

        Raises:
            ConfigError: a size that the base cannot draw.
        """
        native, scale = self.base.native_size_px, how.guidance_scale
        width = native if how.width_px == "auto" else how.width_px
        height = native if how.height_px == "auto" else how.height_px
        factor = self.base.drawing_step_px
        if width % factor or height % factor:
            raise ConfigError(
                f"size {width}x{height}: base '{self.base.name}' draws multiples of {factor} px."
            )
        self.base.refuse_side(max(int(width), int(height)))
        guidance = self.base.recommended_guidance if scale == "auto" else float(scale)
        sampler = pick_sampler(how.scheduler, self.base.scheduler_config())
        check_spacing(how.spacing, sampler, is_flow=self.base.is_flow)
        found = {
            "eta": pick_eta(how.eta, sampler),
            "guidance_scale": guidance,
            "scheduler": sampler,
            "width_px": width,
            "height_px": height,
        }
        return ResolvedPicture.model_validate({**dict(how), **found})

    def scales(self, how: ResolvedPicture) -> GuidanceScales:
        """The two kinds of guidance of a resolved spec."""
        return guidance_scales(how.guidance_scale, how.true_guidance_scale, embeds=self.base.embeds_guidance)

    def measure(self, request: PictureRequest) -> tuple[int, tuple[int, int]]:
        """Rows that the picture takes in each forward pass, and its width and height in pixels.

        Raises:
            ConfigError: the request asks for what cannot be drawn; nothing was loaded or encoded.
        """
        check_seed(request.seed)
        how = self.resolved(request.how)
        if request.step_weights:
            check_step_weights(request.step_weights)
        drawn_steps = how.steps
        if request.start is not None:
            request.start.check(int(how.width_px), int(how.height_px), how.steps, is_flow=self.base.is_flow)
            drawn_steps -= skipped_steps(how.steps, request.start.strength, is_flow=self.base.is_flow)
        if request.trace > drawn_steps:
            raise ConfigError(f"{request.trace} moments of {drawn_steps} steps: ask for as many or fewer.")
        if request.references and not self.base.family.has_unet:
            raise ConfigError(
                f"reference pictures are for UNets, and the network of base '{self.base.name}' is a transformer. Use "
                "a base of Stable Diffusion 1.5 or XL."
            )
        if how.deep_every > 1 and self.base.family.network_part != "unet":
            raise ConfigError(
                f"deep features are reused in UNets, and the network of base '{self.base.name}' is a transformer. "
                "Leave deep_every (--deep-every) out."
            )
        if request.toward is not None and request.start is not None:
            raise ConfigError("a picture begun from another one has one seed: leave the second one out.")
        for used in request.references:
            used.check()
            if used.blocks:
                check_blocks(self.references.network, used.blocks)
        self._check_interval(request, how, drawn_steps)
        num = self._guidance(request, how).num_rows
        if request.width_class is not None:
            check_width(request.width_class, num)
        return num, (how.width_px, how.height_px)

    @staticmethod
    def _check_interval(request: PictureRequest, how: ResolvedPicture, steps: int) -> None:
        begin, end = how.guidance_interval
        if request.guidance is not None and (begin, end) != (0, 1):
            raise ConfigError(
                "guidance in part of the steps: a safety policy steers this picture away from a concept in every step. "
                "Leave the guidance interval out."
            )
        if not any(is_guided((begin, end), index, steps) for index in range(steps)):
            raise ConfigError(
                f"guidance interval {begin:g}-{end:g}: none of {steps} steps begins in it. Widen it."
            )

    def start(self, request: PictureRequest, width: WidthClass) -> PictureState:
        """Prepare its adapters, encode its texts, draw its start noise.

        Args:
            request: that :meth:`measure` has checked.
            width: rows of its forward passes.

        Raises:
            ConfigError, AdapterError: of this picture alone.
            NoRoom: adapters in use take all the memory; try again when one is finished.
        """
        how = self.resolved(request.how)
        held: list[PreparedAdapter] = []
        try:
            before = self.adapters.num_prepared
            with self.meter.phase("adapters"):
                for used in request.adapters:
                    held.append(self.adapters.hold(used))
            self.meter.count("adapters", self.adapters.num_prepared - before)
            adapters = tuple((one, used.weight) for one, used in zip(held, request.adapters, strict=True))
            return self._started(request, how, width, adapters)
        except BaseException:
            for adapter in held:
                self.adapters.release(adapter)
            raise

    def tick(self, states: Sequence[PictureState]) -> dict[PictureState, Exception]:
        """Take each picture one step further, as :meth:`Runner.tick` does."""
        return self.runner.tick(states)

    def finish(self, state: PictureState) -> Picture:
        """Decode a picture and let the base's checker look at it.

        Raises:
            PictureNotFinite: its pixels have NaN or infinite values.
        """
        pixels = self.decode(state.latents)
        if state.request.start is not None:
            pixels = pasted(pixels, state.request.start)
        trace = tuple(
            Moment(step=step, total=state.how.steps, pictures=self.decode(latents)[None])
            for step, latents in state.kept.items()
        )
        nsfw = None
        if self.safety is not None:
            with self.meter.phase("safety"):
                nsfw = self.safety.flag(pixels[None])[0]
        return Picture(
            pixels=np.zeros_like(pixels) if nsfw else pixels,
            width_class=state.width,
            how=state.how,
            trace=trace,
            nsfw=nsfw,
            unchecked=pixels if nsfw else None,
        )

    def preview(self, state: PictureState) -> np.ndarray:
        """uint8 (H, W, 3): an unfinished picture as it stands."""
        return self.decode(state.latents if state.is_finished else state.network_input)

    def decode(self, latents: Tensor) -> np.ndarray:
        """(1, C, h, w) → uint8 (H, W, 3). One picture at a time: the number in a pass is part of the bytes."""
        with self.meter.phase("decode"):
            pixels: np.ndarray = decode_latents(self.vae, latents)[0]
        self.meter.count("decode", self.meter.area(pixels.shape[1], pixels.shape[0]))
        return pixels

    def release(self, state: PictureState) -> None:
        """Let go of what a picture held, finished or not."""
        self.runner.forget(state)
        for adapter, _ in state.adapters:
            self.adapters.release(adapter)

    def rest(self) -> None:
        """Let go of what is kept between pictures: whoever owns the models may change them now."""
        self._texts.clear()
        self._samplers.clear()
        self.runner.forget_all()

    def reader(self, adapters: Adapters = ()) -> TextSource:
        """What turns prompts into states, with the new words of adapters; nothing of it stays in the text stage.

        Raises:
            AdapterError: two of them have the same word.
        """
        stage: Any = self.text
        if any(adapter.words for adapter, _ in adapters):
            for adapter, _ in adapters:
                stage = stage.knowing(adapter.words)
        reads = self.prompts == "written" and reads_weights(self.base)
        return PromptReader(stage) if reads else stage

    def _started(
        self, request: PictureRequest, how: ResolvedPicture, width: WidthClass, adapters: Adapters
    ) -> PictureState:
        guidance = self._guidance(request, how)
        sampler = self._sampler(how)
        factor, sides = self.base.latent_factor, (how.height_px, how.width_px)
        shape = (self.base.latent_channels, *(side // factor for side in sides))
        generator = seeded(request.seed)
        latents, skipped, original = self._start(request, how, sampler, shape, generator)
        return PictureState(
            request=request,
            how=how,
            width=width,
            guidance=guidance,
            conditioning=self._conditioning(request, how, guidance, adapters),
            sizes=torch.tensor([*sides, 0, 0, *sides], device=self.device, dtype=torch.float32),
            sampler=sampler,
            generator=generator,
            latents=latents,
            adapters=adapters,
            references=tuple(
                RowReference(self.references.prepared(used), used.strength, used.blocks)
                for used in request.references
            ),
            skipped=skipped,
            original=original,
        )

    def _start(
        self,
        request: PictureRequest,
        how: ResolvedPicture,
        sampler: Any,
        shape: tuple[int, ...],
        generator: torch.Generator,
    ) -> tuple[Tensor, int, Kept | None]:
        """Latents to begin with, forward passes to leave out, and what a mask keeps.

        Source: diffusers 0.42.1, the picture-to-picture and inpainting pipelines of each family.
        """
        start, scale = request.start, getattr(sampler, "init_noise_sigma", 1.0)
        if start is None:
            noise = start_noise(shape, generator)
            if request.toward is not None and request.toward.seed is not None:
                other = start_noise(shape, seeded(request.toward.seed))
                noise = spherical(noise, other, request.toward.share)
            return noise.to(self.device) * scale, 0, None
        picture = encode_start(start, self.vae, generator, self.device)
        noise = start_noise(shape, generator).to(self.device)
        skipped = skipped_steps(how.steps, start.strength, is_flow=self.base.is_flow)
        if hasattr(sampler, "set_begin_index"):  # those that count their steps
            sampler.set_begin_index(skipped)
        if start.mask is None:
            return noised(sampler, picture, noise, sampler.timesteps[skipped]), skipped, None
        kept = Kept(picture, noise, latent_mask(start.mask, shape[1], shape[2], self.device))
        if not skipped:  # nothing of the picture shows through the noise
            return noise * scale, 0, kept
        return noised(sampler, picture, noise, sampler.timesteps[skipped]), skipped, kept

    def _guidance(self, request: PictureRequest, how: ResolvedPicture) -> Guidance:
        scale = self.scales(how).true
        return ClassifierFree(scale) if request.guidance is None else request.guidance(scale)

    def _sampler(self, how: ResolvedPicture) -> Any:
        """A sampler of the picture's own; making one anew takes ten times as long as copying one."""
        size = {"width_px": how.width_px, "height_px": how.height_px}
        key = (how.scheduler, how.steps, how.spacing, *size.values())
        if key not in self._samplers:
            self._samplers[key] = start_sampler(
                how.scheduler,
                self.base,
                steps=how.steps,
                spacing=how.spacing,
                device=self.device,
                **size,
            )
        return copy.deepcopy(self._samplers[key])

    def _conditioning(
        self, request: PictureRequest, how: ResolvedPicture, guidance: Guidance, adapters: Adapters
    ) -> Conditioning:
        """One row for each prediction: what guidance steers away from, the prompt, further texts."""
        texts: list[str | None] = [request.prompt, *request.further_texts]
        if guidance.num_rows > 1:
            texts.insert(0, request.negative_prompt or how.negative_prompt or None)
        if len(texts) != guidance.num_rows:
            raise ConfigError(
                f"guidance asks for {guidance.num_rows} texts, and the request has {len(texts)}."
            )
        first, *others = (
            self.prompted(request, adapters) if text is request.prompt else self.encoded(text, adapters)
            for text in texts
        )
        for other in others:
            first = first.cat(other)
        scale = self.scales(how).embedded
        return first if scale is None else first.guided_by(scale)

    def prompted(self, request: PictureRequest, adapters: Adapters) -> Conditioning:
        """States of a request's prompt, or on the way to another one's."""
        own, toward = self.encoded(request.prompt, adapters), request.toward
        if toward is None or toward.prompt is None:
            return own
        return between_texts(own, self.encoded(toward.prompt, adapters), toward.share)

    def encoded(self, text: str | None, adapters: Adapters) -> Conditioning:
        """States of one text by itself with the adapters of its picture; ``None`` is the unconditional one."""
        models: Mapping[str, nn.Module] = getattr(self.text, "models", {})
        reads = tuple(
            (adapter, weight)
            for adapter, weight in adapters
            if adapter.words or models.keys() & adapter.changes.keys()
        )
        key = (text, *((adapter.number, weight) for adapter, weight in reads))
        if key not in self._texts:
            reader = self.reader(reads)
            with (
                self.meter.phase("text"),
                torch.no_grad(),
                plan_rows([RowGroup(1, reads)], models).active(),
            ):
                encoded = reader.unconditional(1) if text is None else reader.encode([text])
            self.meter.count("text")
            self._texts[key] = encoded.to(device=self.device, dtype=self.dtype)
            while len(self._texts) > KEPT_TEXTS:
                del self._texts[next(iter(self._texts))]
        return self._texts[key]
