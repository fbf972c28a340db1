"""Names of bases: which are known without looking, and what is said of one that is nowhere. Imports nothing heavy."""

import re
from collections.abc import Mapping
from pathlib import Path

from detour.bases.embedded import EMBEDDED
from detour.errors import BaseError, nearest

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
SHAPES_ONLY: Mapping[str, tuple[str, str]] = {
    "sd15": ("stable-diffusion-v1-5", "sd1"),
    "sd21": ("stable-diffusion-2-1", "sd2"),
    "sdxl": ("stable-diffusion-xl-base-1.0", "sdxl"),
    "sd35-medium": ("stable-diffusion-3.5-medium", "sd3"),
    "sd35-large": ("stable-diffusion-3.5-large", "sd3"),
    "flux-dev": ("FLUX.1-dev", "flux"),
    "flux-schnell": ("FLUX.1-schnell", "flux"),
}
"""Names whose settings are shipped without weights → identity and family."""

NO_T5 = ":no-t5"
"""Behind the name of a base: its T5 is neither fetched nor loaded, where the family works without one (SD 3)."""

KNOWN = (*EMBEDDED, *SHAPES_ONLY)
"""The package's own bases, and those whose settings are shipped without weights."""


def split_name(name: str) -> tuple[str, str]:
    """What stands before and after the mark of a base without its T5: the place, and the mark or nothing."""
    if name.endswith(NO_T5) and not Path(name).expanduser().exists():
        return name.removesuffix(NO_T5), NO_T5
    return name, ""


def check_base_name(name: str) -> None:
    """Refuse a name that is no base's whatever is loaded: no file, no folder, no id.

    Raises:
        BaseError: names what was probably meant.
    """
    place, _ = split_name(name)
    if place in KNOWN or Path(place).expanduser().exists() or HUB_ID.match(place):
        return
    raise no_such_base(place)


def no_such_base(name: str) -> BaseError:
    """The error for a name that leads nowhere."""
    return BaseError(
        f"base '{name}' is no file or folder here, and no hub id (owner/name).{nearest(name, list(KNOWN))} Known "
        f"by name: {', '.join(KNOWN)}."
    )
