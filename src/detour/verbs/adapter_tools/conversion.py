"""From one adapter format to another, with the proof that the weight change is the same."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from detour.adapter_files.adapter_family import family_of_adapter
from detour.adapter_files.diffusers_format import fold_is_exact
from detour.adapter_files.fitting import check_fits
from detour.adapter_files.kohya import DORA_ELSEWHERE, grown_ranks
from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import FileFormat
from detour.adapters.adapter import Adapter, DoraLayer
from detour.adapters.analysis import relative_differences
from detour.adapters.places import find_layer
from detour.bases.base import open_base
from detour.verbs.adapter_tools.adapter_output import AnyDtype, refuse_place, write_proved
from detour.verbs.staging import refuse_taken


class ConvertResult(BaseModel):
    """What a conversion made and proved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    to: FileFormat
    family: str
    family_why: str
    dtype: str
    layers: dict[str, int]
    """Part → number of layers."""
    ranks: dict[int, int]
    """Rank → layers that have it."""
    alphas: dict[float, int]
    """Alpha → layers that have it."""
    largest_difference: float
    """Largest relative difference of a layer's change between the two files read back."""
    at: str
    """The layer with that difference."""
    limit: float
    dora_compared: Literal["factors", "base"] | None
    """How DoRA layers were compared: by factors and magnitudes, or by the weights of a base as well."""
    left_out: tuple[str, ...]
    """What was not read, each with the reason."""
    grown: dict[str, tuple[int, int]]
    """Layer of the output that stands for several → (their largest rank, its own rank), where that is more."""
    folded: int = 0
    """Layers whose alpha was not their rank, so that the scale went into the factors (diffusers' format)."""
    folded_rounded: int = 0
    """Layers among them whose scale is no power of two, so that the factors were rounded once more."""
    notes: tuple[str, ...] = ()
    """What other tools make of the file where it is not what they should."""

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)


def convert_adapter(
    source: Path,
    out: Path,
    *,
    to: FileFormat,
    family: str | None = None,
    dtype: AnyDtype = "auto",
    base: str | None = None,
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
        base: with whose weights the changes of DoRA layers, which depend on them, are compared as well.
        allow_partial: convert what can be read and list the rest; otherwise anything unknown is an error.
        allow_pickle: read a ``.pt``, ``.bin`` or ``.ckpt`` source too, its tensors alone.
        force: overwrite existing output.

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
    compare = relative_differences if base is None else through_base(adapter, base)
    written = write_proved(
        out, adapter, file_format=to, family=guess.family, dtype=kept, force=force, compare=compare
    )
    has_doras = "dora" in adapter.kinds
    scaled = [one for one in adapter.layers.values() if to == "diffusers" and one.alpha != one.rank]
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
        dora_compared=("factors" if base is None else "base") if has_doras else None,
        left_out=adapter.left_out,
        grown=grown_ranks(adapter, guess.family) if to == "kohya" else {},
        folded=len(scaled),
        folded_rounded=sum(not fold_is_exact(layer) for layer in scaled),
        notes=(DORA_ELSEWHERE,) if to == "kohya" and has_doras else (),
    )


def layers_by_part(adapter: Adapter) -> dict[str, int]:
    """Count the layers of each part."""
    return {part: sum(key.startswith(f"{part}.") for key in adapter.layers) for part in adapter.parts}


def through_base(adapter: Adapter, base: str) -> Callable[[Adapter, Adapter], dict[str, float]]:
    """A comparison that also asks what DoRA layers make of a base's weights.

    Their change is a difference of two weights of nearly the same size, so that rounding of the magnitudes shows in it
    many times over: the difference is taken relative to the adapted weight.

    Args:
        adapter: whose layers the base must have.
        base: name of a base with weights.

    Raises:
        BaseError: it cannot be opened, or has no weights.
        AdapterError: it lacks a layer, or has it in another shape.
    """
    opened = open_base(base)
    opened.require_weights()
    check_fits(adapter, opened)
    network = opened.family.network_part
    models = {network: opened.load_network()} if network in adapter.parts else {}
    if any(part.startswith("text_encoder") for part in adapter.parts):
        models |= opened.load_text().models

    def compare(first: Adapter, second: Adapter) -> dict[str, float]:
        found = relative_differences(first, second)
        for key, layer in first.layers.items():
            other = second.layers.get(key)
            if isinstance(layer, DoraLayer) and other is not None:
                weight = find_layer(models, key, layer).weight.detach()
                adapted = layer.delta(weight) + weight
                off = float((layer.delta(weight) - other.delta(weight)).norm() / adapted.norm())
                found[key] = max(found[key], off)
        return found

    return compare
