"""A base's weight files with adapters merged in: tensor by tensor, everything else as it was, to the bit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detour.adapters.adapter import Layer, LoraLayer, part_of, path_of
from detour.adapters.analysis import flat_factors
from detour.adapters.places import LEGACY_TEXT_PREFIX
from detour.bases.base import Base
from detour.bases.hub import TOKENIZERS
from detour.bases.parts import weight_variant
from detour.bases.single_file_names import place_of
from detour.bases.single_file_text import TensorPlace
from detour.bases.single_file_writing import write_configs
from detour.errors import BaseError, ProofFailed
from detour.verbs.chosen_adapters import ChosenAdapter

Pieces = list[tuple[Layer, float]]
"""What is added to one weight: (layer, strength) of each adapter that has it."""


@dataclass(frozen=True, kw_only=True)
class _Change:
    """What is merged into one tensor of a file.

    Attributes:
        key: the layer.
        pieces: what is added to its weight.
        place: where in the tensor that weight stands: single files keep some together, and some transposed.
    """

    key: str
    pieces: Pieces
    place: TensorPlace


_Changes = Mapping[str, list[_Change]]
"""Tensor name → what is merged into it."""

_ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
_SMALLEST_STEP = {torch.float32: 0.0, torch.float16: 2.0**-25, torch.bfloat16: 0.0}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the written weights were found to be.

    Attributes:
        merged: weights that were changed.
        untouched: tensors that are the same to the bit.
        largest_difference: of a weight's change, relative, after rounding to the base's precision.
        at: the layer with that difference.
        dtypes: of the merged weights.
    """

    merged: int
    untouched: int
    largest_difference: float
    at: str
    dtypes: tuple[str, ...]


def pieces_by_layer(chosen: Sequence[ChosenAdapter]) -> dict[str, Pieces]:
    """Layer key → what is added to its weight."""
    found: dict[str, Pieces] = {}
    for one in chosen:
        for key, layer in one.adapter.layers.items():
            found.setdefault(key, []).append((layer, one.use.weight))
    return found


def merged_tensor(weight: Tensor, pieces: Pieces) -> Tensor:
    """``weight`` plus all changes, summed in float32 and rounded once to the weight's own precision."""
    total = weight.float()
    for layer, strength in pieces:
        total = total + strength * layer.delta(total).reshape(weight.shape)
    return total.to(weight.dtype)


def merge_folder(base: Base, pieces: Mapping[str, Pieces], out: Path) -> None:
    """Write a diffusers folder: weights of the parts that adapters touch merged, all else copied."""
    assert base.weights is not None
    touched = {part_of(key) for key in pieces}
    for source in files_of_base(base):
        target = out / source.relative_to(base.weights)
        part = source.relative_to(base.weights).parts[0]
        if part in touched and source.suffix == ".safetensors":
            _merge_file(source, target, _in_folder(pieces, part))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def merge_checkpoint(base: Base, pieces: Mapping[str, Pieces], out: Path) -> None:
    """Write a single-file checkpoint from a single-file base; its settings come along where shapes do not tell them."""
    assert base.weights is not None
    _merge_file(base.weights, out, _in_checkpoint(base, pieces))
    write_configs(base, out)


def check_folder(base: Base, pieces: Mapping[str, Pieces], out: Path) -> Checked:
    """Read both folders back and compare every tensor of every part.

    Raises:
        ProofFailed: a weight's change is not the one that was asked for, or another tensor changed.
    """
    assert base.weights is not None
    found = []
    for source in files_of_base(base):
        place = source.relative_to(base.weights)
        if source.suffix == ".safetensors":
            found.append(_check_file(source, out / place, _in_folder(pieces, place.parts[0])))
    return _joined(found, pieces)


def check_checkpoint(base: Base, pieces: Mapping[str, Pieces], out: Path) -> Checked:
    """Check a single file as :func:`check_folder` checks a folder."""
    assert base.weights is not None
    return _joined([_check_file(base.weights, out, _in_checkpoint(base, pieces))], pieces)


def files_of_base(base: Base) -> Iterator[Path]:
    """The files of the parts that the base's index names, one precision of weights, and the index itself."""
    assert base.weights is not None
    parts = base.loaded_parts
    for place in sorted(base.weights.iterdir()):
        if place.is_file() and place.suffix == ".json":
            yield place
        elif place.is_dir() and place.name in (
            *parts, *TOKENIZERS, "scheduler", "feature_extractor", "safety_checker",
        ):  # fmt: skip
            variant = weight_variant(place) if place.name in parts else None
            for file in sorted(path for path in place.rglob("*") if path.is_file()):
                other = file.suffix in (".bin", ".ckpt", ".msgpack", ".h5", ".onnx")
                half = any(mark in file.name for mark in (".fp16", ".bf16", ".non_ema"))
                if (
                    place.name in parts
                    and (other or half != (variant is not None))
                    and file.suffix != ".json"
                ):
                    continue
                yield file


def _in_folder(pieces: Mapping[str, Pieces], part: str) -> _Changes:
    """Changes of a part under both names that text encoders have had."""
    named = {}
    for key, mine in pieces.items():
        if part_of(key) == part:
            for name in dict.fromkeys((path_of(key), LEGACY_TEXT_PREFIX + path_of(key))):
                place = TensorPlace(name=f"{name}.weight")
                named[place.name] = [_Change(key=key, pieces=mine, place=place)]
    return named


def _in_checkpoint(base: Base, pieces: Mapping[str, Pieces]) -> _Changes:
    named: dict[str, list[_Change]] = {}
    for key, mine in pieces.items():
        part = part_of(key)
        place = place_of(base.family.name, part, f"{path_of(key)}.weight", base.config(part))
        for name in dict.fromkeys((place.name, place.name.replace(".text_model.", ".", 1))):
            named.setdefault(name, []).append(_Change(key=key, pieces=mine, place=place))
    return named


def _merge_file(source: Path, target: Path, named: _Changes) -> None:
    from detour.tensor_files import write_tensors

    metadata, tensors = {}, {}
    for name, tensor, about in _tensors(source):
        metadata = about
        tensors[name] = _merged(tensor, named.get(name, []))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(target, tensors, metadata or {"format": "pt"})


def _merged(tensor: Tensor, changes: Sequence[_Change]) -> Tensor:
    if not changes:
        return tensor
    made = tensor.clone()
    for change in changes:
        weight = change.place.of(made)  # a view
        merged = merged_tensor(weight, change.pieces)
        if not bool(torch.isfinite(merged).all()):
            whose = "the adapters' change" if bool(torch.isfinite(weight).all()) else "the base's own weight"
            raise ProofFailed(
                f"'{change.key}': {whose} is not finite in the base's {str(weight.dtype).removeprefix('torch.')}; "
                "nothing was written. Use a lower weight, another adapter, or a base in fp32."
            )
        weight.copy_(merged)
    return made


def _tensors(path: Path) -> Iterator[tuple[str, Tensor, dict[str, str]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            for name in file.keys():  # noqa: SIM118  (not a mapping)
                yield name, file.get_tensor(name), metadata
    except SafetensorError as error:
        raise BaseError(f"{path.name}: damaged ({error}). Fetch it again.") from error


def _check_file(source: Path, target: Path, named: _Changes) -> tuple[dict[str, float], int, set[str]]:
    """(layer key → relative difference of its change, tensors that are the same, dtypes of the merged)."""
    differences: dict[str, float] = {}
    untouched, dtypes = 0, set()
    written = {name: tensor for name, tensor, _ in _tensors(target)}
    for name, before, _ in _tensors(source):
        after = written.pop(name, None)
        if after is None or after.dtype != before.dtype or after.shape != before.shape:
            raise ProofFailed(f"{target.name}: '{name}' is not as it was in the base. Merge again.")
        if name not in named:
            if not torch.equal(before, after):
                raise ProofFailed(f"{target.name}: '{name}' changed, though no adapter has it. Merge again.")
            untouched += 1
            continue
        expected = before.clone()
        for change in named[name]:
            old, new = change.place.of(before), change.place.of(after)
            differences[change.key] = _difference(change.key, old, new, change.pieces)
            change.place.of(expected).copy_(new)
        if not torch.equal(expected, after):
            raise ProofFailed(f"{target.name}: '{name}' changed beside what adapters have. Merge again.")
        dtypes.add(str(before.dtype).removeprefix("torch."))
    if written:
        raise ProofFailed(f"{target.name}: holds '{min(written)}', which the base has not. Merge again.")
    return differences, untouched, dtypes


def _difference(key: str, before: Tensor, after: Tensor, pieces: Pieces) -> float:
    """``‖(after - before) - Σ w·ΔW‖ / ‖Σ w·ΔW‖`` in float64, held against what rounding can do."""
    asked = torch.zeros(before.shape, dtype=torch.float64)
    for layer, strength in pieces:
        if isinstance(layer, LoraLayer):
            down, up = flat_factors(layer)
            change = up @ down
        else:
            change = layer.delta((before.double() + asked).float()).double()
        asked += strength * change.reshape(before.shape)
    off = float((after.double() - before.double() - asked).norm())
    size = float(asked.norm())
    rounding = _ROUNDING.get(before.dtype, 2.0**-24)
    floor = _SMALLEST_STEP.get(before.dtype, 0.0) * before.numel() ** 0.5
    allowed = 1.01 * rounding * float(after.double().norm()) + floor + 2e-6 * size
    if not off <= allowed:
        raise ProofFailed(
            f"'{key}': its merged change is off by {off:.2g} where rounding explains {allowed:.2g}. "
            "Nothing was written."
        )
    return off / size if size > 0 else 0.0


def _joined(found: Sequence[tuple[dict[str, float], int, set[str]]], pieces: Mapping[str, Pieces]) -> Checked:
    differences = {key: value for mine, _, _ in found for key, value in mine.items()}
    missing = sorted(set(pieces) - set(differences))
    if missing:
        raise ProofFailed(f"the base's files have no weight for '{missing[0]}'; nothing was written.")
    at = max(differences, key=lambda key: differences[key])
    return Checked(
        merged=len(differences),
        untouched=sum(count for _, count, _ in found),
        largest_difference=differences[at],
        at=at,
        dtypes=tuple(sorted({dtype for _, _, dtypes in found for dtype in dtypes})),
    )
