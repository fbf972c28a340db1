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
    """

    name: str
    folder: Path
    identity: str


EMBEDDED: Mapping[str, EmbeddedBase] = {
    base.name: base
    for base in (EmbeddedBase(name="pocket", folder=PACKAGE / "pocket" / "weights", identity="pocket-v1"),)
}
"""Name → embedded base."""


def embedded_of_identity(identity: str) -> EmbeddedBase | None:
    """Embedded base whose identity stands in an adapter file or a picture; ``None`` for all other bases."""
    return next((base for base in EMBEDDED.values() if base.identity == identity), None)
