"""What the header of a single-file checkpoint says: the name, shape and dtype of every tensor."""

from collections.abc import Mapping
from pathlib import Path

from detour.errors import BaseError
from detour.safetensors_header import EVERY_DTYPE, HeaderRules, Region, read_header

_RULES = HeaderRules(
    noun="base", error=BaseError, max_header_bytes=64 << 20, max_tensors=1 << 17, sizes=EVERY_DTYPE
)


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shape of every tensor from the header alone.

    Raises:
        BaseError: not a safetensors file.
    """
    return {name: region.shape for name, region in read_regions(path).items()}


def read_regions(path: Path) -> Mapping[str, Region]:
    """Read the place, shape and dtype of every tensor.

    Raises:
        BaseError: not a safetensors file.
    """
    try:
        return read_header(path, _RULES).regions
    except (OSError, BaseError) as error:
        cause = str(error).removeprefix(f"{path}: ").removesuffix(" Fetch it again.").rstrip(".")
        raise BaseError(f"{path.name}: not a readable safetensors file ({cause}). Fetch it again.") from error
