"""Uses a policy file in layers (``detour.safety``) as the policy of the server."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detour.bases.base import Base
from detour.generation.png import SteeringUse
from detour.generation.requests import PictureRequest
from detour.safety.decision import Decision
from detour.safety.policy import Policy as Layers
from detour.safety.policy_file import PICTURE_LAYERS
from detour.serving.jobs import JobRequest
from detour.serving.policy import (
    Allowed,
    Changed,
    Held,
    PictureDecision,
    Refused,
    RequestDecision,
    ReviewRules,
)

DAY_S = 86_400.0


class LayeredPolicy:
    """Layers of a policy file, called from any thread, one call at a time."""

    def __init__(self, layers: Layers) -> None:
        """Take a policy whose layers are loaded."""
        self._layers, self._lock = layers, threading.Lock()

    @classmethod
    def open(cls, path: Path, base: Base, *, device: str = "cpu") -> LayeredPolicy:
        """Read a policy file and load its layers for a base.

        Args:
            path: of the TOML file.
            base: whose pictures are looked at.
            device: of the judge.

        Raises:
            ConfigError: the policy cannot be read, or names what is not there or cannot be asked here.
            BaseError: the judge cannot be opened.
        """
        return cls(Layers.open(path, base, device=device))

    @property
    def version(self) -> str:
        """Name, revision and hash of the policy."""
        return self._layers.version

    @property
    def rules(self) -> ReviewRules:
        """How held pictures are decided on, as the tables ``review`` and ``retention`` say."""
        spec = self._layers.spec
        return ReviewRules(
            two_persons=spec.review.two_persons,
            held_s=spec.retention.held_pictures_days * DAY_S,
            decisions_s=spec.retention.decisions_days * DAY_S,
            prompts=spec.retention.prompts,
        )

    @property
    def checks_pictures(self) -> bool:
        """Whether any layer checks pictures."""
        return bool(self._layers.spec.layers(PICTURE_LAYERS))

    @property
    def steering(self) -> SteeringUse | None:
        """Safe Latent Diffusion, as the table ``latent`` says."""
        latent = self._layers.spec.latent
        return None if latent is None else SteeringUse(concept=latent.concept, strength=latent.strength)

    def check_request(
        self, request: JobRequest, *, triggers: Sequence[str] = (), references: Sequence[np.ndarray] = ()
    ) -> tuple[RequestDecision, ...]:
        """Check prompts, negative prompt, adapter names and references of a job; the strictest result counts.

        Args:
            request: as the client asked.
            triggers: words that switch its adapters on, and their titles.
            references: uint8 (H, W, 3), pictures that the request is to follow; looked at once for all prompts.
        """
        names = [*(adapter.name for adapter in request.adapters), *triggers]
        with self._lock:
            shown = self._layers.look_at_references(references)
            decisions = {
                prompt: _request_decision(
                    self._layers.check_request(
                        PictureRequest(prompt=prompt, seed=0, negative_prompt=request.negative_prompt),
                        triggers=list(dict.fromkeys(names)),
                        findings=shown,
                    )
                )
                for prompt in dict.fromkeys(request.prompts)
            }
        return tuple(decisions[prompt] for prompt in request.prompts)

    def check_picture(
        self,
        picture: np.ndarray,
        request: JobRequest,  # noqa: ARG002
        *,
        flagged: bool | None = None,
    ) -> PictureDecision:
        """Check one finished picture.

        Args:
            picture: uint8 (H, W, 3).
            request: that it was drawn for.
            flagged: whether the base's own checker refuses it; ``None``: it has none.

        Raises:
            ConfigError: the policy asks for the base's checker, and it did not look.
        """
        if not self.checks_pictures:
            return Allowed()
        with self._lock:
            decision = self._layers.decide_on_pixels(picture, nsfw=flagged)
        if decision.action == "refuse":
            return Refused(code=decision.code, cause=decision.message, detail=_cause_for_reviewer(decision))
        if decision.action == "hold":
            return Held(cause=_cause_for_reviewer(decision), code=decision.code)
        return Allowed()


def _request_decision(decision: Decision) -> RequestDecision:
    if decision.action == "refuse":
        return Refused(code=decision.code, cause=decision.message, detail=_cause_for_reviewer(decision))
    hold = _cause_for_reviewer(decision) if decision.action == "hold" else None
    if decision.revised_prompt is not None:
        return Changed(prompt=decision.revised_prompt, cause="changed by the safety policy.", hold=hold)
    return Allowed() if hold is None else Held(cause=hold, code=decision.code)


def _cause_for_reviewer(decision: Decision) -> str:
    found = [one for one in decision.findings if one.action == decision.action]
    return "; ".join(
        f"{one.code} in the {one.place}, score {one.score:.3g}" + (f": {one.detail}" if one.detail else "")
        for one in found
    )
