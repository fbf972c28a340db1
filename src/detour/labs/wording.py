"""Says what a learner's value is, in a learner's words."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Instead:
    """An answer that is no number, where the task asks for a number or this: ``None``, ``inf``.

    Attributes:
        name: as the learner writes it.
    """

    name: str


def described(value: Any) -> str:
    """Description of a value in a learner's words."""
    import numpy as np  # here, because both take seconds to load, and listing the labs needs neither
    from torch import Tensor

    if value is None:
        return "nothing"
    if isinstance(value, Instead):
        return value.name
    if isinstance(value, Tensor | np.ndarray):
        return f"{'a tensor' if isinstance(value, Tensor) else 'an array'} of shape {tuple(value.shape)}"
    if isinstance(value, bool | int | float | str | np.generic):
        return f"{value!r}"
    return f"a {type(value).__name__}"
