"""Names of bases: which are known without looking, and what is said of one that is nowhere. Imports nothing heavy."""

import re
from pathlib import Path

from detour.errors import BaseError, nearest

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
KNOWN = ("pocket", "sd15", "sd21", "sdxl")
"""The embedded base, and those whose settings are shipped without weights."""


def check_base_name(name: str) -> None:
    """Refuse a name that is no base's whatever is loaded: no file, no folder, no id.

    Raises:
        BaseError: names what was probably meant.
    """
    if name in KNOWN or Path(name).expanduser().exists() or HUB_ID.match(name):
        return
    raise no_such_base(name)


def no_such_base(name: str) -> BaseError:
    """The error for a name that leads nowhere."""
    return BaseError(
        f"base '{name}' is no file or folder here, and no hub id (owner/name).{nearest(name, list(KNOWN))} Known "
        f"by name: {', '.join(KNOWN)}."
    )
