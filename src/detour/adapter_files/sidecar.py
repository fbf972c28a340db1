"""Files beside an adapter from which other programs show its trigger and its picture.

A1111 and Forge read ``NAME.json`` and show ``NAME.preview.png``; InvokeAI takes the trigger from the same JSON. None of
them reads a trigger from the adapter's own metadata.
"""

import io
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detour.adapters.adapter import Adapter
from detour.bases.families import Family
from detour.files import write_bytes, write_json

_VERSIONS = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}
"""Family → the name that A1111's cards have for it."""


def card_of(adapter: Adapter, family: Family) -> dict[str, str | float]:
    """What A1111's own editor of such a card writes, without words on this machine or time.

    Source: ``ui_edit_user_metadata.py`` of A1111's built-in Lora extension.
    """
    return {
        "description": "",
        "sd version": _VERSIONS.get(family.name, "Unknown"),
        "activation text": adapter.metadata.get("modelspec.trigger_phrase", ""),
        "preferred weight": 1.0,
        "notes": adapter.metadata.get("modelspec.usage_hint", ""),
    }


def write_sidecar(
    path: Path,
    adapter: Adapter,
    family: Family,
    picture: NDArray[np.uint8] | None,
    *,
    taken: Collection[str] = (),
) -> list[Path]:
    """Write ``NAME.json`` and, where there is a picture, ``NAME.preview.png`` beside ``NAME.safetensors``.

    Args:
        path: of the adapter.
        adapter: with its metadata.
        family: of its base.
        picture: (H, W, 3) uint8; None writes none.
        taken: names of other files of that folder: a card that would have one of them is not written.

    Returns:
        What was written.

    Raises:
        StorageError: disk full, no permission.
    """
    card = path.with_suffix(".json")
    written = []
    if card.name not in taken:
        write_json(card, card_of(adapter, family))
        written.append(card)
    if picture is None:
        return written
    preview = path.with_name(f"{path.stem}.preview.png")
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    write_bytes(preview, stream.getvalue())
    return [*written, preview]
