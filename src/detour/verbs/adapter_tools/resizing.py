"""An adapter at a lower rank, or with other strengths block by block."""

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from detour.adapter_files.adapter_family import family_of_adapter
from detour.adapter_files.kohya import DORA_ELSEWHERE
from detour.adapter_files.layer_file import LayerFile, open_layers
from detour.adapter_files.words import refuse_words
from detour.adapter_files.writing import FileFormat
from detour.adapters.adapter import Layer, LoraLayer
from detour.adapters.blocks import parse_block_weights, weigh_layer, weight_of_blocks
from detour.adapters.compose import require_small_enough, truncate
from detour.errors import ConfigError
from detour.verbs.adapter_tools.adapter_output import (
    AnyDtype,
    Parent,
    made_from,
    precision_of,
    refuse_place,
    write_layers_proved,
)
from detour.verbs.staging import refuse_taken


class KeptLayer(BaseModel):
    """One layer of a smaller adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    rank_before: int
    rank: int
    weight: float = 1.0
    """Strength of the layer's block."""
    kept: float
    """Share of the energy of its change, at that weight, that is left."""


class ResizeResult(BaseModel):
    """What a resize made, and what it kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    dtype: str
    layers: tuple[KeptLayer, ...]
    switched_off: tuple[str, ...] = ()
    """Layers of blocks with the weight 0, which are not in the file."""
    kept: float
    """Share of the energy of all changes together, at their weights."""
    parameters_before: int
    parameters: int
    largest_difference: float
    """Largest difference of the computed layers and the file read back."""
    limit: float
    notes: tuple[str, ...] = ()
    """What other tools make of the file where it is not what they should."""

    def to_json(self) -> str:
        """Write everything as indented JSON."""
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
        force: overwrite existing output.

    Raises:
        ConfigError: nothing to do, or settings that do not go.
        AdapterError: the source cannot be read, a lower rank is asked of what is not plain LoRA, or another strength
            of a DoRA.
        ProofFailed: the file read back is not what was computed; there is no output.
    """
    if rank is None and energy is None and blocks is None:
        raise ConfigError("nothing to do: pass --rank, --energy or --blocks.")
    refuse_place(out, to)
    refuse_taken(out, force=force)
    with open_layers(source, allow_pickle=allow_pickle) as opened:
        refuse_words(opened.meta_adapter, "resizing", str(source))
        kept_in = opened.dtype if dtype == "auto" else dtype
        cut = _Resized(opened, rank, energy, blocks, precision_of(kept_in))
        parent = Parent(name=source.stem, weight=1.0, metadata=opened.meta_adapter.metadata)
        metadata = made_from([parent], title=out.stem, how="resize") | cut.asked
        written = write_layers_proved(
            out,
            cut.keys,
            cut.layer,
            metadata=metadata,
            file_format=to,
            family=family_of_adapter(opened.meta_adapter, family).family,
            dtype=kept_in,
            force=force,
        )
        before = opened.meta_adapter.num_parameters
        has_doras = "dora" in opened.meta_adapter.kinds
    layers = tuple(cut.done[key] for key in cut.keys)
    return ResizeResult(
        path=written.path,
        dtype=written.dtype,
        layers=layers,
        switched_off=cut.switched_off,
        kept=cut.kept,
        parameters_before=before,
        parameters=cut.parameters,
        largest_difference=written.largest_difference,
        limit=written.limit,
        notes=(DORA_ELSEWHERE,) if to == "kohya" and has_doras else (),
    )


class _Resized:
    """Layer by layer, the adapter that is asked for; remembers what each layer kept."""

    def __init__(
        self,
        opened: LayerFile,
        rank: int | None,
        energy: float | None,
        blocks: str | None,
        precision: torch.dtype,
    ) -> None:
        self._precision = precision
        self._opened, self._rank, self._energy = opened, rank, energy
        self._cuts = rank is not None or energy is not None
        if self._cuts:
            opened.meta_adapter.plain_layers(purpose="a lower rank")
        highest = max(opened.meta_adapter.ranks)
        if rank is not None and energy is None and rank >= highest:
            raise ConfigError(
                f"--rank {rank}: no layer has a higher rank than {highest}, so that nothing would become smaller. "
                f"{f'Pass a rank below {highest}' if highest > 1 else 'Leave it out'}; detour convert changes format "
                "or precision."
            )
        every = dict.fromkeys(opened.meta_adapter.layers, 1.0)
        self._weights = every if blocks is None else weight_of_blocks(every, parse_block_weights(blocks))
        for key, weight in self._weights.items():
            if weight != 0.0:
                weigh_layer(key, opened.meta_adapter.layers[key], weight)  # refuses before any work is done
        self.keys = [key for key, weight in self._weights.items() if weight != 0.0]
        self.switched_off = tuple(key for key, weight in self._weights.items() if weight == 0.0)
        self.asked = {} if blocks is None else {"detour.resize_blocks": blocks}
        self.done: dict[str, KeptLayer] = {}
        self.parameters = 0
        self._energies: dict[str, float] = {}

    @property
    def kept(self) -> float:
        """Share of the energy of all changes together, at their weights."""
        total = sum(self._energies.values())
        return (
            sum(self._energies[key] * self.done[key].kept for key in self.keys) / total if total > 0 else 1.0
        )

    def layer(self, key: str) -> Layer:
        weight = self._weights[key]
        layer = weigh_layer(key, self._opened.layer(key), weight)
        made, kept = layer, 1.0
        if self._cuts:
            assert isinstance(layer, LoraLayer)  # the outline was looked at before
            require_small_enough(key, layer)
            cut = truncate(layer, rank=self._rank, energy=self._energy, dtype=self._precision)
            made, kept = cut.layer, cut.kept
            self._energies[key] = cut.energy
        if key not in self.done:
            self.parameters += made.num_parameters
        self.done[key] = KeptLayer(
            layer=key, rank_before=layer.rank, rank=made.rank, weight=weight, kept=kept
        )
        return made
