"""A policy file in layers (``detour.safety``) as what the server asks about requests and pictures."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from detour.bases.base import Base
from detour.errors import ConfigError
from detour.generation.requests import PictureRequest
from detour.safety.decision import SEVERITY, Decision
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

NOT_SERVED = ("latent", "checker")
"""Layers that act inside the drawing of a picture, which jobs of the server do not record."""


class LayeredPolicy:
    """The layers of a policy file, asked from any thread, one at a time."""

    def __init__(self, layers: Layers) -> None:
        """Take a policy whose layers are loaded.

        Raises:
            ConfigError: it has a layer that the server cannot ask.
        """
        unserved = [name for name in NOT_SERVED if getattr(layers.spec, name) is not None]
        if unserved:
            raise ConfigError(
                f"policy '{layers.version}': the server cannot ask its layer {' and '.join(unserved)}. Delete "
                f"{', '.join(f'[{name}]' for name in unserved)}, or draw with 'detour generate --policy'."
            )
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
        """Whether a layer looks at pictures."""
        return bool(self._layers.spec.layers(PICTURE_LAYERS))

    def check_request(self, request: JobRequest) -> RequestDecision:
        """Look at each prompt of a job, its negative prompt and the names of its adapters; the hardest answer counts.

        Args:
            request: as the client asked.
        """
        names = [adapter.name for adapter in request.adapters]
        with self._lock:
            decisions = {
                prompt: self._layers.check_request(
                    PictureRequest(prompt=prompt, seed=0, negative_prompt=request.negative_prompt),
                    triggers=names,
                )
                for prompt in dict.fromkeys(request.prompts)
            }
        hardest = max(decisions.values(), key=lambda one: SEVERITY.index(one.action))
        if hardest.action == "refuse":
            return Refused(code=hardest.code, cause=hardest.message, detail=_for_the_reviewer(hardest))
        if hardest.action == "hold":
            return Held(cause=_for_the_reviewer(hardest), code=hardest.code)
        if hardest.action == "change":
            revised = {prompt: one.revised_prompt or prompt for prompt, one in decisions.items()}
            prompts = tuple(revised[prompt] for prompt in request.prompts)
            return Changed(request=request.model_copy(update={"prompts": prompts}), cause=hardest.message)
        return Allowed()

    def check_picture(self, picture: np.ndarray, request: JobRequest) -> PictureDecision:  # noqa: ARG002
        """Look at one finished picture.

        Args:
            picture: uint8 (H, W, 3).
            request: that it was drawn for.
        """
        if not self.checks_pictures:
            return Allowed()
        with self._lock:
            decision = self._layers.decide_on_pixels(picture)
        if decision.action == "refuse":
            return Refused(code=decision.code, cause=decision.message, detail=_for_the_reviewer(decision))
        if decision.action == "hold":
            return Held(cause=_for_the_reviewer(decision), code=decision.code)
        return Allowed()


def _for_the_reviewer(decision: Decision) -> str:
    found = [one for one in decision.findings if one.action == decision.action]
    return "; ".join(
        f"{one.code} in the {one.place}, score {one.score:.3g}" + (f": {one.detail}" if one.detail else "")
        for one in found
    )
