"""Interface between the server and a safety policy, which decides on requests and on finished pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from detour.generation.png import SteeringUse
from detour.serving.jobs import JobRequest


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """Decision to draw or show a picture as asked."""


@dataclass(frozen=True, kw_only=True)
class Changed:
    """Decision to draw another prompt, which the answer shows to the client.

    Attributes:
        prompt: to draw instead.
        cause: one sentence for the client.
        hold: why a person must look at the picture too; ``None``: nobody must.
    """

    prompt: str
    cause: str
    hold: str | None = None


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Decision not to draw or not to show a picture.

    Attributes:
        code: short, stable and for programs, e.g. ``terms``.
        cause: one sentence for the client.
        detail: for the operator's log: layers, scores and what was found.
    """

    code: str
    cause: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Held:
    """Decision to draw a picture and to show it only after a person has released it.

    Attributes:
        cause: one sentence for the reviewer; the client hears only that its picture waits.
        code: of the layer that asks for a person.
    """

    cause: str
    code: str = "held"


RequestDecision = Allowed | Changed | Refused | Held
PictureDecision = Allowed | Refused | Held


@dataclass(frozen=True, kw_only=True)
class ReviewRules:
    """Rules for decisions on held pictures and for the log of decisions.

    Attributes:
        two_persons: two different keys must release a picture; one is enough to refuse it.
        held_s: seconds after which a picture that nobody decided on is refused; ``None``: as long as finished ones.
        decisions_s: seconds for which entries of the log are kept; ``None``: for good.
        prompts: whether entries of the log hold the prompt or its SHA-256.
    """

    two_persons: bool = False
    held_s: float | None = None
    decisions_s: float | None = None
    prompts: Literal["full", "hash"] = "full"

    def prompt_kept(self, prompt: str) -> str:
        """Form in which an entry of the log keeps a prompt: its text or its SHA-256."""
        return prompt if self.prompts == "full" else hashlib.sha256(prompt.encode()).hexdigest()


class Policy(Protocol):
    """Decides on requests and pictures; called from threads that neither draw nor serve HTTP."""

    @property
    def rules(self) -> ReviewRules:
        """Rules for decisions on held pictures and for the log."""

    @property
    def version(self) -> str:
        """Name of the policy's version, recorded with every job and picture."""

    @property
    def checks_pictures(self) -> bool:
        """Whether :meth:`check_picture` may refuse or hold: then no preview is ever shown, which would pass it by."""

    @property
    def steering(self) -> SteeringUse | None:
        """Safe Latent Diffusion that every picture is drawn with; part of its job, as it decides the pixels."""

    def check_request(
        self, request: JobRequest, *, triggers: Sequence[str] = (), references: Sequence[np.ndarray] = ()
    ) -> tuple[RequestDecision, ...]:
        """Decide on each picture of a request before it is accepted.

        Args:
            request: prompts, negative prompt and adapters.
            triggers: words that switch its adapters on, and their titles.
            references: uint8 (H, W, 3), pictures that the request is to follow.
        """

    def check_picture(
        self, picture: np.ndarray, request: JobRequest, *, flagged: bool | None = None
    ) -> PictureDecision:
        """Decide on one finished picture before it is visible to anybody.

        Args:
            picture: uint8 (H, W, 3).
            request: that it was drawn for.
            flagged: whether the base's own checker refuses it; ``None``: it has none.
        """


class NoPolicy:
    """A policy that allows everything."""

    version = "none"
    checks_pictures = False
    rules = ReviewRules()
    steering: SteeringUse | None = None

    def check_request(
        self,
        request: JobRequest,
        *,
        triggers: Sequence[str] = (),  # noqa: ARG002
        references: Sequence[np.ndarray] = (),  # noqa: ARG002
    ) -> tuple[RequestDecision, ...]:
        """Allow every picture of a request to be drawn."""
        return tuple(Allowed() for _ in request.prompts)

    def check_picture(
        self,
        picture: np.ndarray,  # noqa: ARG002
        request: JobRequest,  # noqa: ARG002
        *,
        flagged: bool | None = None,  # noqa: ARG002
    ) -> PictureDecision:
        """Allow a finished picture to be shown."""
        return Allowed()
