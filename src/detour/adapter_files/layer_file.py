"""An adapter that stays on disk: everything but the factors is read at once, and those layer by layer.

Two adapters of SDXL at rank 64 are 2 GiB in fp32. What works on one layer at a time reads one layer at a time. Flux and
SD 3 in kohya's naming, where one tensor stands for several layers, are read at once all the same.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self

import torch
from torch import Tensor

from detour.adapter_files.container import read_header, read_region
from detour.adapter_files.diffusers_format import FOLDED, dotted_layers, scales_of
from detour.adapter_files.kohya import from_kohya, is_kohya
from detour.adapter_files.limits import DEFAULT_LIMITS, Limits
from detour.adapter_files.lora_config import Scales
from detour.adapter_files.names import layer_key
from detour.adapter_files.peft_format import peft_parts
from detour.adapter_files.pickled import is_pickle_name
from detour.adapter_files.reading import informal, located, read_adapter, require_no_peft
from detour.adapter_files.unread import Unread
from detour.adapter_files.writing import FileDtype
from detour.adapters.adapter import Adapter, part_of
from detour.adapters.layers import Layer
from detour.adapters.meta_tensors import on_meta
from detour.errors import AdapterError
from detour.safetensors_header import Region

_MARKS = (".lora", ".processor.", ".hada_", ".lokr_", ".alpha")
"""Where the name of a layer ends and that of a tensor in it begins, in dotted namings."""

_BY_LAYER = ("unet", "text_encoder", "text_encoder_2")

_STORED: dict[str, FileDtype] = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}

ReadLayers = Callable[[Mapping[str, Tensor]], dict[str, Layer]]


@dataclass(frozen=True, kw_only=True)
class _Source:
    """One safetensors file of an adapter, and how its tensors become layers; without groups, only all at once."""

    path: Path
    regions: Mapping[str, Region]
    groups: list[tuple[str, ...]] | None
    read: ReadLayers


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Tensors that are read together: those of one layer, or of several that a format fuses."""

    source: _Source
    names: tuple[str, ...]


class LayerFile:
    """An adapter whose factors are read when a layer is asked for. Close it, or use it as a context.

    Attributes:
        path: as it was named.
        outline: names, shapes, ranks, alphas and metadata as :func:`read_adapter` gives them; factors are on the
            meta device.
        dtype: of the factors in the file; fp32 where they are mixed.
    """

    def __init__(
        self,
        path: Path,
        meta_adapter: Adapter,
        dtype: FileDtype,
        groups: Mapping[str, _Group],
        *,
        whole: Adapter | None = None,
    ) -> None:
        self.path = path
        self.meta_adapter = meta_adapter
        self.dtype = dtype
        self._groups = groups
        self._whole = whole
        self._streams: dict[Path, BinaryIO] = {}
        self._stack = ExitStack()

    def layer(self, key: str) -> Layer:
        """Read one layer: factors in float32, finite.

        Raises:
            AdapterError: its numbers are not finite, or the file changed.
            KeyError: no such layer.
        """
        if self._whole is not None:
            return self._whole.layers[key]
        group = self._groups[key]
        path = group.source.path
        try:
            if path not in self._streams:
                self._streams[path] = self._stack.enter_context(path.open("rb"))
            tensors = {
                name: read_region(self._streams[path], group.source.regions[name]) for name in group.names
            }
        except OSError as error:
            raise AdapterError(
                f"{path}: adapter cannot be read ({error.strerror}). Check the name."
            ) from error
        return group.source.read(tensors)[key]

    def close(self) -> None:
        """Close the files."""
        self._stack.close()
        self._streams.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_layers(path: Path, *, limits: Limits = DEFAULT_LIMITS, allow_pickle: bool = False) -> LayerFile:
    """Open an adapter of any supported format; its headers are read and checked, and its scalars.

    Args:
        path: as for :func:`detour.adapter_files.reading.read_adapter`.
        limits: sizes above which a file is refused.
        allow_pickle: as for ``read_adapter``; a pickle is read whole.

    Raises:
        AdapterError: as ``read_adapter`` does, but for numbers that are not finite: those show when they are read.
    """
    path = located(path, allow_pickle=allow_pickle)
    if allow_pickle and any(is_pickle_name(one) for one in _weights_of(path)):
        return _whole(path, limits, allow_pickle=True)
    sources, metadata = _opened(path, limits)
    regions = [region for source in sources for region in source.regions.values()]
    if any(source.groups is None for source in sources):
        return _whole(path, limits, allow_pickle=False)
    layers: dict[str, Layer] = {}
    groups: dict[str, _Group] = {}
    for source in sources:
        with source.path.open("rb") as stream:
            for names in source.groups or ():
                found = source.read({name: _stand_in(stream, source.regions[name]) for name in names})
                twice = next((key for key in found if key in layers), None)
                if twice is not None:
                    raise AdapterError(f"{source.path}: '{twice}' stands there twice, under different names.")
                layers |= found
                groups |= dict.fromkeys(found, _Group(source=source, names=names))
    if not layers:
        raise AdapterError(f"{path}: holds no adapter layers. Use another file.")
    return LayerFile(path, Adapter(dict(sorted(layers.items())), metadata), _dtype_of(regions), groups)


def _weights_of(path: Path) -> list[Path]:
    return [place for place in path.rglob("adapter_model.*") if place.is_file()] if path.is_dir() else [path]


def _whole(path: Path, limits: Limits, *, allow_pickle: bool) -> LayerFile:
    whole = read_adapter(path, limits=limits, allow_pickle=allow_pickle)
    meta_adapter = replace(whole, layers={key: on_meta(layer) for key, layer in whole.layers.items()})
    return LayerFile(path, meta_adapter, whole.file_dtype, {}, whole=whole)


def _dtype_of(regions: Iterable[Region]) -> FileDtype:
    """Find the dtype of the factors: alphas are float32 whatever that is."""
    kinds = {region.dtype for region in regions if len(region.shape) > 1}
    return _STORED.get(kinds.pop(), "fp32") if len(kinds) == 1 else "fp32"


def _tells_layers(names: Iterable[str]) -> bool:
    """Say whether each name of a kohya file tells its layer.

    Not so for transformers, whose layers are fused there (their parts and ranks depend on the numbers), and for T5's,
    whose family the other layers tell.
    """
    keys = (layer_key(name.partition(".")[0]) for name in names)
    return all(key is not None and part_of(key) in _BY_LAYER for key in keys)


def _opened(path: Path, limits: Limits) -> tuple[list[_Source], dict[str, str]]:
    if path.is_dir():
        return _opened_peft(path, limits)
    regions, metadata = read_header(path, limits)
    where = str(path)
    require_no_peft(regions, where)
    if is_kohya(regions):
        groups = _grouped(regions, lambda name: name.partition(".")[0]) if _tells_layers(regions) else None
        read: ReadLayers = partial(_read_kohya, where=where, limits=limits)
        return [_Source(path=path, regions=regions, groups=groups, read=read)], informal(metadata)
    scales = scales_of(metadata, where)
    folded = FOLDED if any(own.rank_stabilised for own in scales.values()) else {}
    read = partial(_read_dotted, where=where, limits=limits, scales=scales, dotted=str)
    groups = _grouped(regions, _layer_name)
    return [_Source(path=path, regions=regions, groups=groups, read=read)], informal(metadata) | folded


def _opened_peft(folder: Path, limits: Limits) -> tuple[list[_Source], dict[str, str]]:
    sources, metadata = [], dict[str, str]()
    for part in peft_parts(folder, limits):
        regions, found = read_header(part.weights, limits)
        read = partial(
            _read_dotted, where=str(part.weights), limits=limits, scales=part.scales, dotted=part.dotted
        )
        groups = _grouped(regions, _layer_name)
        sources.append(_Source(path=part.weights, regions=regions, groups=groups, read=read))
        metadata |= found | part.said
    return sources, informal(metadata)


def _read_kohya(tensors: Mapping[str, Tensor], *, where: str, limits: Limits) -> dict[str, Layer]:
    return from_kohya(tensors, {}, limits=limits, unread=Unread(where))[0]


def _read_dotted(
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    limits: Limits,
    scales: Mapping[str, Scales],
    dotted: Callable[[str], str],
) -> dict[str, Layer]:
    named = {dotted(name): tensor for name, tensor in tensors.items()}
    return dotted_layers(named, scales, limits=limits, unread=Unread(where))


def _grouped(names: Iterable[str], layer_name: Callable[[str], str]) -> list[tuple[str, ...]]:
    """Names of one layer together, in a stable order."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(layer_name(name), []).append(name)
    return [tuple(group) for group in groups.values()]


def _layer_name(name: str) -> str:
    """``"unet.conv_in.lora_A.weight"`` → ``"unet.conv_in"``."""
    ends = [end for mark in _MARKS if (end := name.find(mark)) >= 0]
    return name[: min(ends)] if ends else name


def _stand_in(stream: BinaryIO, region: Region) -> Tensor:
    """The tensor itself where it is one number (an alpha), else its shape on the meta device."""
    if math.prod(region.shape) <= 1:
        return read_region(stream, region)
    dtype = torch.float32 if "F" in region.dtype else torch.int64
    return torch.empty(region.shape, dtype=dtype, device="meta")
