"""A figure beside its controls: what a figure of an adapter says is what the same figure is without it."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

ControlName = Literal["rate_zero", "shuffled"]
"""Adapters that are trained to be compared with: at rate 0, and on captions that were exchanged."""

Side = Literal["adapter", "base", "rate_zero", "shuffled"]
"""Whose pictures they are."""


class Part(BaseModel):
    """A frozen, strict part of what an evaluation writes: unknown fields and numbers without end are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Compared(Part):
    """One figure of every side, measured in the same way on the same prompts and seeds."""

    adapter: float
    base: float
    """Without any adapter: the first control."""
    rate_zero: float | None = None
    """With an adapter trained at rate 0; ``None``: no such control was trained."""
    shuffled: float | None = None
    """With an adapter trained as long on shuffled captions; ``None``: no such control was trained."""
    ceiling: float | None = None
    """Of true pictures; ``None``: there are none."""

    @classmethod
    def of(cls, figures: Mapping[Side, float], *, ceiling: float | None = None) -> "Compared":
        """Put the figures of all sides together.

        Args:
            figures: of the adapter and the base at least.
            ceiling: of true pictures, where there are any.
        """
        return cls(**{str(side): figure for side, figure in figures.items()}, ceiling=ceiling)
