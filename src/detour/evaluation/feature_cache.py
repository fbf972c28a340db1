"""Keeps a judge's features on disk by content, so that no picture is embedded twice."""

import contextlib
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detour.entry_store import EntryStore
from detour.errors import StorageError
from detour.files import cache_home

MAX_BYTES = 256 * 2**20
"""Limit of the cache, enough for about 60,000 pictures, as an entry takes one block of the file system."""


class FeatureCache:
    """Features under ``folder``, named by a hash of judge and pixels.

    A cache must not be what an evaluation fails on: where the disk is full or not writable, features stay in memory.
    """

    def __init__(
        self, folder: Path | None = None, *, max_bytes: int = MAX_BYTES, on_disk: bool = True
    ) -> None:
        """Open the cache.

        Args:
            folder: ``features`` in the user's cache folder by default (``$DETOUR_CACHE``).
            max_bytes: of all entries; those used longest ago go first, when the cache is closed.
            on_disk: whether features are kept longer than this object.
        """
        self._seen: dict[str, Tensor] = {}
        self._store: EntryStore | None = None
        if not on_disk:
            return
        with contextlib.suppress(StorageError):
            self._store = EntryStore(folder or cache_home() / "features", max_bytes=max_bytes)

    def get(self, key: str) -> Tensor | None:
        """Features of an entry, float32 (D,), or ``None``; a damaged entry counts as missing."""
        if key not in self._seen and self._store is not None:
            with contextlib.suppress(StorageError):
                if self._store.hold(key):
                    self._seen[key] = self._store.read(key)["features"].clone()
        return self._seen.get(key)

    def put(self, key: str, features: Tensor) -> None:
        """Store (D,) features under a key."""
        self._seen[key] = features
        if self._store is not None:
            with contextlib.suppress(StorageError):
                self._store.put(key, {"features": features})

    def close(self) -> None:
        """Release the entries and enforce the limit; features that were read stay in memory."""
        if self._store is not None:
            self._store.close()
            self._store.evict()
            self._store = None


def picture_key(judge: str, picture: NDArray[np.uint8]) -> str:
    """Hex SHA-256 of the judge and the pixels.

    Args:
        judge: everything that its features depend on but the picture.
        picture: uint8 (H, W, 3).
    """
    digest = hashlib.sha256(f"{judge}|{picture.shape}|".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()
