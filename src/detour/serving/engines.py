"""The part of a drawing engine that the server calls, so that replicas elsewhere can stand in for one."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from torch import nn

from detour.bases.base import Base
from detour.generation.metering import Meter
from detour.generation.requests import Picture, PictureRequest
from detour.generation.scheduling import OnPictureStep
from detour.specs.generation import PictureSpec
from detour.specs.resolved import ResolvedPicture


class Handle(Protocol):
    """A picture that was handed in."""

    @property
    def future(self) -> Future[Picture]:
        """Future that gets the picture, or the error of this picture alone."""

    def cancel(self) -> None:
        """Give up the picture, whether it is waiting or being drawn."""


class Draws(Protocol):
    """An object that takes requests for pictures and gives a handle of each."""

    def submit(
        self, request: PictureRequest, *, owner: str = "", on_step: OnPictureStep | None = None
    ) -> Handle:
        """Hand in one request, from any thread."""


class ServingEngine(Draws, Protocol):
    """An engine with all that a server asks of it; ``PictureEngine`` is one."""

    @property
    def base(self) -> Base:
        """Base that it draws with."""

    @property
    def unet(self) -> nn.Module | None:
        """Network with its weights; ``None`` where it is elsewhere."""

    @property
    def device(self) -> str:
        """Device that it draws on."""

    @property
    def meter(self) -> Meter:
        """Counter of what drawing costs."""

    def resolved(self, spec: PictureSpec) -> ResolvedPicture:
        """Replace every ``auto`` of a spec by what it draws with."""
