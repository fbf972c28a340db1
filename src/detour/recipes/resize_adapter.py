"""An adapter at a lower rank, or with other strengths block by block."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import FileFormat
from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.analysis import norm_of_change
from detour.adapters.blocks import parse_block_weights, weigh_blocks
from detour.adapters.compose import Truncated, truncate
from detour.errors import ConfigError
from detour.recipes.adapter_family import family_of_adapter
from detour.recipes.adapter_output import (
    AnyDtype,
    inherited_metadata,
    refuse_place,
    write_proved,
)
from detour.recipes.staging import refuse_taken


class KeptLayer(BaseModel):
    """One layer of a smaller adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    rank_before: int
    rank: int
    kept: float
    """Share of the energy of its change that is left."""


class ResizeResult(BaseModel):
    """What a resize made, and what it kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    dtype: str
    layers: tuple[KeptLayer, ...]
    kept: float
    """Share of the energy of all changes together."""
    parameters_before: int
    parameters: int
    largest_difference: float
    """Between what was computed and the file read back."""
    limit: float

    def to_json(self) -> str:
        """Everything, indented."""
        return self.model_dump_json(indent=2)


def resize_adapter(
    source: Path,
    *,
    out: Path,
    rank: int | None = None,
    energy: float | None = None,
    blocks: str | None = None,
    to: FileFormat = "kohya",
    family: str | None = None,
    dtype: AnyDtype = "auto",
    allow_pickle: bool = False,
    force: bool = False,
) -> ResizeResult:
    """Write a smaller adapter: the best of its rank, layer by layer.

    Args:
        source: a file or folder of any format that is read.
        out: where it goes.
        rank: at most this many directions a layer.
        energy: as few directions as keep this share of each layer's energy.
        blocks: strength by block, e.g. ``down=1,mid=0.5,up.1=0``; alone, it keeps every rank.
        to: format of the output.
        family: where the file does not tell it.
        dtype: of the factors; ``auto`` keeps the source's.
        allow_pickle: read ``.pt``, ``.bin`` and ``.ckpt`` files too, their tensors alone.
        force: write over what stands at ``out``.

    Raises:
        ConfigError: nothing to do, or settings that do not go.
        AdapterError: the source cannot be read, or is not plain LoRA.
        ProofFailed: the file read back is not what was computed; there is no output.
    """
    if rank is None and energy is None and blocks is None:
        raise ConfigError("nothing to do: pass --rank, --energy or --blocks.")
    refuse_place(out, to)
    refuse_taken(out, force=force)
    adapter = read_adapter(source, allow_pickle=allow_pickle)
    before = adapter.plain_layers(purpose="resizing")
    if blocks is not None:
        adapter = weigh_blocks(adapter, parse_block_weights(blocks))
    weighed = adapter.plain_layers()
    if rank is None and energy is None:
        smaller = {key: Truncated(layer=layer, kept=1.0) for key, layer in weighed.items()}
    else:
        smaller = {key: truncate(layer, rank=rank, energy=energy) for key, layer in weighed.items()}
    layers = {key: one.layer for key, one in smaller.items()}
    metadata = inherited_metadata([(adapter, source.stem, 1.0)], title=out.stem, how="resize")
    written = write_proved(
        out,
        Adapter(layers, metadata),
        file_format=to,
        family=family_of_adapter(adapter, family).family,
        dtype=adapter.file_dtype if dtype == "auto" else dtype,
        force=force,
    )
    return ResizeResult(
        path=written.path,
        dtype=written.dtype,
        layers=tuple(
            KeptLayer(layer=key, rank_before=before[key].rank, rank=one.layer.rank, kept=one.kept)
            for key, one in smaller.items()
        ),
        kept=kept_of_all([(weighed[key], one.kept) for key, one in smaller.items()]),
        parameters_before=sum(layer.num_parameters for layer in before.values()),
        parameters=sum(layer.num_parameters for layer in layers.values()),
        largest_difference=written.largest_difference,
        limit=written.limit,
    )


def kept_of_all(layers: Sequence[tuple[LoraLayer, float]]) -> float:
    """Share of all energy that is left, from each layer and its own share."""
    energies = [(norm_of_change(layer) ** 2, kept) for layer, kept in layers]
    total = sum(energy for energy, _ in energies)
    return sum(energy * kept for energy, kept in energies) / total if total > 0 else 1.0
