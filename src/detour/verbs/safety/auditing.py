"""The log of a server's decisions: read, and held against the hashes that chain its entries."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from detour.safety.audit import check_entries, read_entries

DATABASE = "jobs.sqlite"


class SafetyLog(BaseModel):
    """A log whose chain was found whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entries: tuple[dict[str, Any], ...]
    """Number, Unix time, kind and facts of each entry, the oldest first."""
    head: str
    """Hash of the last entry; kept elsewhere, it shows later whether the end of the log was cut off."""

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)


def check_safety_log(state: Path, *, head: str | None = None) -> SafetyLog:
    """Read the log of a server's state folder and check that no entry was changed, removed or inserted.

    Args:
        state: folder of ``detour serve``; the server may be running.
        head: hash of the last entry at an earlier time, as this function returned it then.

    Raises:
        ConfigError: no such folder, or no log in it.
        LogBroken: names the first entry that does not follow from the one before it, or says that ``head`` is gone.
        StorageError: the file cannot be read.
    """
    path = state / DATABASE
    entries = read_entries(path)
    found = check_entries(entries, head=head, where=str(path))
    return SafetyLog(entries=tuple(one.facts for one in entries), head=found)
