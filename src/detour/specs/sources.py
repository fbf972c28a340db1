"""One strict parse: defaults < TOML < flags < ``--set section.key=value``."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from detour.adapter_methods import METHOD_SETTINGS
from detour.errors import ConfigError, nearest
from detour.files import is_unicode, printable, read_text, write_text
from detour.specs.places import found_from, written_from
from detour.specs.run import RunSpec
from detour.specs.strict import Spec

S = TypeVar("S", bound=Spec)

MAX_CONFIG_BYTES = 1 << 20


def load_run_spec(
    *, config: Path | None = None, flags: Mapping[str, Any] | None = None, assignments: Iterable[str] = ()
) -> RunSpec:
    """Build a run from its sources, later ones winning.

    Args:
        config: a ``run.toml`` or ``resolved.toml``; pictures, base and first adapter that it names by a relative path
            are looked for beside the file first, then in the folder where the command was called.
        flags: dotted key → value, e.g. ``{"train.steps": 200}``; ``None`` values are skipped.
        assignments: ``section.key=value`` strings; the value is read as TOML, and as text when it is not TOML.

    Raises:
        ConfigError: unreadable TOML, unknown key (with the nearest name), or a value out of range.
    """
    values: dict[str, Any] = read_toml(config) if config else {}
    if config is not None:
        found_from(values, config.parent)
    for key, value in (flags or {}).items():
        if value is not None:
            set_dotted(values, key, value)
    for key, value in parse_assignments(assignments).items():
        set_dotted(values, key, value)
    return parse(RunSpec, values, where=str(config) if config else "")


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file of at most 1 MiB, with or without a byte order mark.

    Raises:
        ConfigError: it cannot be read, or is not TOML in UTF-8.
    """
    try:
        return tomllib.loads(read_text(path, max_bytes=MAX_CONFIG_BYTES, error=ConfigError))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML ({error}).") from error


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """``["train.optim.lr=5e-5"]`` → ``{"train.optim.lr": 5e-05}``."""
    parsed: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"--set {assignment}: expected section.key=value, e.g. --set train.optim.lr=5e-5."
            )
        try:
            table = tomllib.loads(f"value = {text}")
        except tomllib.TOMLDecodeError:
            table = {}
        value = table["value"] if list(table) == ["value"] else text  # a second line would be a second key
        parsed[key.strip()] = value
    return parsed


def set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    """Set ``values["a"]["b"]`` for key ``a.b``, making the tables on the way."""
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"'{key}': '{parent}' is a value, not a section.")
        values = inner
    values[last] = value


def parse(kind: type[S], values: Mapping[str, Any], *, where: str = "") -> S:
    """Validate ``values`` as ``kind``; the first problem becomes one readable line.

    Raises:
        ConfigError: names the key, what was found and what is allowed.
    """
    _require_unicode(values, "")
    try:
        return kind.model_validate(_lists_to_tuples(values))
    except ValidationError as error:
        raise ConfigError(_explain(kind, error, where)) from error


def with_changes(spec: S, changes: Mapping[str, Any]) -> S:
    """The spec with some dotted keys set, e.g. ``{"train.batch": 1}``; checked like any other.

    Raises:
        ConfigError: an unknown key or a value out of range.
    """
    values: dict[str, Any] = spec.model_dump(by_alias=True)
    for key, value in changes.items():
        set_dotted(values, key, value)
    return parse(type(spec), values)


def _require_unicode(value: Any, key: str) -> None:
    """Refuse text that could not be written to ``resolved.toml``, such as a path whose bytes are no UTF-8."""
    if isinstance(value, str) and not is_unicode(value):
        raise ConfigError(f"{key} = '{printable(value)}': not UTF-8. Rename the file, or write it in UTF-8.")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _require_unicode(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            _require_unicode(inner, key)


def _lists_to_tuples(value: Any) -> Any:
    """TOML and JSON have lists; frozen specs hold tuples. Whole numbers stay valid for float fields in strict mode."""
    if isinstance(value, Mapping):
        return {key: _lists_to_tuples(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(_lists_to_tuples(inner) for inner in value)
    return value


def _explain(kind: type[BaseModel], error: ValidationError, where: str) -> str:
    problems = error.errors()
    # A union such as ``int | "auto"`` reports one problem a branch; the unknown keys come first, they explain most.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    path = [str(part) for part in problem["loc"]]
    prefix = f"{where}: " if where else ""
    if problem["type"] == "extra_forbidden":
        known = _known_keys(kind)
        key = ".".join(path)
        return (
            f"{prefix}unknown key '{key}'.{nearest(_named(path), known) or _nearest_by_last_part(key, known)}"
        )
    known = _known_keys(kind)
    depth = next((n for n in range(len(path), 0, -1) if _named(path[:n]) in known), len(path))
    key = ".".join(path[:depth])
    same_key = [p for p in problems if [str(part) for part in p["loc"]][:depth] == path[:depth]]
    setting = METHOD_SETTINGS.get(str(problem["input"]).lower()) if key == "adapter.method" else None
    if setting is not None:
        return (
            f"{prefix}'{key}' is {problem['input']!r}, which is plain LoRA with a setting: --set {setting}."
        )
    reasons = " or ".join(dict.fromkeys(p["msg"].lower().removeprefix("input ") for p in same_key))
    return f"{prefix}'{key}' is {problem['input']!r}, but it {reasons}."


def _named(path: list[str]) -> str:
    """``data.folders.1.weight`` → ``data.folders.weight``: places in a list are no names."""
    return ".".join(part for part in path if not part.isdecimal())


def _nearest_by_last_part(key: str, known: list[str]) -> str:
    last = key.rsplit(".", 1)[-1]
    for candidate in known:
        if candidate.rsplit(".", 1)[-1] == last:
            return f" Did you mean '{candidate}'?"
    return ""


def _known_keys(kind: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in kind.model_fields.items():
        key = prefix + (field.alias or name)
        keys.append(key)
        for inner in (field.annotation, *get_args(field.annotation)):  # ``Spec`` or ``tuple[Spec, ...]``
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                keys += _known_keys(inner, key + ".")
    return keys


def to_toml(spec: Spec) -> str:
    """The spec as TOML that :func:`load_run_spec` reads back to an equal spec; unset values are left out."""
    import tomli_w

    return tomli_w.dumps(_without_unset(spec.model_dump(by_alias=True)))


def save_run_spec(path: Path, spec: RunSpec) -> None:
    """Write settings so that ``detour train --config`` repeats the run from any folder.

    Raises:
        StorageError: disk full or folder not writable.
    """
    write_text(path, to_toml(written_from(spec, path.parent)))


def _without_unset(value: Any) -> Any:
    """TOML has no null: a key without a value is left out."""
    if isinstance(value, Mapping):
        return {key: _without_unset(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, tuple | list):
        return [_without_unset(inner) for inner in value]
    return value
