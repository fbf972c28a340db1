"""The hashes by which other tools know an adapter."""

import hashlib
from collections.abc import Iterable, Mapping

from torch import Tensor

from detour.adapter_files.container import header_bytes, in_file_order, tensor_bytes
from detour.safetensors_header import data_start

_LEGACY = slice(0x100000, 0x110000)
"""Bytes of a file that old web UIs hash."""


def data_sha256(encoded: bytes) -> str:
    """Hex SHA-256 of a safetensors file without its header.

    This is kohya's ``sshs_model_hash`` (AutoV3 on some sites) and, with ``0x`` in front, ModelSpec's
    ``hash_sha256``.
    """
    return hashlib.sha256(encoded[data_start(encoded) :]).hexdigest()


def stated_sha256(metadata: Mapping[str, str]) -> str | None:
    """What a file says the SHA-256 of its tensors is, hex digits alone: kohya's key or ModelSpec's, if it has one."""
    said = metadata.get("sshs_model_hash") or metadata.get("modelspec.hash_sha256")
    return said.lower().removeprefix("0x") if said else None


def file_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """``sshs_model_hash``, ``sshs_legacy_hash`` and ``modelspec.hash_sha256``.

    kohya computes its two over the file with the ``ss_`` metadata alone, so that titles and notes can be
    edited without changing them; the legacy one is what old web UIs show: 8 hex digits over 64 KiB at 1 MiB
    (of nothing in a smaller file). Its header says ``"__metadata__":{}`` where there are no ``ss_`` keys.

    Source: ``precalculate_safetensors_hashes``, kohya-ss/sd-scripts, library/train_util.py.
    """
    ordered = in_file_order((name, tensor.dtype) for name, tensor in tensors.items())
    header = header_bytes(
        ((name, tensors[name].dtype, tuple(tensors[name].shape)) for name in ordered), training_only(metadata)
    )
    return hashes_of(header, (tensor_bytes(tensors[name]) for name in ordered))


def training_only(metadata: Mapping[str, str]) -> dict[str, str]:
    """What of the metadata stands in the file over which kohya computes its hashes."""
    return {key: value for key, value in metadata.items() if key.startswith("ss_")}


def hashes_of(header: bytes, data: Iterable[bytes]) -> dict[str, str]:
    """The texts of :func:`file_hashes`, of a file in pieces.

    Args:
        header: with the metadata of :func:`training_only` alone.
        data: the bytes behind it.
    """
    whole, legacy = hashlib.sha256(), hashlib.sha256()
    legacy.update(header[_LEGACY.start : _LEGACY.stop])
    position = len(header)
    for piece in data:
        whole.update(piece)
        legacy.update(piece[max(0, _LEGACY.start - position) : max(0, _LEGACY.stop - position)])
        position += len(piece)
    digest = whole.hexdigest()
    return {
        "sshs_model_hash": digest,
        "sshs_legacy_hash": legacy.hexdigest()[:8],
        "modelspec.hash_sha256": f"0x{digest}",
    }
