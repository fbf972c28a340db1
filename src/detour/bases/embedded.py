"""The bases that the package carries: what they are called, where they lie, and that their world is known here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class EmbeddedBase:
    """A base that was trained on the drawn world, whose scenes can be rendered and described here.

    Attributes:
        name: by which it is opened.
        folder: of its weights, in diffusers layout.
        identity: written into adapter files and pictures.
        defaults: name under which ``training/resolving.py`` holds its rate, steps, rank and layers.
    """

    name: str
    folder: Path
    identity: str
    defaults: str


EMBEDDED: Mapping[str, EmbeddedBase] = {
    base.name: base
    for base in (
        EmbeddedBase(
            name="pocket",
            folder=PACKAGE / "pocket" / "weights",
            identity="pocket-v1",
            defaults="pocket",
        ),
        EmbeddedBase(
            name="pocket-flow",
            folder=PACKAGE / "pocket" / "weights_flow",
            identity="pocket-flow-v2",
            defaults="pocket-flow",
        ),
    )
}
"""Name → embedded base."""


def embedded_of_identity(identity: str) -> EmbeddedBase | None:
    """Embedded base whose identity stands in an adapter file or a picture; ``None`` for all other bases."""
    return next((base for base in EMBEDDED.values() if base.identity == identity), None)
