"""The hashes by which other tools know an adapter."""

import hashlib
from collections.abc import Mapping

from torch import Tensor

from detour.adapter_files.container import encode


def data_sha256(encoded: bytes) -> str:
    """Hex SHA-256 of a safetensors file without its header.

    This is kohya's ``sshs_model_hash`` (AutoV3 on some sites) and, with ``0x`` in front, ModelSpec's
    ``hash_sha256``.
    """
    start = 8 + int.from_bytes(encoded[:8], "little")
    return hashlib.sha256(encoded[start:]).hexdigest()


def file_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """``sshs_model_hash``, ``sshs_legacy_hash`` and ``modelspec.hash_sha256``.

    kohya computes its two over the file with the ``ss_`` metadata alone, so that titles and notes can be
    edited without changing them; the legacy one is what old web UIs show: 8 hex digits over 64 KiB at 1 MiB
    (of nothing in a smaller file).

    Source: ``precalculate_safetensors_hashes``, kohya-ss/sd-scripts, library/train_util.py.
    """
    training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    encoded = encode(tensors, training)
    digest = data_sha256(encoded)
    legacy = hashlib.sha256(encoded[0x100000:0x110000]).hexdigest()[:8]
    return {
        "sshs_model_hash": digest,
        "sshs_legacy_hash": legacy,
        "modelspec.hash_sha256": f"0x{digest}",
    }
