"""What the owner of the jobs has instead of a model: an engine whose pictures replicas draw. Knows nothing of Ray."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np

from detour.bases.base import Base
from detour.errors import ConfigError, DetourError
from detour.generation.drawing import resolved_picture
from detour.generation.metering import Meter
from detour.generation.requests import AdapterFile, Picture, PictureRequest
from detour.generation.scheduling import OnPictureStep, Step
from detour.serving.fleet.messages import Ask, Failed, Finished, Missing, Order, ReplicaLost, StepDone
from detour.specs.generation import PictureSpec
from detour.specs.resolved import ResolvedPicture

MOST_LOSSES = 5
"""Replicas that may die while they draw a picture; it fails then, because it may be the cause."""
PAUSE_S = (0.2, 5.0)
"""Pause before an order is given again, and the longest one: each is twice the one before."""


@dataclass(eq=False)
class RemoteHandle:
    """A picture that a replica draws.

    Attributes:
        future: gets the picture, or the error of this picture alone.
    """

    future: Future[Picture] = field(repr=False)

    def cancel(self) -> None:
        """Drop the picture here and at its replica."""
        self.future.cancel()


class RemoteEngine:
    """Hands pictures to replicas. A picture whose replica dies is given to another one, and comes out the same."""

    unet = None
    """There is no network here; the shapes of its layers come from the base's files."""

    def __init__(self, base: Base, ask: Ask, loop: asyncio.AbstractEventLoop, *, device: str) -> None:
        """Make an engine that draws nothing itself.

        Args:
            base: that every replica has loaded.
            ask: gives an order to a replica.
            loop: runs meanwhile, on another thread than those that submit.
            device: of the replicas.
        """
        self.base, self.device, self.meter = base, device, Meter(base.native_size_px)
        self._ask, self._loop = ask, loop

    def resolved(self, spec: PictureSpec) -> ResolvedPicture:
        """The spec with every ``auto`` replaced by what replicas use.

        Raises:
            ConfigError: a size that the base cannot draw.
        """
        return resolved_picture(self.base, spec)

    def submit(
        self, request: PictureRequest, *, owner: str = "", on_step: OnPictureStep | None = None
    ) -> RemoteHandle:
        """Hand in one request, from any thread but that of the loop.

        Args:
            request: with its adapters.
            owner: requests of different owners are taken in turn.
            on_step: told after each forward pass, on the loop's thread; there are no previews.
        """
        if request.references:
            raise ConfigError("replicas of a fleet take no reference pictures. Ask for the picture without.")
        drawing = self._drawn(Order(request=request, owner=owner), on_step)
        return RemoteHandle(asyncio.run_coroutine_threadsafe(drawing, self._loop))

    async def _drawn(self, order: Order, on_step: OnPictureStep | None) -> Picture:
        losses, steps, pause_s = 0, 0, PAUSE_S[0]
        while True:
            try:
                async with contextlib.aclosing(self._ask(order)) as messages:
                    async for message in messages:
                        match message:
                            case StepDone(done, total) if (
                                done > steps
                            ):  # drawn anew, it has these steps twice
                                steps = done
                                if on_step is not None:
                                    on_step(Step(done, total, _no_preview))
                            case Missing(sha256):
                                files = await asyncio.to_thread(_contents, order, sha256)
                                order = replace(order, files=files)
                                break
                            case Finished(picture):
                                return picture
                            case Failed(error):
                                raise error
                    else:
                        raise ReplicaLost("it ended its answer without a picture")
            except ReplicaLost as error:
                losses += 1
                if losses >= MOST_LOSSES:
                    raise DetourError(
                        f"{losses} replicas died while they drew this picture, the last with: {error}."
                    ) from error
                await asyncio.sleep(pause_s)
                pause_s = min(PAUSE_S[1], 2 * pause_s)


def _contents(order: Order, sha256: tuple[str, ...]) -> dict[str, bytes]:
    """Read adapter files of an order, for a replica that lacks them."""
    return {
        one.sha256: one.adapter.path.read_bytes()
        for one in order.request.adapters
        if one.sha256 in sha256 and isinstance(one.adapter, AdapterFile)
    }


def _no_preview() -> np.ndarray:
    raise DetourError("replicas of a fleet give no previews.")
