"""A figure of every side beside its controls: only the difference to them says something about an adapter."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

ControlName = Literal["rate_zero", "shuffled", "no_prior"]
"""Adapters that are trained as controls: at rate 0, on shuffled captions, and a subject's without class pictures."""

Side = Literal["adapter", "base", "rate_zero", "shuffled", "no_prior"]
"""Source of the pictures: the base, the adapter, a control, or true pictures."""


class Part(BaseModel):
    """A frozen, strict part of what an evaluation writes: unknown fields and numbers without end are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Compared(Part):
    """One figure of every side, measured in the same way on the same prompts and seeds."""

    adapter: float
    base: float
    """Figure without any adapter, which is the first control."""
    rate_zero: float | None = None
    """Figure with an adapter trained at rate 0; ``None`` where no such control was trained."""
    shuffled: float | None = None
    """Figure with an adapter trained on shuffled captions; ``None`` where no such control was trained."""
    no_prior: float | None = None
    """Figure with an adapter trained without class pictures; ``None`` where no such control was trained."""
    ceiling: float | None = None
    """Figure of true pictures; ``None`` where there are none."""

    @classmethod
    def of(cls, figures: Mapping[Side, float], *, ceiling: float | None = None) -> "Compared":
        """Make the part of the file from the figures of all sides.

        Args:
            figures: of the adapter and the base at least.
            ceiling: of true pictures, where there are any.
        """
        return cls(**{str(side): figure for side, figure in figures.items()}, ceiling=ceiling)
