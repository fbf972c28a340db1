"""Write an adapter layer by layer: the same bytes as :func:`write_adapter`, in the memory of one layer.

Flux and SD 3 in kohya's naming, where layers are joined, are kept in memory all the same.

A file's header and hashes are known only at its end, so tensors wait on disk, in a file beside the output, in the
order in which they came; then they are copied into the order that the container has.
"""

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import torch
from torch import Tensor

from detour.adapter_files.container import header_bytes, in_file_order, require_finite_tensor, tensor_bytes
from detour.adapter_files.formats import format_named
from detour.adapter_files.hashes import hashes_of, training_only
from detour.adapter_files.peft_format import CONFIG_NAME, WEIGHTS_NAME, to_peft
from detour.adapter_files.writing import (
    ALONE,
    TORCH_DTYPES,
    FileDtype,
    FileFormat,
    file_in,
    require_finite,
    without_derived,
    write_adapter,
)
from detour.adapters.adapter import Adapter, part_of
from detour.adapters.layers import Layer
from detour.adapters.meta_tensors import on_meta
from detour.bases.families import Family
from detour.bases.transformer_names import TABLES
from detour.errors import AdapterError
from detour.files import storage_error, write_text, write_with

_CHUNK_BYTES = 1 << 22


class LayerWriter:
    """Takes layers one by one and makes a file, or a PEFT folder, of them. A context; nothing is left without
    :meth:`finish`.

    Args:
        path: as for :func:`detour.adapter_files.writing.write_adapter`.
        file_format: who reads it.
        family: names of the layers in kohya's format.
        dtype: of the factors.
    """

    def __init__(self, path: Path, *, file_format: FileFormat, family: Family, dtype: FileDtype) -> None:
        self._path = path
        self._format = format_named(file_format)
        self._family = family
        self._dtype = TORCH_DTYPES[dtype]
        self._dtype_name = dtype
        # In kohya's files a transformer's layers are joined, which needs all of them.
        self._fuses = file_format == "kohya" and family.name in TABLES
        self._layers: dict[str, Layer] = {}
        self._spools: dict[str, _Spool] = {}
        self._stack = ExitStack()

    @property
    def meta_adapter(self) -> Adapter:
        """Names, shapes, ranks and alphas of the layers so far."""
        return Adapter(dict(self._layers))

    def add(self, key: str, layer: Layer) -> None:
        """Take a layer; its factors are on disk when this returns.

        Raises:
            AdapterError: one that the format cannot name or hold, or values that the dtype cannot hold.
            StorageError: disk full, no permission.
        """
        one = Adapter({key: layer})
        require_finite(one, self._dtype, self._path)
        if self._fuses:
            self._layers[key] = layer
            return
        part = part_of(key) if self._format.by_part else ""
        spool = self._spool(part)
        for name, tensor in self._format.tensors(one, part, self._family, self._dtype, True).items():
            if name in spool:
                raise AdapterError(
                    f"'{key}' has the same name in the file as another layer ({name}). Save it as diffusers."
                )
            spool.add(name, tensor)
        self._layers[key] = on_meta(layer)

    def finish(self, metadata: Mapping[str, str]) -> Path:
        """Write the file or folder, with its metadata and hashes.

        Returns:
            The file or folder that was written.

        Raises:
            AdapterError: no layers, or layers that the format cannot hold together.
            StorageError: disk full, no permission.
        """
        if not self._layers:
            raise AdapterError(f"{self._path}: the adapter has no layers, so there is nothing to write.")
        if self._fuses:
            whole = Adapter(dict(sorted(self._layers.items())), metadata)
            return write_adapter(self._path, whole, family=self._family, dtype=self._dtype_name)
        own = without_derived(metadata)
        meta_adapter = Adapter(dict(sorted(self._layers.items())), own)
        if self._format.by_part:
            return self._finish_folder(meta_adapter)
        path = file_in(self._path, self._format)
        self._spools[""].write(path, own | self._format.about(meta_adapter, self._family))
        return path

    def _finish_folder(self, meta_adapter: Adapter) -> Path:
        configs = {
            part: to_peft(meta_adapter, part, torch.float32)[1] for part in meta_adapter.parts
        }  # all or none
        for part, config in configs.items():
            place = self._path if meta_adapter.parts in ALONE else self._path / part
            write_text(place / CONFIG_NAME, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
            about = self._format.about(meta_adapter, self._family)
            self._spools[part].write(place / WEIGHTS_NAME, {**meta_adapter.metadata, **about})
        return self._path

    def _spool(self, part: str) -> "_Spool":
        if part not in self._spools:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                # It has no name, so that nothing is left behind whatever happens to the process.
                stream = self._stack.enter_context(tempfile.TemporaryFile(dir=self._path.parent))  # noqa: SIM115
            except OSError as error:
                raise storage_error(self._path, error) from error
            self._spools[part] = _Spool(stream, self._path)
        return self._spools[part]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@dataclass(frozen=True, kw_only=True)
class _Place:
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int


class _Spool:
    """Tensors on disk, in the order in which they came."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream = stream
        self._path = path
        self._places: dict[str, _Place] = {}
        self._end = 0

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def add(self, name: str, tensor: Tensor) -> None:
        require_finite_tensor(name, tensor)
        data = tensor_bytes(tensor)
        try:
            self._stream.seek(self._end)
            self._stream.write(data)
        except OSError as error:
            raise storage_error(self._path, error) from error
        self._places[name] = _Place(dtype=tensor.dtype, shape=tuple(tensor.shape), begin=self._end)
        self._end += len(data)

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        try:
            hashes = hashes_of(self._header(training_only(metadata)), self._data())
        except OSError as error:  # what was buffered goes to the disk before it is read
            raise storage_error(path, error) from error
        header = self._header({**metadata, **hashes})

        def fill(temporary: Path) -> None:
            with temporary.open("wb") as out:
                out.write(header)
                for piece in self._data():
                    out.write(piece)

        write_with(path, fill)

    def _header(self, metadata: Mapping[str, str]) -> bytes:
        entries = ((name, self._places[name].dtype, self._places[name].shape) for name in self._order())
        return header_bytes(entries, metadata)

    def _data(self) -> Iterator[bytes]:
        """What stands behind the header, in pieces."""
        for name in self._order():
            place = self._places[name]
            self._stream.seek(place.begin)
            left = math.prod(place.shape) * place.dtype.itemsize
            while left:
                piece = self._stream.read(min(left, _CHUNK_BYTES))
                left -= len(piece)
                yield piece

    def _order(self) -> list[str]:
        return in_file_order((name, place.dtype) for name, place in self._places.items())
