"""Adapters ready for drawing, each read and prepared once, in bounded memory."""

import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from detour.adapter_files.fitting import check_fits
from detour.adapters.adapter import Adapter
from detour.adapters.prepared import PreparedAdapter, prepare
from detour.bases.base import Base
from detour.errors import AdapterError
from detour.generation.requests import AdapterFile, AdapterInUse

MAX_BYTES = 2 << 30
"""Memory of all prepared adapters together, unless an engine says otherwise."""


class NoRoom(Exception):
    """Adapters that are in use take all the memory: there is room when a picture is finished."""


@dataclass(eq=False)
class _Entry:
    adapter: PreparedAdapter
    in_use: int = 0


class AdapterStore:
    """Content hash → prepared adapter. What is in use stays; of the rest, what was used last stays longest.

    For the one thread that owns the models.
    """

    def __init__(self, base: Base, models: Mapping[str, nn.Module], *, max_bytes: int = MAX_BYTES) -> None:
        """Make a store that holds nothing yet.

        Args:
            base: that the adapters are for.
            models: part → model; their layers are what adapters are prepared for.
            max_bytes: of all prepared adapters together.
        """
        self.base = base
        self.models = models
        self.max_bytes = max_bytes
        self.num_prepared = 0
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._hashes: dict[int, tuple[weakref.ref[Adapter], str]] = {}

    @property
    def num_bytes(self) -> int:
        """Memory of the adapters that are here."""
        return sum(entry.adapter.num_bytes for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def hold(self, used: AdapterInUse) -> PreparedAdapter:
        """The adapter, prepared; it stays until :meth:`release` was called as often as this.

        Raises:
            AdapterError: it cannot be read, does not fit the base, or alone takes more than the store may.
            NoRoom: adapters in use leave no memory for it.
        """
        key = self._key(used)
        if key not in self._entries:
            if key in self._sizes:
                self._make_room(self._sizes[key])
            adapter = used.adapter
            if isinstance(adapter, AdapterFile):
                name = adapter.path.name
                adapter = adapter.read()
                check_fits(adapter, self.base, called=name)
            made = prepare(self.models, adapter)
            self.num_prepared += 1
            self._sizes[key] = made.num_bytes
            self._make_room(made.num_bytes)
            self._entries[key] = _Entry(made)
        self._sizes.pop(key, None)
        entry = self._entries[key]
        self._entries.move_to_end(key)
        entry.in_use += 1
        return entry.adapter

    def release(self, adapter: PreparedAdapter) -> None:
        """Say that one picture needs the adapter no longer."""
        for entry in self._entries.values():
            if entry.adapter is adapter:
                entry.in_use -= 1
                return

    def _make_room(self, num_bytes: int) -> None:
        idle = [key for key, entry in self._entries.items() if not entry.in_use]
        while idle and self.num_bytes + num_bytes > self.max_bytes:
            del self._entries[idle.pop(0)]
        if self.num_bytes + num_bytes <= self.max_bytes:
            return
        if self._entries:
            raise NoRoom
        raise AdapterError(
            f"the adapter takes {num_bytes / 2**20:,.0f} MiB, and the engine keeps {self.max_bytes / 2**20:,.0f} MiB "
            "of adapters at most. Give it more memory, or use an adapter of a lower rank."
        )

    def _key(self, used: AdapterInUse) -> str:
        if used.sha256:
            return used.sha256
        if isinstance(used.adapter, AdapterFile):
            return used.adapter.sha256
        known = self._hashes.get(id(used.adapter))
        if known is not None and known[0]() is used.adapter:
            return known[1]
        made, place = content_sha256(used.adapter), id(used.adapter)
        self._hashes[place] = (weakref.ref(used.adapter, lambda _: self._hashes.pop(place, None)), made)
        return made


def content_sha256(adapter: Adapter) -> str:
    """SHA-256 of everything that decides what the adapter draws: layers, algorithms, alphas, tensors, words."""
    digest = hashlib.sha256()
    for key, layer in sorted(adapter.layers.items()):
        digest.update(f"{key} {layer.kind} {layer.alpha!r}\n".encode())
        for name, tensor in sorted(layer.tensors.items()):
            digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    for word, parts in sorted(adapter.words.items()):
        for part, vectors in sorted(parts.items()):
            digest.update(f"{word} {part} {tuple(vectors.shape)}\n".encode())
            digest.update(vectors.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
