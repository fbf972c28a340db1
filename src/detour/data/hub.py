"""Pictures and captions of a hub data set, through the optional ``datasets`` package."""

from typing import Any

from detour.data.captions import one_line
from detour.data.conventions import Entry, Found
from detour.data.metadata import CAPTION_COLUMNS
from detour.errors import DataError, MissingExtra

HUB_PREFIX = "hub:"


def hub_entries(identifier: str, split: str) -> Found:
    """Load ``identifier`` (``owner/name``); ``split`` is passed on, slices such as ``train[:100]`` included.

    Raises:
        MissingExtra: ``datasets`` is not installed.
        DataError: not there, no such split, or no column of pictures.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra(
            f"hub:{identifier} needs the datasets package. Install it: pip install detour-lora[hub]"
        ) from error
    try:
        rows = datasets.load_dataset(identifier, split=split)
        picture, caption = _columns(identifier, list(rows.column_names))
        # Undecoded: pictures go through the same checks as files.
        rows = rows.cast_column(picture, datasets.Image(decode=False))
        entries = [
            Entry(f"{split}/{index:06d}", _picture_bytes(row[picture]), _caption(row, caption))
            for index, row in enumerate(rows)
        ]
    except DataError:
        raise
    except Exception as error:  # the package raises many kinds: not found, offline, bad split, bad files
        reason = one_line(str(error))[:300] or type(error).__name__
        raise DataError(f"hub:{identifier}, split '{split}': cannot be loaded ({reason}).") from error
    if not entries:
        raise DataError(f"hub:{identifier}, split '{split}': no rows. Choose another --split.")
    return Found(entries, f"hub data set {identifier}, split {split}")


def _columns(identifier: str, names: list[str]) -> tuple[str, str | None]:
    picture = next((name for name in ("image", "picture", "img") if name in names), None)
    if picture is None:
        raise DataError(
            f"hub:{identifier}: no column 'image' (columns: {', '.join(names)}). Choose another data set."
        )
    return picture, next((name for name in CAPTION_COLUMNS if name in names), None)


def _picture_bytes(value: Any) -> bytes:
    data = value.get("bytes") if isinstance(value, dict) else None
    if data is None and isinstance(value, dict) and value.get("path"):
        from pathlib import Path

        data = Path(value["path"]).read_bytes()
    if not isinstance(data, bytes):
        raise DataError(f"a row holds a {type(value).__name__} where a picture is expected.")
    return data


def _caption(row: Any, column: str | None) -> str | None:
    value = row[column] if column else None
    return (one_line(value) or None) if isinstance(value, str) else None
