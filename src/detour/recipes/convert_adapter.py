"""From one adapter format to another, with the proof that the weight change is the same."""

from collections import Counter
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from detour.adapter_files.kohya import grown_ranks
from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import FileFormat
from detour.adapters.adapter import Adapter
from detour.recipes.adapter_family import family_of_adapter
from detour.recipes.adapter_output import AnyDtype, refuse_place, write_proved
from detour.recipes.staging import refuse_taken


class ConvertResult(BaseModel):
    """What a conversion made and proved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    to: FileFormat
    family: str
    family_why: str
    dtype: str
    layers: dict[str, int]
    """Part → layers."""
    ranks: dict[int, int]
    """Rank → layers that have it."""
    alphas: dict[float, int]
    """Alpha → layers that have it."""
    largest_difference: float
    """Of a layer's change, relative, between the two files read back."""
    at: str
    """The layer with that difference."""
    limit: float
    left_out: tuple[str, ...]
    """What was not read, each with the reason."""
    grown: dict[str, tuple[int, int]]
    """Layer of the output that stands for several → (their largest rank, its own rank), where that is more."""

    def to_json(self) -> str:
        """Everything, indented."""
        return self.model_dump_json(indent=2)


def convert_adapter(
    source: Path,
    out: Path,
    *,
    to: FileFormat,
    family: str | None = None,
    dtype: AnyDtype = "auto",
    allow_partial: bool = False,
    allow_pickle: bool = False,
    force: bool = False,
) -> ConvertResult:
    """Write the adapter of ``source`` in another format.

    Args:
        source: a file or folder of any format that is read.
        out: a ``.safetensors`` file; a folder for peft, and for diffusers on request.
        to: format of the output.
        family: sd1, sd2, sdxl, sd3 or flux, where the file does not tell it.
        dtype: of the factors; ``auto`` keeps the source's.
        allow_partial: convert what can be read and list the rest; otherwise anything unknown is an error.
        allow_pickle: read a ``.pt``, ``.bin`` or ``.ckpt`` source too, its tensors alone.
        force: write over what stands at ``out``.

    Raises:
        ConfigError: ``out`` is taken or does not go with the format; no such family.
        AdapterError: the source cannot be read, or the format has no name for a layer.
        ProofFailed: a layer's change differs by more than the limit; there is no output.
    """
    refuse_place(out, to)
    refuse_taken(out, force=force)
    adapter = read_adapter(source, allow_partial=allow_partial, allow_pickle=allow_pickle)
    guess = family_of_adapter(adapter, family)
    kept = adapter.file_dtype if dtype == "auto" else dtype
    written = write_proved(out, adapter, file_format=to, family=guess.family, dtype=kept, force=force)
    return ConvertResult(
        path=written.path,
        to=to,
        family=guess.family.name,
        family_why=guess.why,
        dtype=written.dtype,
        layers=layers_by_part(adapter),
        ranks=dict(sorted(Counter(layer.rank for layer in adapter.layers.values()).items())),
        alphas=dict(sorted(Counter(layer.alpha for layer in adapter.layers.values()).items())),
        largest_difference=written.largest_difference,
        at=written.at,
        limit=written.limit,
        left_out=adapter.left_out,
        grown=grown_ranks(adapter, guess.family) if to == "kohya" else {},
    )


def layers_by_part(adapter: Adapter) -> dict[str, int]:
    """Part → number of layers."""
    return {part: sum(key.startswith(f"{part}.") for key in adapter.layers) for part in adapter.parts}
