"""One adapter from several, and a prediction of how they interfere."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from detour.adapter_files.adapter_family import family_of_adapter
from detour.adapter_files.layer_file import LayerFile, open_layers
from detour.adapter_files.words import refuse_words
from detour.adapter_files.writing import FileFormat
from detour.adapters.adapter import LoraLayer
from detour.adapters.blocks import block_of, blocks_in_order, kind_of
from detour.adapters.compose import (
    require_same_shape,
    require_small_enough,
    side_by_side,
    ties,
    truncated_sum,
)
from detour.adapters.overlap import Interference, OverlapSum, over_chance_by
from detour.errors import AdapterError, ConfigError
from detour.verbs.adapter_tools.adapter_output import (
    AnyDtype,
    Parent,
    made_from,
    precision_of,
    refuse_place,
    write_layers_proved,
)
from detour.verbs.adapter_tools.composition_result import (
    ClashingLayer,
    Composed,
    ComposeResult,
    Method,
    PairPrediction,
)
from detour.verbs.adapter_tools.interference_figure import draw_interference
from detour.verbs.adapter_tools.measured_overlap import measure_overlap
from detour.verbs.chosen_adapters import parse_weighted
from detour.verbs.staging import refuse_no_png, refuse_taken

NUM_WORST = 5


DENSITY = 0.5
"""Share of weights that TIES keeps where nothing else is asked for."""


def compose_adapters(
    loras: Sequence[str],
    *,
    out: Path | None,
    method: Method = "sum",
    rank: int | None = None,
    energy: float | None = None,
    density: float | None = None,
    to: FileFormat = "kohya",
    family: str | None = None,
    dtype: AnyDtype = "auto",
    allow_pickle: bool = False,
    plot: Path | None = None,
    base: str | None = None,
    force: bool = False,
) -> ComposeResult:
    """Predict how adapters interfere, and write their weighted sum as one.

    Args:
        loras: ``FILE`` or ``FILE:weight`` each, two or more.
        out: where it goes; ``None`` predicts only.
        method: ``sum`` is exact without ``rank`` and ``energy``; ``ties`` needs a rank.
        rank: at most this many directions a layer.
        energy: as few directions as keep this share of each layer's energy.
        density: of TIES: share of each change's weights that is kept; half of them by default.
        to: format of the output.
        family: where the files do not tell it.
        dtype: of the factors; ``auto`` is fp32 unless all sources agree on another.
        allow_pickle: read ``.pt``, ``.bin`` and ``.ckpt`` files too, their tensors alone.
        plot: where a heat map of what they share goes, a ``.png``.
        base: measure the pairs on this base as well, which predicts damage better than the factors do.
        force: overwrite existing output.

    Raises:
        ConfigError: fewer than two adapters, or settings that do not go together.
        AdapterError: an adapter cannot be read, is not plain LoRA, or they are of different bases.
        ProofFailed: the file read back is not what was computed; there is no output.
    """
    _refuse(loras, out, method, rank, energy, to, force=force)
    if method != "ties" and density is not None:
        raise ConfigError("--density is of --method ties alone: a sum keeps every weight.")
    if plot is not None:
        refuse_no_png(plot)
        refuse_taken(plot, force=force)
    with ExitStack() as stack:
        parts = _opened(loras, stack, allow_pickle=allow_pickle)
        families = {family_of_adapter(part.file.meta_adapter, family).family.name for part in parts}
        if len(families) > 1:
            raise AdapterError(
                f"these adapters are of different families ({', '.join(sorted(families))}). Compose those of one base."
            )
        pairs = _predict(parts)
        if plot is not None:
            draw_interference(pairs, plot)
        measured = () if base is None else measure_overlap(loras, base=base, allow_pickle=allow_pickle)
        written = None
        if out is not None:
            auto = {part.file.dtype for part in parts}
            kept_in = dtype if dtype != "auto" else auto.pop() if len(auto) == 1 else "fp32"
            sums = _Sums(
                parts, method, rank, energy, DENSITY if density is None else density, precision_of(kept_in)
            )
            done = write_layers_proved(
                out,
                sums.keys,
                sums.layer,
                metadata=made_from([part.parent for part in parts], title=out.stem, how="compose"),
                file_format=to,
                family=family_of_adapter(parts[0].file.meta_adapter, family).family,
                dtype=kept_in,
                force=force,
            )
            written = Composed(
                path=done.path,
                dtype=done.dtype,
                layers=len(sums.ranks),
                ranks=(min(sums.ranks.values()), max(sums.ranks.values())),
                kept=sums.kept,
                largest_difference=done.largest_difference,
                limit=done.limit,
            )
    return ComposeResult(
        names=tuple(part.parent.name for part in parts),
        weights=tuple(part.parent.weight for part in parts),
        method=method,
        pairs=pairs,
        measured=measured,
        written=written,
    )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One of the adapters: open, and how it is named and weighed."""

    file: LayerFile
    parent: Parent

    def layer(self, key: str) -> LoraLayer | None:
        """``None`` where it has no such layer."""
        if key not in self.file.meta_adapter.layers:
            return None
        layer = self.file.layer(key)
        assert isinstance(layer, LoraLayer)  # the outline was looked at before
        require_small_enough(key, layer, self.parent.weight)
        return layer


def _opened(loras: Sequence[str], stack: ExitStack, *, allow_pickle: bool) -> list[_Part]:
    parts = []
    for text in loras:
        path, weight = parse_weighted(text)
        file = stack.enter_context(open_layers(path, allow_pickle=allow_pickle))
        refuse_words(file.meta_adapter, "composing", str(path))
        file.meta_adapter.plain_layers(purpose=f"composing {path.name}")
        parent = Parent(name=path.stem, weight=weight, metadata=file.meta_adapter.metadata)
        parts.append(_Part(file=file, parent=parent))
    return parts


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


class _Sums:
    """Layer by layer, the adapter that is asked for; remembers ranks and what truncation kept."""

    def __init__(
        self,
        parts: Sequence[_Part],
        method: Method,
        rank: int | None,
        energy: float | None,
        density: float,
        precision: torch.dtype,
    ) -> None:
        self._parts = [part for part in parts if part.parent.weight != 0.0]
        if not self._parts:
            raise AdapterError("nothing would be left: every weight is 0. Give one of the adapters a weight.")
        self._method, self._rank, self._energy, self._density = method, rank, energy, density
        self._precision = precision
        self.keys = sorted({key for part in self._parts for key in part.file.meta_adapter.layers})
        self.ranks: dict[str, int] = {}
        self._energies: dict[str, tuple[float, float]] = {}

    @property
    def kept(self) -> float:
        """Share of all energy that is left."""
        total = sum(energy for energy, _ in self._energies.values())
        return sum(energy * kept for energy, kept in self._energies.values()) / total if total > 0 else 1.0

    def layer(self, key: str) -> LoraLayer:
        read = [(part.layer(key), part.parent.weight) for part in self._parts]
        pieces = [(layer, weight) for layer, weight in read if layer is not None]
        require_same_shape(key, [layer for layer, _ in pieces])
        if self._method == "sum" and self._rank is None and self._energy is None:
            made = side_by_side(key, pieces)
        else:
            if self._method == "ties":
                assert self._rank is not None
                cut = ties(pieces, density=self._density, rank=self._rank)
            else:
                cut = truncated_sum(pieces, rank=self._rank, energy=self._energy, dtype=self._precision)
            made = cut.layer
            self._energies[key] = (cut.energy, cut.kept)
        self.ranks[key] = made.rank
        return made


def _predict(parts: Sequence[_Part]) -> tuple[PairPrediction, ...]:
    """Each pair held against each other, in one pass over the files."""
    pairs = list(itertools.combinations(parts, 2))
    sums = [
        OverlapSum(a.parent.weight, b.parent.weight, names=(a.parent.name, b.parent.name)) for a, b in pairs
    ]
    for key in sorted({key for part in parts for key in part.file.meta_adapter.layers}):
        layers = {id(part): part.layer(key) for part in parts}
        for (a, b), found in zip(pairs, sums, strict=True):
            found.add(key, layers[id(a)], layers[id(b)])
    return tuple(
        _prediction(found.interference(), a.parent.name, b.parent.name)
        for (a, b), found in zip(pairs, sums, strict=True)
    )


def _prediction(found: Interference, first: str, second: str) -> PairPrediction:
    by_shared = sorted(found.layers.items(), key=lambda item: -item[1].shared * item[1].energy)
    return PairPrediction(
        first=first,
        second=second,
        interference=found.interference,
        shared=found.shared,
        cancelled=found.cancelled,
        imbalance=found.imbalance if found.imbalance != float("inf") else None,
        verdict=found.verdict,
        suggestion=found.suggestion,
        shared_layers=len(found.layers),
        worst=tuple(
            ClashingLayer(
                layer=key,
                over_chance=one.over_chance,
                shared=one.shared,
                cosine=one.cosine,
                cancelled=one.cancelled,
                outputs=one.outputs,
                inputs=one.inputs,
            )
            for key, one in by_shared[:NUM_WORST]
        ),
        map=_map(found),
    )


def _map(found: Interference) -> dict[str, dict[str, float]]:
    return {
        block: over_chance_by(
            {key: one for key, one in found.layers.items() if block_of(key) == block}, kind_of
        )
        for block in blocks_in_order(found.layers)
    }
