"""From the tensors that a file holds for one layer to a checked layer, the same for every format."""

from dataclasses import dataclass

import torch
from torch import Tensor

from detour.adapters.adapter import LoraLayer
from detour.errors import AdapterError


@dataclass
class Factors:
    """What was found for one layer so far."""

    down: Tensor | None = None
    up: Tensor | None = None
    mid: Tensor | None = None
    alpha: float | None = None

    def has(self, name: str) -> bool:
        """Whether this part was put already."""
        return getattr(self, name) is not None

    def put(self, name: str, tensor: Tensor, *, where: str) -> None:
        """Keep a tensor; ``alpha`` becomes a number.

        Raises:
            AdapterError: an alpha that is not one number.
        """
        if name != "alpha":
            setattr(self, name, tensor)
            return
        if tensor.numel() != 1:
            raise AdapterError(
                f"{where}: an alpha has {tensor.numel()} numbers, expected one. Use another file."
            )
        self.alpha = float(tensor)


def layer_from(parts: Factors, *, where: str) -> LoraLayer:
    """Check and join the parts. CP form (a ``mid`` between two 1×1 convolutions) is folded into ``down``,
    exactly.

    Raises:
        AdapterError: a part is missing, of no use, or the factors do not fit; a missing alpha means scale 1.
    """
    if parts.down is None or parts.up is None:
        missing = "down" if parts.down is None else "up"
        raise AdapterError(f"{where} has no {missing} factor. The file is not whole; fetch it again.")
    down, up = parts.down, parts.up
    if not (down.is_floating_point() and up.is_floating_point()):
        raise AdapterError(f"{where} holds whole numbers where factors are expected.")
    down, up = down.float(), up.float()
    try:
        if parts.mid is not None:
            down = _fold(down, parts.mid.float())
        return LoraLayer(down=down, up=up, alpha=float(down.shape[0]) if parts.alpha is None else parts.alpha)
    except (AdapterError, RuntimeError, IndexError) as error:
        raise AdapterError(f"{where}: {error}") from error


def _fold(down: Tensor, mid: Tensor) -> Tensor:
    """``mid`` (rank, rank, kh, kw) after ``down`` (rank, in, 1, 1) as one (rank, in, kh, kw)."""
    return torch.einsum("srhw,ri->sihw", mid, down.flatten(1)).contiguous()
