"""The base class of every spec: frozen, keyword-only, unknown keys refused."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]
"""A value that a verb resolves once, against the base and the data, and writes to ``resolved.toml``."""


PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
"""Anything that is counted; larger numbers are slips that no library below takes."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
"""A number from 0 on, such as a seed, which is 63 bits at most."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Spec(BaseModel):
    """Settings of one part. Immutable; two specs with equal values are equal and hash alike."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
