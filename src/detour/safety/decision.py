"""What a policy says of a request or a picture, and why."""

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
"""From the mildest action to the hardest one; the hardest one that a layer asks for is what happens."""


class Finding(BaseModel):
    """What one layer says of one text or picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: LayerName
    action: Action
    code: str
    """For programs: ``terms.crowns``, ``texts``; stable as long as the policy's names are."""
    score: float
    """In the layer's own unit; for ``copies`` smaller is worse, for all others larger."""
    threshold: float | None = None
    """That the score was held against; ``None`` where nothing was found."""
    place: Place = "prompt"
    detail: str = ""
    """For the operator: what was found and how. Not for the client, who would learn how to avoid it."""


class Decision(BaseModel):
    """What happens to a request or a picture.

    ``request`` is what may be drawn: with the revised prompt and the guidance of the policy. It is ``None`` when the
    request is refused, and in decisions on pictures. It is no part of the JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Action
    layer: LayerName
    """The layer that decided; ``policy`` where none found anything."""
    code: str
    """``allowed``, or the code of the finding that decided."""
    score: float
    policy: str
    """Name, revision and hash of the policy."""
    findings: tuple[Finding, ...] = ()
    """Of every layer that looked, also where it found nothing."""
    revised_prompt: str | None = None
    request: InstanceOf[PictureRequest] | None = Field(default=None, exclude=True, repr=False)

    @property
    def message(self) -> str:
        """One line for the client; it names the layer and the code and neither the term nor the threshold."""
        said = {
            "allow": "allowed",
            "change": "changed by the safety policy",
            "hold": "held for review by the safety policy",
            "refuse": "refused by the safety policy",
        }[self.action]
        return said if self.action == "allow" else f"{said} (layer {self.layer}, code {self.code})."


def worst(findings: Sequence[Finding]) -> Finding | None:
    """The first finding of the hardest action; ``None`` where all allow."""
    hardest = max(findings, key=lambda one: SEVERITY.index(one.action), default=None)
    return None if hardest is None or hardest.action == "allow" else hardest


def decided(
    findings: Sequence[Finding],
    *,
    policy: str,
    request: PictureRequest | None = None,
    revised_prompt: str | None = None,
) -> Decision:
    """The decision that follows from what the layers found.

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
