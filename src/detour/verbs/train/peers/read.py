"""Read a settings file of another trainer."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from detour.errors import ConfigError
from detour.files import read_text
from detour.specs.sources import MAX_CONFIG_BYTES
from detour.verbs.train.peers import ai_toolkit, diffusers_scripts, kohya
from detour.verbs.train.peers.fates import Fate

PeerName = Literal["kohya", "ai-toolkit", "diffusers"]
PEERS: tuple[PeerName, ...] = get_args(PeerName)


class PeerSettings(BaseModel):
    """Another trainer's settings as ours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    peer: PeerName
    settings: Mapping[str, Any]
    """Dotted key → value, as flags would give them."""
    fates: tuple[Fate, ...]
    """What became of each of their keys, in the file's order."""

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)


def read_peer(peer: PeerName, path: Path) -> PeerSettings:
    """Read a file of at most 1 MiB and say what each of its keys becomes.

    Args:
        peer: whose file it is.
        path: kohya: TOML of ``--config_file``; ai-toolkit: YAML; diffusers: a script's command line as text.

    Raises:
        ConfigError: not readable, not of that trainer, or a value that is not of its kind.
    """
    text = _text(path)
    try:
        if peer == "kohya":
            settings, fates = kohya.translate(tomllib.loads(text))
        elif peer == "ai-toolkit":
            settings, fates = ai_toolkit.translate(_yaml(text))
        else:
            settings, fates = diffusers_scripts.translate(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML ({error}).") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return PeerSettings(peer=peer, settings=settings, fates=tuple(fates))


def _text(path: Path) -> str:
    return read_text(path, max_bytes=MAX_CONFIG_BYTES, error=ConfigError)


def _yaml(text: str) -> Mapping[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"not valid YAML ({first}).") from error
    if not isinstance(found, Mapping):
        raise ConfigError("no settings in it.")
    return found
