"""One adapter from several, and a prediction of how they get along."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import FileFormat
from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.analysis import norm_of_change
from detour.adapters.compose import concatenate, pieces_of, require_same_shape, ties, truncated_sum
from detour.adapters.overlap import Verdict, interference_of, shared_by_block
from detour.errors import AdapterError, ConfigError
from detour.recipes.adapter_family import family_of_adapter
from detour.recipes.adapter_output import (
    AnyDtype,
    inherited_metadata,
    refuse_place,
    write_proved,
)
from detour.recipes.chosen_adapters import parse_lora
from detour.recipes.staging import refuse_taken

Method = Literal["sum", "ties"]

NUM_WORST = 5


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClashingLayer(_Figures):
    """Two changes of one weight; see ``detour.adapters.overlap.LayerOverlap``."""

    layer: str
    shared: float
    cosine: float
    cancelled: float
    outputs: float
    inputs: float


class PairPrediction(_Figures):
    """How two of the adapters get along, predicted from their factors."""

    first: str
    second: str
    interference: float
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
    blocks: dict[str, float]
    """Block → share of its energy in shared directions."""


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
    """Of a layer's change, relative, between what was computed and the file read back."""
    limit: float


class ComposeResult(_Figures):
    """Prediction, and the adapter where one was asked for."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    method: Method
    pairs: tuple[PairPrediction, ...]
    written: Composed | None

    def to_json(self) -> str:
        """Everything, indented."""
        return self.model_dump_json(indent=2)


def compose_adapters(
    loras: Sequence[str],
    *,
    out: Path | None,
    method: Method = "sum",
    rank: int | None = None,
    energy: float | None = None,
    density: float = 0.5,
    to: FileFormat = "kohya",
    family: str | None = None,
    dtype: AnyDtype = "auto",
    allow_pickle: bool = False,
    force: bool = False,
) -> ComposeResult:
    """Predict how adapters get along, and write their weighted sum as one.

    Args:
        loras: ``FILE`` or ``FILE:weight`` each, two or more.
        out: where it goes; ``None`` predicts only.
        method: ``sum`` is exact without ``rank`` and ``energy``; ``ties`` needs a rank.
        rank: at most this many directions a layer.
        energy: as few directions as keep this share of each layer's energy.
        density: of TIES: share of each change's weights that is kept.
        to: format of the output.
        family: where the files do not tell it.
        dtype: of the factors; ``auto`` is fp32 unless all sources agree on another.
        allow_pickle: read ``.pt``, ``.bin`` and ``.ckpt`` files too, their tensors alone.
        force: write over what stands at ``out``.

    Raises:
        ConfigError: fewer than two adapters, or settings that do not go together.
        AdapterError: an adapter cannot be read, is not plain LoRA, or they are of different bases.
        ProofFailed: the file read back is not what was computed; there is no output.
    """
    _refuse(loras, out, method, rank, energy, to, force=force)
    chosen = [parse_lora(text) for text in loras]
    adapters = [read_adapter(path, allow_pickle=allow_pickle) for path, _ in chosen]
    names = [path.stem for path, _ in chosen]
    weights = [weight for _, weight in chosen]
    families = {family_of_adapter(adapter, family).family.name for adapter in adapters}
    if len(families) > 1:
        raise AdapterError(
            f"these adapters are of different families ({', '.join(sorted(families))}). Compose those of one base."
        )
    pairs = tuple(
        _predict(adapters[i], adapters[j], (weights[i], weights[j]), (names[i], names[j]))
        for i, j in itertools.combinations(range(len(adapters)), 2)
    )
    written = None
    if out is not None:
        items = list(zip(adapters, weights, strict=True))
        adapter, kept = _compose(items, method, rank, energy, density)
        described = list(zip(adapters, names, weights, strict=True))
        metadata = inherited_metadata(described, title=out.stem, how="compose")
        stored = {adapter.file_dtype for adapter in adapters}
        auto = stored.pop() if len(stored) == 1 else "fp32"
        done = write_proved(
            out,
            Adapter(adapter.layers, metadata),
            file_format=to,
            family=family_of_adapter(adapters[0], family).family,
            dtype=auto if dtype == "auto" else dtype,
            force=force,
        )
        written = Composed(
            path=done.path,
            dtype=done.dtype,
            layers=len(adapter.layers),
            ranks=(adapter.ranks[0], adapter.ranks[-1]),
            kept=kept,
            largest_difference=done.largest_difference,
            limit=done.limit,
        )
    return ComposeResult(
        names=tuple(names), weights=tuple(weights), method=method, pairs=pairs, written=written
    )


def _refuse(
    loras: Sequence[str],
    out: Path | None,
    method: Method,
    rank: int | None,
    energy: float | None,
    to: FileFormat,
    *,
    force: bool,
) -> None:
    if len(loras) < 2:
        raise ConfigError("composing takes two adapters or more: name them as FILE or FILE:WEIGHT.")
    if method == "ties" and (rank is None or energy is not None):
        raise ConfigError("--method ties needs --rank, the rank of the result, and no --energy.")
    if out is not None:
        refuse_place(out, to)
        refuse_taken(out, force=force)


def _compose(
    items: list[tuple[Adapter, float]],
    method: Method,
    rank: int | None,
    energy: float | None,
    density: float,
) -> tuple[Adapter, float]:
    """The adapter, and the share of the energy that it keeps."""
    if method == "sum" and rank is None and energy is None:
        return concatenate(items), 1.0
    layers: dict[str, LoraLayer] = {}
    total = left = 0.0
    for key, pieces in pieces_of(items).items():
        require_same_shape(key, [layer for layer, _ in pieces])
        if method == "ties":
            assert rank is not None
            cut = ties(pieces, density=density, rank=rank)
        else:
            cut = truncated_sum(pieces, rank=rank, energy=energy)
        layers[key] = cut.layer
        remaining = norm_of_change(cut.layer) ** 2
        left += remaining
        total += remaining / cut.kept if cut.kept > 0 else 0.0
    return Adapter(layers), left / total if total > 0 else 1.0


def _predict(a: Adapter, b: Adapter, weights: tuple[float, float], names: tuple[str, str]) -> PairPrediction:
    found = interference_of(a, b, *weights, names=names)
    by_shared = sorted(found.layers.items(), key=lambda item: -item[1].shared * item[1].energy)
    return PairPrediction(
        first=names[0],
        second=names[1],
        interference=found.interference,
        cancelled=found.cancelled,
        imbalance=found.imbalance if found.imbalance != float("inf") else None,
        verdict=found.verdict,
        suggestion=found.suggestion,
        shared_layers=len(found.layers),
        worst=tuple(
            ClashingLayer(
                layer=key,
                shared=one.shared,
                cosine=one.cosine,
                cancelled=one.cancelled,
                outputs=one.outputs,
                inputs=one.inputs,
            )
            for key, one in by_shared[:NUM_WORST]
        ),
        blocks=shared_by_block(found.layers),
    )
