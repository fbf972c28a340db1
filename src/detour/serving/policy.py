"""The seam for safety: what a policy is asked before a job is accepted and before a picture is shown."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from detour.serving.jobs import JobRequest


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """Go on as asked."""


@dataclass(frozen=True, kw_only=True)
class Changed:
    """Go on with another request, which the answer shows to the client.

    Attributes:
        request: to draw instead; its prompts are reported as revised prompts.
        cause: one sentence for the client.
    """

    request: JobRequest
    cause: str


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Do not draw, or do not show.

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
    """Draw, but show nothing until a person has decided.

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
    """How held pictures are decided on, and what is kept of decisions.

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
        """The prompt as an entry of the log keeps it."""
        return prompt if self.prompts == "full" else hashlib.sha256(prompt.encode()).hexdigest()


class Policy(Protocol):
    """What decides on requests and pictures; called from threads that neither draw nor serve HTTP."""

    @property
    def rules(self) -> ReviewRules:
        """How held pictures are decided on."""

    @property
    def version(self) -> str:
        """Recorded with every job and picture."""

    @property
    def checks_pictures(self) -> bool:
        """Whether :meth:`check_picture` may refuse or hold: then no preview is ever shown, which would pass it by."""

    def check_request(self, request: JobRequest) -> RequestDecision:
        """Decide on a request before it is accepted: prompts, negative prompt and adapters."""

    def check_picture(self, picture: np.ndarray, request: JobRequest) -> PictureDecision:
        """Decide on one finished picture, uint8 (H, W, 3), before it is visible to anybody."""


class NoPolicy:
    """Allows everything."""

    version = "none"
    checks_pictures = False
    rules = ReviewRules()

    def check_request(self, request: JobRequest) -> RequestDecision:  # noqa: ARG002
        """Allow it."""
        return Allowed()

    def check_picture(self, picture: np.ndarray, request: JobRequest) -> PictureDecision:  # noqa: ARG002
        """Allow it."""
        return Allowed()
