"""What the owner of the jobs and a replica tell each other about one picture; all of it can be pickled."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field

from detour.errors import DetourError
from detour.generation.requests import Picture, PictureRequest


@dataclass(frozen=True, kw_only=True)
class Order:
    """A picture that a replica is to draw.

    Attributes:
        request: with its adapters; the path of an adapter file means nothing on the replica's machine.
        owner: id of the key that asked, because the engine takes keys in turn.
        files: SHA-256 → content of the adapter files that a replica said it lacks.
    """

    request: PictureRequest
    owner: str
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def adapter(self) -> str:
        """SHA-256 of the first adapter, by which replicas where it is warm are found; empty without one."""
        return next((one.sha256 for one in self.request.adapters), "")


@dataclass(frozen=True)
class Missing:
    """The replica lacks adapter files, and has not begun.

    Attributes:
        sha256: of each of them.
    """

    sha256: tuple[str, ...]


@dataclass(frozen=True)
class StepDone:
    """The picture has had one more forward pass.

    Attributes:
        done: finished steps.
        total: steps in all.
    """

    done: int
    total: int


@dataclass(frozen=True)
class Finished:
    """The picture is there; nothing follows."""

    picture: Picture


@dataclass(frozen=True)
class Failed:
    """The picture cannot be drawn, by this replica or any other; nothing follows."""

    error: DetourError


Message = Missing | StepDone | Finished | Failed

Ask = Callable[[Order], AsyncGenerator[Message, None]]
"""Gives an order to some replica, and yields what it answers; raises :class:`ReplicaLost` when it dies meanwhile."""


class ReplicaLost(Exception):
    """The replica that had an order is gone, or cannot be reached."""
