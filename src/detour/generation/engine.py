"""The drawing engine: requests with their own adapters in, pictures out, from any thread.

The loop is our own over diffusers' schedulers: importing the pipeline classes takes seconds, and pictures with
seeds, steps and adapters of their own in one batch need nothing of them. It draws what ``StableDiffusionPipeline``
draws (a test compares).
"""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detour.adapters.mixed import RowGroup, plan_rows
from detour.bases.base import Base, open_base
from detour.bases.denoiser import make_denoiser
from detour.bases.hardware import drawing_dtype, pick_device, torch_dtype
from detour.bases.safety import SafetyChecker
from detour.bases.text import Conditioning
from detour.errors import ConfigError, PictureNotFinite
from detour.generation.adapter_store import MAX_BYTES
from detour.generation.drawing import Drawing, PromptStyle
from detour.generation.metering import Meter
from detour.generation.network_input import NetworkInput
from detour.generation.requests import (
    AdapterFile,
    AdapterInUse,
    Drawn,
    Moment,
    Picture,
    PictureRequest,
    Request,
    completed,
    joined,
)
from detour.generation.scheduling import MAX_WAITING, OnPictureStep, PictureHandle, Scheduler, Step
from detour.generation.widths import WIDTH_CLASSES, width_for, widths_of_chunks
from detour.specs.generation import PictureSpec
from detour.specs.resolved import ResolvedPicture

__all__ = [
    "AdapterFile",
    "AdapterInUse",
    "Drawn",
    "Moment",
    "NetworkInput",
    "OnStep",
    "Picture",
    "PictureEngine",
    "PictureHandle",
    "PictureRequest",
    "Request",
    "Step",
]

OnStep = Callable[[int, int], None]
"""Called with (finished steps, steps in all) over all pictures of a call."""

AHEAD = 64
"""Requests of one call that wait at once; the others are handed in as pictures are finished."""

_OWNERS = itertools.count()


def open_engine(
    base: Base | str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    safety: bool = False,
    prompts: PromptStyle = "written",
) -> PictureEngine:
    """Open a base with all its parts, ready to draw requests from any thread.

    Args:
        base: an opened one, or what ``detour.open_base`` takes (a known name, a folder, a checkpoint, a hub id).
        device: ``auto``, cpu, cuda or mps.
        dtype: ``auto`` (what the device draws well in), fp32, bf16 or fp16.
        safety: load the base's own safety checker where it has one.
        prompts: ``written`` reads weights such as ``(red:1.3)`` and any length; ``plain`` reads 77 tokens as they are.

    Raises:
        BaseError: no such base, or a part cannot be loaded.
    """
    opened = open_base(base) if isinstance(base, str) else base
    chosen = pick_device(device)
    return PictureEngine.load(
        opened, device=chosen, dtype=drawing_dtype(dtype, chosen), safety=safety, prompts=prompts
    )


class PictureEngine:
    """A base with its parts loaded, ready to draw.

    Adapters come with the requests and leave nothing on the models. What is attached to the models from outside (an
    adapter in training) is drawn with too.
    """

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
        prompts: PromptStyle = "plain",
        max_waiting: int = MAX_WAITING,
        adapter_bytes: int = MAX_BYTES,
    ) -> None:
        """Put loaded parts together.

        Args:
            base: for its schedule, sizes and guidance.
            unet: on ``device``, in evaluation mode.
            vae: on ``device``.
            text: a ``TextStage``, or anything with its ``encode`` and ``unconditional``.
            device: where the latents live.
            dtype: precision of what the UNet is handed; latents stay in fp32 between steps.
            safety: the base's checker, if it is to look.
            prompts: ``plain`` reads them as training reads captions: brackets are brackets, and 77 tokens are all.
                ``written`` reads weights and any length (``detour.generation.prompts``); it wants a ``TextStage``.
            max_waiting: requests that may wait; more are refused.
            adapter_bytes: memory of all prepared adapters together.
        """
        self.base = base
        self._unet = unet
        self.vae = vae
        self.text = text
        self.device = device
        self.dtype = torch_dtype(dtype) if isinstance(dtype, str) else dtype
        self._drawing = Drawing(
            base,
            denoiser=make_denoiser(base, unet, device=device, dtype=self.dtype),
            vae=vae,
            text=text,
            models=self.models,
            device=device,
            dtype=self.dtype,
            safety=safety,
            prompts=prompts,
            adapter_bytes=adapter_bytes,
        )
        self._scheduler = Scheduler(self._drawing, max_waiting=max_waiting, meter=self.meter)

    @classmethod
    def load(
        cls,
        base: Base,
        *,
        device: str = "cpu",
        dtype: str = "fp32",
        safety: bool = False,
        prompts: PromptStyle = "plain",
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
    def unet(self) -> nn.Module:
        """The UNet; another one takes another engine (:meth:`with_unet`)."""
        return self._unet

    @property
    def models(self) -> dict[str, nn.Module]:
        """Part → model, for every part of the base that an adapter can sit on."""
        return {self.base.family.network_part: self.unet, **getattr(self.text, "models", {})}

    @property
    def meter(self) -> Meter:
        """Seconds and units of everything that this engine has drawn, by phase."""
        return self._drawing.meter

    def with_unet(self, unet: nn.Module) -> PictureEngine:
        """An engine that draws with another UNet and this one's other parts; one of them at a time may draw.

        Args:
            unet: on the same device, in evaluation mode.
        """
        return PictureEngine(
            self.base,
            unet=unet,
            vae=self.vae,
            text=self.text,
            device=self.device,
            dtype=self.dtype,
            safety=self._drawing.safety,
            prompts=self._drawing.prompts,
        )

    def submit(
        self, request: PictureRequest, *, owner: str = "", on_step: OnPictureStep | None = None
    ) -> PictureHandle:
        """Hand in one request, from any thread; it is drawn together with those of others.

        Args:
            request: with its adapters.
            owner: requests of different owners are taken in turn.
            on_step: told after each of its forward passes, on the worker's thread.

        Raises:
            ConfigError: the request asks for what cannot be drawn.
            QueueFull: too many are waiting.
        """
        return self._scheduler.submit(request, owner=owner, on_step=on_step)

    def draw(
        self,
        requests: Sequence[Request],
        spec: PictureSpec | None = None,
        *,
        adapters: Sequence[AdapterInUse] | None = None,
        batch: int = 4,
        on_step: OnStep | None = None,
        trace: int = 0,
        blacken: bool = False,
    ) -> Drawn:
        """Draw the requests and wait for them.

        A picture depends on its request and its width class alone. The classes of the pictures are a function of the
        requests and ``batch`` (``widths_of_chunks``), so the same call gives the same bytes whatever else is drawn.

        Args:
            requests: at least one; all of one size.
            spec: how, for all of them; ``None``: as each request says.
            adapters: of all of them; ``None``: as each request says.
            batch: pictures that share a forward pass, at most.
            on_step: told on the caller's thread.
            trace: keep the pictures at this many moments, evenly spread, the last one at the end.
            blacken: give a black picture in place of one with NaN or infinite values, as other tools show it; for
                proofs, which judge what came out. Not together with ``trace``.

        Raises:
            ConfigError: no requests, a size or a seed that the base cannot draw.
            AdapterError: an adapter cannot be read or does not fit.
            PictureNotFinite: a picture has NaN or infinite values, and ``blacken`` is off.
        """
        if not requests:
            raise ConfigError("no prompts: name at least one picture to draw.")
        asked = [completed(request, spec, adapters, trace) for request in requests]
        widths = widths_of_chunks([self._drawing.measure(one)[0] for one in asked], batch)
        pinned = [
            one if one.width_class is not None else replace(one, width_class=width)
            for one, width in zip(asked, widths, strict=True)
        ]
        return joined(list(self._all_of(pinned, on_step, blacken=blacken)))

    def _all_of(
        self, requests: Sequence[PictureRequest], on_step: OnStep | None, *, blacken: bool
    ) -> Iterator[Picture]:
        """The pictures in order; where one fails, the others are dropped before the error goes on."""
        owner = f"draw-{next(_OWNERS)}"
        steps: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        handles: list[PictureHandle] = []
        done = [0] * len(requests)
        total = sum(request.how.steps for request in requests)

        def counting(index: int) -> OnPictureStep:
            return lambda step: steps.put((index, step.done))

        try:
            for index in range(len(requests)):
                for ahead in range(len(handles), min(len(requests), index + AHEAD)):
                    handle = self.submit(requests[ahead], owner=owner, on_step=counting(ahead))
                    handle.future.add_done_callback(lambda _: steps.put((-1, 0)))
                    handles.append(handle)
                while not handles[index].done or not steps.empty():
                    which, at = steps.get()
                    failed = next((one for one in handles if _has_failed(one, blacken=blacken)), None)
                    if failed is not None:
                        failed.result()
                    if which >= 0 and at > done[which]:
                        done[which] = at
                        if on_step is not None:
                            on_step(sum(done), total)
                if blacken and isinstance(handles[index].future.exception(), PictureNotFinite):
                    yield self._black(requests[index])
                else:
                    yield handles[index].result()
        finally:
            self._drop(handles)
            with self.paused():  # when this call is over, its caller may change the models
                pass

    def _black(self, request: PictureRequest) -> Picture:
        """A black picture in place of one that is not finite; its width class was pinned by :meth:`draw`."""
        how = self.resolved(request.how)
        assert request.width_class is not None, "drawn pictures have a width class"
        pixels = np.zeros((how.height_px, how.width_px, 3), np.uint8)
        return Picture(
            pixels=pixels,
            width_class=request.width_class,
            how=how,
            nsfw=None if self._drawing.safety is None else False,
        )

    def _drop(self, handles: Sequence[PictureHandle]) -> None:
        """Cancel what is not finished, and wait until the worker has let go of it."""
        for handle in handles:
            if not handle.done:
                handle.cancel()
        for handle in handles:
            if not handle.done:
                try:
                    handle.future.exception()
                except CancelledError:
                    continue

    def paused(self) -> AbstractContextManager[None]:
        """Stop drawing inside the block, so that the caller may change the models. Not for hooks."""
        return self._scheduler.borrow()

    @torch.no_grad()
    def predict(
        self, latents: Tensor, timestep: float, text: Conditioning, *, adapters: Sequence[AdapterInUse] = ()
    ) -> Tensor:
        """The network's answer to noisy latents, without guidance.

        Args:
            latents: (N, C, h, w) on the schedule of training, any device.
            timestep: of all of them, in the units of the base's process.
            text: states of N prompts.
            adapters: of all rows.

        Returns:
            (N, C, h, w) fp32 on the engine's device: noise, velocity or clean latents, as the base predicts.
        """
        factor, num = self.base.latent_factor, len(latents)
        size = [float(side * factor) for side in latents.shape[-2:]]
        sizes = torch.tensor([[*size, 0, 0, *size]], device=self.device).expand(num, -1)
        rows = NetworkInput(
            latents.to(self.device, torch.float32),
            self._drawing.runner.denoiser.process.times([timestep] * num).to(self.device),
            text.to(device=self.device, dtype=self.dtype),
            sizes,
        )
        return self.ask(rows, adapters=adapters)

    @torch.no_grad()
    def ask(self, rows: NetworkInput, *, adapters: Sequence[AdapterInUse] = ()) -> Tensor:
        """The network's answer, (N, C, h, w) fp32, to rows that all have the same adapters."""
        store, denoiser = self._drawing.adapters, self._drawing.runner.denoiser
        with self.paused():
            held = [(store.hold(one), one.weight) for one in adapters]
            try:
                group = RowGroup(len(rows.noisy), tuple(pair for pair in held if pair[1] != 0))
                with plan_rows([group], [denoiser.part]).active():
                    return denoiser.predict(rows.noisy, rows.times, rows.text, rows.sizes).float()
            finally:
                for adapter, _ in held:
                    store.release(adapter)

    def network_inputs(self, requests: Sequence[PictureRequest], passes: Sequence[int]) -> list[NetworkInput]:
        """What the network is handed at some forward passes while the requests are drawn as one batch.

        Args:
            requests: of one size and one guidance scale.
            passes: ascending; the first pass is 0.
        """
        drawing, found = self._drawing, []
        num_rows = drawing.measure(requests[0])[0]
        together = WIDTH_CLASSES[-1] // num_rows
        with self.paused(), torch.no_grad():
            for start in range(0, len(requests), together):
                few = requests[start : start + together]
                states = [drawing.start(one, width_for(num_rows * len(few))) for one in few]
                try:
                    for number in range(passes[-1] + 1):
                        if number in passes:
                            rows = sum(state.num_rows for state in states)
                            found.append(NetworkInput(*drawing.runner.inputs(states)).first(rows))
                        for error in drawing.tick(states).values():
                            raise error
                finally:
                    for state in states:
                        drawing.release(state)
        return found

    def encode(self, texts: Sequence[str], *, adapters: Sequence[AdapterInUse] = ()) -> Conditioning:
        """States of texts, each read by itself with the adapters and their new words.

        Args:
            texts: one or more.
            adapters: of all of them.
        """
        with self.paused():
            held = [(self._drawing.adapters.hold(one), one.weight) for one in adapters]
            try:
                first, *others = (self._drawing.encoded(text, tuple(held)) for text in texts)
            finally:
                for adapter, _ in held:
                    self._drawing.adapters.release(adapter)
        for other in others:
            first = first.cat(other)
        return first

    def resolved(self, spec: PictureSpec) -> ResolvedPicture:
        """The spec with every ``auto`` replaced by what :meth:`draw` uses."""
        return self._drawing.resolved(spec)


def _has_failed(handle: PictureHandle, *, blacken: bool) -> bool:
    """Whether a picture failed for a cause that ends the whole call."""
    error = handle.future.exception() if handle.done else None
    return error is not None and not (blacken and isinstance(error, PictureNotFinite))
