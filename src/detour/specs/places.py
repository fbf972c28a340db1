"""Where the files and folders that settings name are: beside the settings file, or where the command is called.

``resolved.toml`` names pictures, base and first adapter relative to its own folder, so that it repeats the run from
anywhere, and after both were moved together. Older ones, and files written by hand, may name them relative to the
folder in which the command is called: that is looked at second.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from detour.specs.strict import Spec

S = TypeVar("S", bound=Spec)

INPUTS = (("data", "source"), ("base", "name"), ("adapter", "from_file"), ("adapter", "image_encoder"))
"""Settings that name what a run reads; ``data.folders`` has a ``source`` each."""

NAMED_BASES = (
    "pocket",
    "pocket-flow",
    "sd15",
    "sd21",
    "sdxl",
    "sd35-medium",
    "sd35-large",
    "flux-dev",
    "flux-schnell",
)
"""Names that open a base of the package even where a folder has the same name; a test holds them equal to its table."""

OUTPUTS = (("data", "cache_folder"), ("prior", "folder"))
"""Settings that name folders which a run makes: they are written down with their whole path."""


def found_from(values: dict[str, Any], folder: Path) -> None:
    """Change, in place, relative paths of inputs that are there as seen from ``folder``; others stay as they are.

    Args:
        values: of a settings file, not checked yet.
        folder: that holds the file.
    """

    def found(text: str, *, is_base: bool) -> str:
        if _no_path(text) or Path(text).is_absolute() or (is_base and not _has_folders(text)):
            return text
        place = folder.resolve() / text
        return _from_here(place) if place.exists() else text

    _change_inputs(values, found)


def written_from(spec: S, folder: Path) -> S:
    """Copy the settings for a file in ``folder``: paths of inputs become relative to it, those of outputs absolute."""
    values = spec.model_dump(by_alias=True)

    def written(text: str, *, is_base: bool) -> str:
        if (
            _no_path(text)
            or Path(text).is_absolute()
            or (is_base and (text in NAMED_BASES or not Path(text).exists()))
        ):
            return text
        return _relative(Path(text).resolve(), folder.resolve())

    _change_inputs(values, written)
    for section, key in OUTPUTS:
        if values[section][key]:
            values[section][key] = str(Path(values[section][key]).absolute())
    return type(spec).model_validate(values)


def without_places(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with every path left empty: what two spellings of the same run have in common."""
    emptied = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    _change_inputs(emptied, lambda text, *, is_base: text if _no_path(text) or is_base else "")
    for section, key in OUTPUTS:
        emptied[section][key] = ""
    if _has_folders(emptied["base"]["name"]):
        emptied["base"]["name"] = Path(emptied["base"]["name"]).name
    return emptied


def _change_inputs(values: dict[str, Any], change: Callable[..., str]) -> None:
    for section, key in INPUTS:
        table = values.get(section)
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = change(table[key], is_base=section == "base")
    data = values.get("data")
    folders = data.get("folders") if isinstance(data, dict) else None
    if isinstance(data, dict) and isinstance(folders, list | tuple):
        data["folders"] = type(folders)(_changed(one, change) for one in folders)


def _changed(folder: Any, change: Callable[..., str]) -> Any:
    if not isinstance(folder, dict) or not isinstance(folder.get("source"), str):
        return folder
    return {**folder, "source": change(folder["source"], is_base=False)}


def _no_path(text: str) -> bool:
    """Whether a setting is empty or an id of the hub's."""
    return not text or text.startswith(("hub:", "~"))


def _has_folders(text: str) -> bool:
    return "/" in text or "\\" in text


def _from_here(place: Path) -> str:
    """Write a path as short as it can be said in the folder where the command was called."""
    here = Path.cwd().resolve()
    return _relative(place.resolve(), here) if place.resolve().is_relative_to(here) else str(place.resolve())


def _relative(place: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(place, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return str(place)
