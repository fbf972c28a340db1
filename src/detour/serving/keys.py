"""Client keys: random, stored as hashes, with scopes and a quota."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from detour.errors import ConfigError
from detour.files import read_text, write_with

Scope = Literal["draw", "review", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "detour_"


class KeyRecord(BaseModel):
    """Stored facts of a key, without the key itself.

    Attributes:
        id: by which jobs name their owner.
        name: for people.
        sha256: of the key, which has 256 random bits, so that no slow hash is needed.
        scopes: what it may do.
        per_day: pictures that it may ask for in a day; ``None``: any number.
        created: Unix time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    sha256: str
    scopes: tuple[Scope, ...]
    per_day: int | None = None
    created: float


@dataclass(frozen=True, kw_only=True)
class Client:
    """Client that a request comes from.

    Attributes:
        id: of its key, or ``local``.
        name: for people.
        scopes: what it may do.
        per_day: pictures that it may ask for in a day; ``None``: any number.
    """

    id: str
    name: str
    scopes: tuple[Scope, ...]
    per_day: int | None = None

    def may(self, scope: Scope) -> bool:
        """Whether the key has a scope; ``admin`` has all of them."""
        return scope in self.scopes or "admin" in self.scopes


LOCAL = Client(id="local", name="local", scopes=SCOPES)
"""Client of requests over loopback without a key."""


class _KeyFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    keys: tuple[KeyRecord, ...] = ()


class KeyRing:
    """Keys of one state folder; a running server notices added and removed ones."""

    def __init__(self, folder: Path) -> None:
        """Read the keys of a state folder.

        Raises:
            ConfigError: the file is damaged.
        """
        self.path = folder / "keys.json"
        self._seen: tuple[int, int] | None = None
        self._records: tuple[KeyRecord, ...] = ()
        self._read()

    @property
    def records(self) -> tuple[KeyRecord, ...]:
        """List the records of all keys, the oldest first."""
        if self._mark() != self._seen:
            self._read()
        return self._records

    def find(self, key: str) -> Client | None:
        """Client of a key, or ``None``."""
        digest = _hash(key)
        found = [one for one in self.records if secrets.compare_digest(one.sha256, digest)]
        return _client_of(found[0]) if found else None

    def by_id(self, id_: str) -> Client | None:
        """Client of the key with this id; ``None``: the key was removed."""
        return next((_client_of(one) for one in self.records if one.id == id_), None)

    def add(self, name: str, *, scopes: tuple[Scope, ...] = ("draw",), per_day: int | None = None) -> str:
        """Make a key, which is returned this once and never stored.

        Raises:
            ConfigError: the name is taken, or empty.
            StorageError: it cannot be written.
        """
        if not name.strip() or len(name) > 100 or not name.isprintable():
            raise ConfigError("a key needs a name of 1 to 100 printable characters.")
        if any(record.name == name for record in self.records):
            raise ConfigError(f"there is a key '{name}'. Choose another name, or remove it first.")
        key = PREFIX + secrets.token_urlsafe(32)
        record = KeyRecord(
            id=secrets.token_hex(8),
            name=name,
            sha256=_hash(key),
            scopes=tuple(dict.fromkeys(scopes)),
            per_day=per_day,
            created=time.time(),
        )
        self._write((*self.records, record))
        return key

    def remove(self, name: str) -> None:
        """Remove a key; the next request with it is refused.

        Raises:
            ConfigError: there is none of that name.
        """
        left = tuple(record for record in self.records if record.name != name)
        if len(left) == len(self.records):
            raise ConfigError(
                f"there is no key '{name}' in {self.path}. List the keys with 'detour serve key list'."
            )
        self._write(left)

    def _write(self, records: tuple[KeyRecord, ...]) -> None:
        text = _KeyFile(keys=records).model_dump_json(indent=2) + "\n"
        write_with(self.path, lambda temporary: _fill(temporary, text), mode=0o600)
        self._read()

    def _mark(self) -> tuple[int, int] | None:
        try:
            facts = self.path.stat()
        except OSError:
            return None
        return facts.st_mtime_ns, facts.st_ino

    def _read(self) -> None:
        mark = self._mark()
        if mark is None:
            self._seen, self._records = None, ()
            return
        text = read_text(self.path, max_bytes=10 << 20, error=ConfigError)
        try:
            self._records = _KeyFile.model_validate_json(text).keys
        except ValidationError as error:
            raise ConfigError(f"{self.path}: damaged ({error.errors()[0]['msg']}). Restore it.") from error
        self._seen = mark


def _client_of(record: KeyRecord) -> Client:
    return Client(id=record.id, name=record.name, scopes=record.scopes, per_day=record.per_day)


def _fill(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
