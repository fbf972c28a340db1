"""What a safety policy lets through of one call: its requests before they are drawn, its pictures afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from detour.bases.base import Base
from detour.errors import ConfigError, Withheld
from detour.evaluation.pixels import Pictures
from detour.generation.engine import AdapterInUse, PictureEngine
from detour.generation.png import SteeringUse
from detour.generation.requests import Drawn, Picture, PictureRequest
from detour.safety.decision import Decision
from detour.safety.policy import Policy
from detour.safety.policy_file import PICTURE_LAYERS
from detour.specs.generation import PictureSpec
from detour.specs.resolved import ResolvedPicture

GREY = 128
"""Brightness of the field that stands in a sheet where a picture was withheld."""


class WithheldPicture(BaseModel):
    """A picture that was asked for and not handed out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    """Number of the picture within the call, from 0."""
    prompt: str
    seed: int
    stage: Literal["request", "picture"]
    """Whether it was stopped before it was drawn or afterwards."""
    action: Literal["refuse", "hold"]
    layer: str
    code: str
    score: float
    message: str


class Screening:
    """The requests of one call that may be drawn, and what was withheld so far.

    Attributes:
        policy: ``None`` lets everything through.
        open: (number, request to be drawn) in order.
        withheld: in the order in which they were stopped.
    """

    def __init__(self, policy: Policy | None, requests: Sequence[PictureRequest]) -> None:
        self.policy = policy
        self.withheld: list[WithheldPicture] = []
        self.revised: dict[int, str] = {}
        self.open: list[tuple[int, PictureRequest]] = []
        self._asked = requests
        self._decisions: dict[int, Decision] = {}
        for number, request in enumerate(requests):
            if policy is None:
                self.open.append((number, request))
                continue
            decision = self._decisions[number] = policy.check_request(request)
            if decision.request is None:
                self._withhold(number, decision, "request")
                continue
            if decision.revised_prompt is not None:
                self.revised[number] = decision.revised_prompt
            self.open.append((number, decision.request))

    @property
    def version(self) -> str:
        """Version of the policy; empty without one."""
        return "" if self.policy is None else self.policy.version

    @property
    def steering(self) -> SteeringUse | None:
        """Safe Latent Diffusion that the policy asks for."""
        latent = None if self.policy is None else self.policy.spec.latent
        return None if latent is None else SteeringUse(concept=latent.concept, strength=latent.strength)

    def passed(self, numbers: Sequence[int], *sides: Drawn | None, how: ResolvedPicture) -> list[bool]:
        """Which pictures may be handed out; a picture goes with the one of the other side.

        Args:
            numbers: of the pictures, in the order of each side.
            sides: with the adapters, and without them where both are handed out.
            how: they were drawn.
        """
        return [
            all(self._passes(number, index, side, how) for side in sides if side is not None)
            for index, number in enumerate(numbers)
        ]

    def _passes(self, number: int, index: int, drawn: Drawn, how: ResolvedPicture) -> bool:
        if self.policy is None:
            return True
        picture = Picture(
            pixels=drawn.pictures[index],
            width_class=drawn.width_classes[index],
            how=how,
            nsfw=None if drawn.nsfw is None else drawn.nsfw[index],
        )
        return self._is_passed(
            number,
            self.policy.check_picture(picture, self._asked[number], after=self._decisions[number]),
        )

    def _is_passed(self, number: int, decision: Decision) -> bool:
        if decision.action in ("refuse", "hold"):
            self._withhold(number, decision, "picture")
            return False
        return True

    def passed_unchecked(self, pictures: Pictures) -> list[bool]:
        """Which pictures may be handed out of those that an engine without the base's own checker has drawn.

        Args:
            pictures: uint8 (N, H, W, 3), one of each open request.
        """
        if self.policy is None:
            return [True] * len(self.open)
        flags = self.policy.flags(pictures) or [None] * len(pictures)
        return [
            self._is_passed(
                number, self.policy.decide_on_pixels(picture, nsfw=flag, after=self._decisions[number])
            )
            for (number, _), picture, flag in zip(self.open, pictures, flags, strict=True)
        ]

    def seeded(self, first: int) -> Screening:
        """Make the screening of the same requests with other seeds; nothing is withheld there yet.

        Args:
            first: seed of the first request; that of request i is ``first + i``.
        """
        again = copy(self)
        again.withheld = []
        again._asked = [replace(request, seed=first + i) for i, request in enumerate(self._asked)]
        again.open = [(number, replace(request, seed=first + number)) for number, request in self.open]
        return again

    def _withhold(self, number: int, decision: Decision, stage: Literal["request", "picture"]) -> None:
        request = self._asked[number]
        self.withheld.append(
            WithheldPicture(
                number=number,
                prompt=request.prompt,
                seed=request.seed,
                stage=stage,
                action="hold" if decision.action == "hold" else "refuse",
                layer=decision.layer,
                code=decision.code,
                score=decision.score,
                message=decision.message,
            )
        )

    def require_open(self) -> None:
        """Refuse to go on where nothing may be drawn.

        Raises:
            Withheld: the policy stopped every request.
        """
        if not self.open:
            codes = ", ".join(dict.fromkeys(one.code for one in self.withheld))
            raise Withheld(f"nothing may be drawn: policy {self.version} stopped every request ({codes}).")

    def require_every(self) -> None:
        """Refuse to go on where not every request may be drawn.

        Raises:
            Withheld: the policy stopped one; it is named.
        """
        for one in self.withheld:
            raise Withheld(
                f"nothing was drawn: policy {self.version} stopped the prompt '{one.prompt[:60]}' ({one.code}). Leave "
                "it out."
            )

    def draw(
        self, engine: PictureEngine, how: PictureSpec, *, adapters: Sequence[AdapterInUse], batch: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw every open request once more with other adapters, as a column of a sheet.

        Args:
            engine: draws.
            how: size, steps, sampler and guidance.
            adapters: of all of them.
            batch: pictures in one forward pass, at most.

        Returns:
            uint8 (N, H, W, 3) as drawn, for figures; and the same with a grey field where a picture was withheld.
        """
        requests = [replace(request, adapters=()) for _, request in self.open]
        drawn = engine.draw(requests, how, adapters=adapters, batch=batch)
        passed = self.passed([number for number, _ in self.open], drawn, how=engine.resolved(how))
        return drawn.pictures, greyed(drawn.pictures, passed)

    def notes(self) -> list[str]:
        """What was changed, for the user."""
        return [
            f"the safety policy changed the prompt '{self._asked[number].prompt[:60]}' to '{prompt[:60]}'."
            for number, prompt in self.revised.items()
        ]


def open_policy(path: str | None, base: Base, *, device: str, trace: int = 0) -> Policy | None:
    """The policy of a call; ``None`` where it has none.

    Args:
        path: of the policy file that the call names.
        base: that draws.
        device: of the judge.
        trace: moments of denoising that the call hands out.

    Raises:
        ConfigError: the policy is wrong, or the call asks for pictures that its layers would not see.
    """
    if path is None:
        return None
    policy = Policy.open(Path(path), base, device=device)
    if trace and policy.spec.layers(PICTURE_LAYERS):
        raise ConfigError(
            "--trace hands out pictures that the policy's layers never see. Leave --trace or the policy out."
        )
    return policy


def greyed(pictures: np.ndarray, passed: Sequence[bool]) -> np.ndarray:
    """uint8 (N, H, W, 3) with a grey field where a picture was withheld."""
    shown = pictures.copy()
    shown[~np.array(passed, dtype=bool)] = GREY
    return shown
