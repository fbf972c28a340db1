"""Names of adapters in other interfaces: in a model's name, and as tags in a prompt."""

from __future__ import annotations

import math
import re

from detour.serving.refusals import BadRequest, NotFound

HARD_CODED = re.compile(r"(dall-e-\d|gpt-image-[\w.-]+|chatgpt-image-[\w.-]+|auto|default|)")
"""Model names that clients send to every server; they mean the base."""

_TAG = re.compile(r"<lora:([^:<>]+)(?::([^:<>]*))?(?::[^<>]*)?>")

Named = tuple[tuple[str, float], ...]


def split_model(model: str, base: str) -> Named:
    """Split ``base+style:0.8+other`` into the base and its adapters with their strengths.

    Args:
        model: as the client sent it.
        base: name of the base that is served.

    Raises:
        NotFound: another base.
        BadRequest: a strength is no number.
    """
    first, *rest = model.split("+")
    if first != base and not HARD_CODED.fullmatch(first):
        raise NotFound(
            f"no model '{model[:80]}' here. Ask for '{base}', or for '{base}+ADAPTER:STRENGTH'.",
            param="model",
            code="model_not_found",
        )
    return tuple(_named(part) for part in rest)


def take_tags(prompt: str) -> tuple[str, Named]:
    """Remove ``<lora:name:0.8>`` tags from a prompt, and return it with the adapters that they name.

    Raises:
        BadRequest: a strength is no number.
    """
    named = tuple(
        (name.strip(), strength_of(text, name))
        for name, text in (match.groups() for match in _TAG.finditer(prompt))
    )
    return re.sub(r"\s+", " ", _TAG.sub("", prompt)).strip() if named else prompt, named


def strength_of(text: str | None, name: str) -> float:
    """Parse a strength; a missing one is 1.

    Raises:
        BadRequest: no finite number.
    """
    if text is None or not text.strip():
        return 1.0
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRequest(
            f"adapter '{name[:80]}': '{text[:20]}' is not a strength. Write NAME:0.8.", param="adapters"
        )
    return value


def summed(*several: Named) -> Named:
    """Merge adapters from several places; strengths of one that is named twice are added, as in A1111."""
    total: dict[str, float] = {}
    for named in several:
        for name, strength in named:
            total[name] = total.get(name, 0.0) + strength
    return tuple(total.items())


def _named(part: str) -> tuple[str, float]:
    name, colon, text = part.rpartition(":")
    return (name, strength_of(text, name)) if colon else (part, 1.0)
