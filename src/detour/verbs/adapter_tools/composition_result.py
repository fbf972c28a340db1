"""What composing adapters returns: how each pair interferes, and the adapter that was written."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from detour.adapters.overlap import Verdict
from detour.verbs.adapter_tools.measured_overlap import MeasuredPair

Method = Literal["sum", "ties"]


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClashingLayer(_Figures):
    """How two changes of one weight overlap; see ``detour.adapters.overlap.LayerOverlap``."""

    layer: str
    over_chance: float
    shared: float
    cosine: float
    cancelled: float
    outputs: float
    inputs: float


class PairPrediction(_Figures):
    """How two of the adapters interfere, predicted from their factors."""

    first: str
    second: str
    interference: float
    """How many times chance is the share of all energy in directions that both read and both write."""
    shared: float
    """Share of all energy in directions that both read and both write."""
    cancelled: float
    """Share of all energy that is gone in the sum; negative where they amplify each other."""
    imbalance: float | None
    """Energy of the stronger over that of the weaker; ``None`` where one does nothing."""
    verdict: Verdict
    suggestion: str
    shared_layers: int
    worst: tuple[ClashingLayer, ...]
    """The layers with the most shared energy."""
    map: dict[str, dict[str, float]]
    """Block → kind of layer → how many times chance is shared; what the picture shows."""


class Composed(_Figures):
    """The adapter that was written."""

    path: Path
    dtype: str
    layers: int
    ranks: tuple[int, int]
    """Smallest and largest."""
    kept: float
    """Share of the energy of the sum that is left; 1 without truncation."""
    largest_difference: float
    """Largest relative difference of a layer's change between what was computed and the file read back."""
    limit: float


class ComposeResult(_Figures):
    """Prediction, and the adapter where one was asked for."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    method: Method
    pairs: tuple[PairPrediction, ...]
    measured: tuple[MeasuredPair, ...] = ()
    """Measurements of the same pairs on a base, where one was named."""
    written: Composed | None

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)
