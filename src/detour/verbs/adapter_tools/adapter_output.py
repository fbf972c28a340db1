"""Write an adapter and prove, from the file read back, that it stands for the change that was asked for."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from detour.adapter_files.formats import format_named
from detour.adapter_files.layer_file import open_layers
from detour.adapter_files.layer_writer import LayerWriter
from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import TORCH_DTYPES, FileDtype, FileFormat, write_adapter
from detour.adapters.adapter import Adapter
from detour.adapters.analysis import relative_differences
from detour.adapters.layers import Layer
from detour.adapters.meta_tensors import rounded
from detour.bases.families import Family
from detour.errors import ConfigError, ProofFailed
from detour.verbs.staging import refuse_unwritable, staged

AnyDtype = Literal["auto", "fp32", "fp16", "bf16"]

LIMITS: dict[FileDtype, float] = {"fp32": 1e-6, "fp16": 2.0**-11, "bf16": 2.0**-8}
"""Largest relative difference of a layer's change after writing: the rounding unit in half precision."""


def precision_of(dtype: FileDtype) -> torch.dtype:
    """Choose the dtype in which to compute factors that are kept in ``dtype``."""
    return torch.float64 if dtype == "fp32" else torch.float32


@dataclass(frozen=True, kw_only=True)
class Written:
    """A finished file and its proof.

    Attributes:
        path: the file or folder.
        dtype: of the factors in it.
        largest_difference: of a layer's change, relative, between what was asked for and what the file holds.
        at: the layer with that difference.
        limit: above which nothing would have been written.
    """

    path: Path
    dtype: FileDtype
    largest_difference: float
    at: str
    limit: float


@dataclass(frozen=True, kw_only=True)
class Parent:
    """An adapter that another one is made from.

    Attributes:
        name: of its file.
        weight: with which it went in.
        metadata: what its file says.
    """

    name: str
    weight: float
    metadata: Mapping[str, str]


def write_proved(
    out: Path,
    adapter: Adapter,
    *,
    file_format: FileFormat,
    family: Family,
    dtype: FileDtype,
    force: bool,
    compare: Callable[[Adapter, Adapter], dict[str, float]] = relative_differences,
) -> Written:
    """Write, read back, compare every layer's change; only then does the output stand in its place.

    Args:
        out: where it goes.
        adapter: what is written.
        file_format: of the output.
        family: for the names.
        dtype: of the factors.
        force: overwrite existing output.
        compare: what was asked for and what was read back → relative difference by layer.

    Raises:
        ConfigError: the place is taken or does not go with the format.
        AdapterError: the format cannot hold the adapter.
        ProofFailed: a layer's change is not the one that was asked for; there is no output.
        StorageError: disk full, no permission.
    """
    refuse_place(out, file_format)
    with staged(out, force=force) as place:
        written = write_adapter(place, adapter, file_format=file_format, family=family, dtype=dtype)
        at, largest = worst(compare(adapter, read_adapter(written)))
        limit = LIMITS[dtype]
        if not largest <= limit:
            raise ProofFailed(
                f"{out}: not written, the change of '{at}' would differ by {largest:.2g} "
                f"(limit {limit:.2g} in {dtype}). Write it with --dtype fp32."
            )
        finished = out / written.relative_to(place) if written != place else out
    return Written(path=finished, dtype=dtype, largest_difference=largest, at=at, limit=limit)


def write_layers_proved(
    out: Path,
    keys: Iterable[str],
    make: Callable[[str], Layer],
    *,
    metadata: Mapping[str, str],
    file_format: FileFormat,
    family: Family,
    dtype: FileDtype,
    force: bool,
) -> Written:
    """Write and prove as :func:`write_proved`, layer by layer: the memory of one layer, whatever the adapter's size.

    Each layer is compared with what rounding leaves of it, and the finished file, read back, must hold exactly that;
    where a format keeps a layer in another form, its change is compared again.

    Args:
        out: where it goes.
        keys: of the layers.
        make: layer key → the layer that is asked for; called again for a layer in another form.
        metadata: of the file.
        file_format: who reads it.
        family: names of the layers in kohya's format.
        dtype: of the factors.
        force: overwrite existing output.

    Raises:
        ConfigError: the place is taken or does not go with the format.
        AdapterError: the format cannot hold a layer.
        ProofFailed: a layer's change is not the one that was asked for; there is no output.
        StorageError: disk full, no permission.
    """
    refuse_place(out, file_format)
    proof = _Proof(out, dtype)
    with staged(out, force=force) as place:
        prints: dict[str, tuple[str, float]] = {}
        with LayerWriter(place, file_format=file_format, family=family, dtype=dtype) as writer:
            for key in keys:
                layer = make(key)
                kept = rounded(layer, TORCH_DTYPES[dtype])
                proof.compare(key, layer, kept)
                prints[key] = (_print_of(kept), layer.alpha)
                writer.add(key, layer)
            written = writer.finish(metadata)
        with open_layers(written) as back:
            if set(back.meta_adapter.layers) != set(prints):
                odd = min(set(back.meta_adapter.layers) ^ set(prints))
                raise ProofFailed(f"{out}: not written, layer '{odd}' would not be read back from it.")
            for key, (fingerprint, alpha) in prints.items():
                layer = back.layer(key)
                if _print_of(layer) != fingerprint or not math.isclose(
                    layer.alpha, alpha, rel_tol=LIMITS["fp32"]
                ):
                    proof.compare(key, make(key), layer)
        finished = out / written.relative_to(place) if written != place else out
    return Written(
        path=finished, dtype=dtype, largest_difference=proof.largest, at=proof.at, limit=LIMITS[dtype]
    )


class _Proof:
    """The largest difference so far, and the end where it is too large."""

    def __init__(self, out: Path, dtype: FileDtype) -> None:
        self._out, self._dtype = out, dtype
        self.largest, self.at = 0.0, ""

    def compare(self, key: str, asked: Layer, held: Layer) -> None:
        difference = relative_differences(Adapter({key: asked}), Adapter({key: held}))[key]
        if not self.at or difference > self.largest:
            self.largest, self.at = difference, key
        limit = LIMITS[self._dtype]
        if not difference <= limit:
            raise ProofFailed(
                f"{self._out}: not written, the change of '{key}' would differ by {difference:.2g} "
                f"(limit {limit:.2g} in {self._dtype}). Write it with --dtype fp32."
            )


def _print_of(layer: Layer) -> str:
    """A digest of every number of a layer, alpha left out: files keep that in other precisions."""
    digest = hashlib.sha256(layer.kind.encode())
    for name, tensor in sorted(layer.tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def worst(differences: dict[str, float]) -> tuple[str, float]:
    """The layer with the largest difference."""
    at = max(differences, key=lambda key: differences[key])
    return at, differences[at]


def refuse_place(out: Path, file_format: FileFormat) -> None:
    """Raise where the name of the output does not go with its format.

    Raises:
        ConfigError: a file name for a folder, or the other way round.
        StorageError: nothing can be written there.
    """
    form = format_named(file_format)
    is_file = out.suffix == ".safetensors"
    if not form.is_folder and not is_file:
        raise ConfigError(f"{out}: a {form.name} adapter is a file. Let its name end in .safetensors.")
    if not form.is_file and is_file:
        raise ConfigError(f"{out}: a {form.name} adapter is a folder. Name one without .safetensors.")
    if form.is_file and out.suffix and not is_file:
        raise ConfigError(f"{out}: name a file that ends in .safetensors, or a folder.")
    refuse_unwritable(out, as_folder=not is_file)


_OF_THE_BASE = (
    "detour.base",
    "detour.family",
    "modelspec.architecture",
    "modelspec.implementation",
    "modelspec.prediction_type",
    "modelspec.resolution",
    "modelspec.sai_model_spec",
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_v2",
)
"""What holds for an adapter made from others where it holds for all of them."""

_OF_THE_CONTENT = ("modelspec.author", "modelspec.license")


def made_from(parents: Sequence[Parent], *, title: str, how: str) -> dict[str, str]:
    """Metadata of an adapter made from others.

    What is known of their base and whom they are by stays where all agree, and their triggers are named together.
    Nothing of how they were trained stays: it would read as this adapter's own. Each parent is named with its weight
    and the hash of its tensors instead.

    Args:
        parents: in the order of the command.
        title: shown to people.
        how: "compose" or "resize".
    """
    every = [parent.metadata for parent in parents]
    kept = {
        key: every[0][key]
        for key in (*_OF_THE_BASE, *_OF_THE_CONTENT)
        if key in every[0] and all(metadata.get(key) == every[0][key] for metadata in every)
    }
    phrases = (metadata.get("modelspec.trigger_phrase") for metadata in every)
    triggers = list(dict.fromkeys(phrase for phrase in phrases if phrase))
    if triggers:
        kept["modelspec.trigger_phrase"] = ", ".join(triggers)
        kept["modelspec.usage_hint"] = f"Trigger: {', '.join(triggers)}"
    parts = [
        {"name": parent.name, "weight": parent.weight}
        | ({"sha256": parent.metadata["sshs_model_hash"]} if "sshs_model_hash" in parent.metadata else {})
        for parent in parents
    ]
    return kept | {
        "modelspec.title": title,
        "ss_output_name": title,
        f"detour.{how}": json.dumps(parts, ensure_ascii=False),
    }
