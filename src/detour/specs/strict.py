"""The base class of every spec: frozen, keyword-only, unknown keys refused."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Auto = Literal["auto"]
"""A value that a recipe resolves once, against the base and the data, and writes to ``resolved.toml``."""


class Spec(BaseModel):
    """Settings of one part. Immutable; two specs with equal values are equal and hash alike."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
