"""Settings of a run as rows of a table, without paths of the machine."""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from detour.bases.embedded import EMBEDDED
from detour.bases.names import split_name
from detour.specs import RunSpec


def setting_rows(spec: RunSpec, *, base_identity: str) -> list[tuple[str, str]]:
    """Dotted key → value of every setting that is set.

    Args:
        spec: the resolved run.
        base_identity: stands for ``base.name``, which may be a path.
    """
    values = spec.model_dump(by_alias=True)
    values["base"]["name"] = base_identity
    values["data"]["cache_folder"] = values["prior"]["folder"] = ""
    values["adapter"]["from_file"] = public_source(values["adapter"]["from_file"])
    for folder in (values["data"], *values["data"]["folders"]):
        folder["source"] = public_source(folder["source"])
    return [(key, _shown(value)) for key, value in _flat(values) if value is not None]


def public_settings(spec: RunSpec, *, base_identity: str) -> RunSpec:
    """The settings without paths of the machine: folders by their own names, a local base by its identity."""
    data = spec.data.model_copy(
        update={
            "cache_folder": "",
            "source": public_source(spec.data.source),
            "folders": tuple(
                folder.model_copy(update={"source": public_source(folder.source)})
                for folder in spec.data.folders
            ),
        }
    )
    name = spec.base.name if hub_id(spec.base.name) or spec.base.name in EMBEDDED else base_identity
    base = spec.base.model_copy(update={"name": name})
    prior = spec.prior.model_copy(update={"folder": ""})
    adapter = spec.adapter.model_copy(update={"from_file": public_source(spec.adapter.from_file)})
    return spec.model_copy(update={"data": data, "base": base, "prior": prior, "adapter": adapter})


def hub_id(base_name: str) -> str | None:
    """The hub id in the name of a base, without the mark of a left-out T5; ``None`` for paths of this machine."""
    place, _ = split_name(base_name)
    is_id = place.count("/") == 1 and not place.startswith((".", "/", "~"))
    return place if is_id and not Path(place).exists() else None


def public_source(source: str) -> str:
    """Source of the data for readers: ``hub:…`` unchanged, and only the name of a folder."""
    return source if source.startswith("hub:") else PurePath(source.replace("\\", "/")).name


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, tuple) and value and all(isinstance(inner, Mapping) for inner in value):
            for place, inner in enumerate(value, start=1):
                rows += _flat(inner, f"{prefix}{key}.{place}.")
        else:
            rows.append((prefix + key, value))
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(str(inner) for inner in value) or "–"
    return f"{value:g}" if isinstance(value, float) else str(value) or "–"
