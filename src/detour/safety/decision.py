"""Decisions of a policy about a request or a picture, and their causes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, InstanceOf

from detour.generation.requests import PictureRequest

Action = Literal["allow", "change", "hold", "refuse"]
LayerName = Literal[
    "terms", "classifier", "rewrite", "latent", "checker", "texts", "examples", "frames", "copies", "policy"
]
Place = Literal["prompt", "negative", "further text", "trigger", "adapter name", "reference", "picture"]

SEVERITY: tuple[Action, ...] = ("allow", "change", "hold", "refuse")
"""Actions from the mildest to the strictest; the strictest one that a layer asks for is taken."""


class Finding(BaseModel):
    """Result of one layer for one text or picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: LayerName
    action: Action
    code: str
    """Code for programs, such as ``terms.crowns`` or ``texts``; stable while the policy's names are."""
    score: float
    """Score in the layer's own unit; smaller is worse for ``copies``, larger for all others."""
    threshold: float | None = None
    """Threshold that the score was compared with; ``None`` where nothing was found."""
    place: Place = "prompt"
    detail: str = ""
    """What was found and how, for the operator; a client would learn from it how to avoid the layer."""


class Decision(BaseModel):
    """What is done with a request or a picture.

    ``request`` is what may be drawn: with the revised prompt and the guidance of the policy. It is ``None`` when the
    request is refused, and in decisions on pictures. It is no part of the JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Action
    layer: LayerName
    """Layer that decided; ``policy`` where no layer found anything."""
    code: str
    """Code of the finding that decided, or ``allowed``."""
    score: float
    policy: str
    """Name, revision and hash of the policy."""
    findings: tuple[Finding, ...] = ()
    """Findings of every layer that checked, also where it found nothing."""
    revised_prompt: str | None = None
    request: InstanceOf[PictureRequest] | None = Field(default=None, exclude=True, repr=False)

    @property
    def message(self) -> str:
        """One line for the client, with layer and code but without term and threshold."""
        said = {
            "allow": "allowed",
            "change": "changed by the safety policy",
            "hold": "held for review by the safety policy",
            "refuse": "refused by the safety policy",
        }[self.action]
        return said if self.action == "allow" else f"{said} (layer {self.layer}, code {self.code})."


def worst(findings: Sequence[Finding]) -> Finding | None:
    """First finding of the strictest action; ``None`` where all allow."""
    hardest = max(findings, key=lambda one: SEVERITY.index(one.action), default=None)
    return None if hardest is None or hardest.action == "allow" else hardest


def decided(
    findings: Sequence[Finding],
    *,
    policy: str,
    request: PictureRequest | None = None,
    revised_prompt: str | None = None,
) -> Decision:
    """Decision that follows from the findings.

    Args:
        findings: of all layers that looked.
        policy: version of the policy.
        request: what may be drawn, if it is not refused.
        revised_prompt: of that request, where it is another than was asked for.
    """
    found = worst(findings)
    action: Action = "allow" if found is None else found.action
    return Decision(
        action=action,
        layer="policy" if found is None else found.layer,
        code="allowed" if found is None else found.code,
        score=0.0 if found is None else found.score,
        policy=policy,
        findings=tuple(findings),
        revised_prompt=None if action == "refuse" else revised_prompt,
        request=None if action == "refuse" else request,
    )
