"""What becomes of one key of another trainer's settings."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from detour.errors import ConfigError


class Fate(BaseModel):
    """What became of one key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    """Name of the setting as the other trainer writes it."""
    value: str
    became: str
    """``train.optim.lr = 0.0001``, several joined by a comma; empty: it has no counterpart."""
    words: str = ""
    """Why there is none, or what means something else here."""

    @property
    def line(self) -> str:
        """One line for a person."""
        fate = f"→ {self.became}" if self.became else "has no counterpart"
        return f"{self.key} = {self.value} {fate}" + (f": {self.words}" if self.words else "")


@dataclass(frozen=True)
class Outcome:
    """Settings of ours that a value of theirs becomes, and a word on it.

    Attributes:
        settings: dotted key → value; empty where there is no counterpart.
        words: on what is different here.
    """

    settings: Mapping[str, Any]
    words: str = ""


Rule = Callable[[Any, Mapping[str, Any]], Outcome]
"""(their value, all their settings) → what it becomes."""


def as_is(key: str, kind: type = str, words: str = "") -> Rule:
    """Rule for a setting that has the same meaning under another name.

    Args:
        key: ours, dotted.
        kind: int, float, bool or str; what the value is read as.
        words: on what is different here.
    """
    return lambda value, _: Outcome({key: read_as(kind, value)}, words)


def renamed(key: str, names: Mapping[str, Any], words: str = "") -> Rule:
    """A choice whose names differ; one that is not among ``names`` has no counterpart."""

    def rule(value: Any, _: Mapping[str, Any]) -> Outcome:
        name = str(value).lower()
        if name not in names:
            return Outcome({}, f"known here are {', '.join(names)}")
        return Outcome({key: names[name]}, words)

    return rule


def nothing(words: str = "") -> Rule:
    """Say that a setting has no counterpart, and why."""
    return lambda _value, _all: Outcome({}, words)


def read_as(kind: type, value: Any) -> Any:
    """A value of their file as a number, a switch or text.

    Raises:
        ConfigError: it is none.
    """
    if kind is bool:
        return value if isinstance(value, bool) else str(value).strip().lower() in ("1", "true", "yes")
    try:
        return kind(float(value)) if kind is int else kind(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"'{value}' is no {'whole number' if kind is int else 'number'}.") from error


def settle(
    given: Mapping[str, Any], rules: Mapping[str, Rule], *, silent: Iterable[str] = ()
) -> tuple[dict[str, Any], list[Fate]]:
    """Settings of ours for settings of theirs, and what became of each key.

    Args:
        given: their keys and values.
        rules: for the keys that are known.
        silent: keys that say where things are written or how much is logged, and are passed over.

    Raises:
        ConfigError: a value that is not of its kind; names the key.
    """
    settings: dict[str, Any] = {}
    fates = []
    passed = set(silent)
    for key, value in given.items():
        if key in passed or value is None or value == "":
            continue
        try:
            outcome = rules[key](value, given) if key in rules else Outcome({}, "it is not known here")
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from error
        settings |= outcome.settings
        fates.append(Fate(key=key, value=_shown(value), became=shown_settings(outcome), words=outcome.words))
    return settings, fates


def shown_settings(outcome: Outcome) -> str:
    """Settings of an outcome as one line: ``train.optim.lr = 0.0001, train.steps = 10``."""
    return ", ".join(f"{ours} = {_shown(setting)}" for ours, setting in outcome.settings.items())


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
