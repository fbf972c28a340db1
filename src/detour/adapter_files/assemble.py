"""From the tensors that a file holds for one layer to a checked layer, the same for every format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from detour.adapter_files.limits import Limits
from detour.adapter_files.unread import Unread
from detour.adapters.layers import DoraLayer, Layer, LoraLayer
from detour.adapters.lycoris_layers import LohaLayer, LokrLayer
from detour.errors import AdapterError, ShapeMismatch

Place = tuple[str | None, str | None]
"""Layer key and what the tensor is in it ("down", "hada_w1_a", "magnitude", …), each None where unknown."""

LORA = ("down", "up", "mid")
LOHA = tuple(f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2"))
LOKR = tuple(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))
MAGNITUDE = "magnitude"


@dataclass
class Factors:
    """What was found for one layer so far."""

    found: dict[str, Tensor] = field(default_factory=dict)
    alpha: float | None = None
    config_rank: int | None = None
    """PEFT's r: it scales two whole LoKr matrices by alpha / r, where LyCORIS, which has no config, does by 1."""
    spoiled: bool = False

    def has(self, name: str) -> bool:
        """Whether this part was put already."""
        return self.alpha is not None if name == "alpha" else name in self.found

    def put(self, name: str, tensor: Tensor, *, where: str) -> None:
        """Keep a tensor as float32; ``alpha`` becomes a number. On the meta device only its shape is looked at.

        Raises:
            AdapterError: an alpha that is not one number, a factor of whole numbers, NaN or infinity.
        """
        if name == "alpha":
            if tensor.numel() != 1:
                raise AdapterError(f"{where} has {tensor.numel()} numbers, expected one. Use another file.")
        elif not tensor.is_floating_point():
            raise AdapterError(f"{where} holds whole numbers where factors are expected.")
        tensor = tensor.float()
        if not tensor.is_meta and not bool(torch.isfinite(tensor).all()):
            raise AdapterError(f"{where} holds NaN or infinity. The adapter is broken; use another one.")
        if name == "alpha":
            self.alpha = float(tensor)
        else:
            self.found[name] = tensor

    @property
    def rank(self) -> int | None:
        """Read the rank off the first factor that tells it; ``None`` where there is none."""
        for name in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
            if name in self.found and self.found[name].ndim > 0:
                return int(self.found[name].shape[0])
        return None


def gather(
    tensors: Mapping[str, Tensor],
    parse: Callable[[str], Place],
    unknown: Callable[[str, str], AdapterError],
    unread: Unread,
) -> dict[str, Factors]:
    """Group tensors by layer. One that cannot be read spoils its whole layer: the rest would be another change.

    Raises:
        AdapterError: a name that is not known, one that stands there under two namings, or bad values.
    """
    factors: dict[str, Factors] = {}
    for name, tensor in sorted(tensors.items()):  # the same file gives the same message
        key, part = parse(name)
        mine = Factors() if key is None else factors.setdefault(key, Factors())
        try:
            if key is None or part is None:
                raise unknown(name, unread.where)
            if mine.has(part):
                raise AdapterError(f"{unread.where}: '{key}' stands there twice, under different names.")
            mine.put(part, tensor, where=f"{unread.where}: '{name}'")
        except AdapterError as error:
            unread.refuse(error)
            mine.spoiled = True
    return factors


def layers_from(factors: Mapping[str, Factors], limits: Limits, unread: Unread) -> dict[str, Layer]:
    """The layers of all groups that are whole.

    Raises:
        AdapterError: as :func:`layer_from` does.
    """
    layers: dict[str, Layer] = {}
    for key, parts in factors.items():
        where = f"{unread.where}: '{key}'"
        try:
            if parts.spoiled:
                raise AdapterError(f"{where} is left out whole, because a part of it is.")
            layers[key] = layer_from(parts, limits, where=where)
        except AdapterError as error:
            unread.refuse(error)
    return layers


def layer_from(parts: Factors, limits: Limits, *, where: str) -> Layer:
    """Check and join the parts; a missing alpha means scale 1.

    CP form (a ``mid`` between two 1×1 convolutions) is folded into ``down``, exactly.

    Raises:
        AdapterError: a part is missing, of no use, too large, or the factors do not fit.
    """
    try:
        change = _change(parts, limits)
        if MAGNITUDE not in parts.found:
            return change
        return DoraLayer(change=change, magnitude=_per_output(parts.found[MAGNITUDE], change))
    except (AdapterError, RuntimeError, IndexError) as error:
        raise AdapterError(f"{where} {error}" if _is_clause(error) else f"{where}: {error}") from error


class _Clause(AdapterError):
    """A message that goes on after the layer's name."""


def _is_clause(error: Exception) -> bool:
    return isinstance(error, _Clause)


def _change(parts: Factors, limits: Limits) -> Layer:
    kinds = {kind for kind in (LORA, LOHA, LOKR) if any(name in parts.found for name in kind)}
    if len(kinds) > 1:
        raise _Clause("mixes factors of several algorithms. Use another file.")
    kind = next(iter(kinds), LORA)
    for tensor in parts.found.values():
        if tensor.ndim == 5:
            raise _Clause("is a 3-D convolution, as video models have; none of these families has one.")
        if tensor.ndim not in (1, 2, 4):
            raise ShapeMismatch(f"a tensor of shape {tuple(tensor.shape)} is no factor.")
    if parts.rank is not None and parts.rank > limits.max_rank:
        raise _Clause(f"has rank {parts.rank:,}, the limit is {limits.max_rank:,}.")
    made = {LORA: _lora, LOHA: _loha, LOKR: _lokr}[kind](parts, limits)
    _require_size(made, limits)
    return made


def _lora(parts: Factors, limits: Limits) -> Layer:
    down, up, mid = (parts.found.get(name) for name in LORA)
    if down is None or up is None:
        missing = "down" if down is None else "up"
        raise _Clause(f"has no {missing} factor. The file is not whole; fetch it again.")
    alpha = float(down.shape[0]) if parts.alpha is None else parts.alpha
    if mid is not None:
        down = _fold(down, mid, limits)
    if down.ndim == 4 and up.ndim == 2:  # LyCORIS' DyLoRA keeps it flat
        up = up[:, :, None, None]
    return LoraLayer(down=down, up=up, alpha=alpha)


def _loha(parts: Factors, limits: Limits) -> Layer:  # noqa: ARG001
    for name in LOHA[:4]:
        if name not in parts.found:
            raise _Clause(f"has no {name}. The file is not whole; fetch it again.")
    factors = {name.removeprefix("hada_"): parts.found[name] for name in LOHA if name in parts.found}
    rank = parts.rank
    assert rank is not None
    return LohaLayer(alpha=float(rank) if parts.alpha is None else parts.alpha, **factors)


def _lokr(parts: Factors, limits: Limits) -> Layer:  # noqa: ARG001
    factors = {name.removeprefix("lokr_"): parts.found[name] for name in LOKR if name in parts.found}
    made = LokrLayer(alpha=1.0, **factors)
    if not made.is_whole:
        alpha = float(made.rank) if parts.alpha is None else parts.alpha
    elif parts.alpha is None or parts.config_rank is None:
        alpha = float(made.rank)
    else:
        alpha = parts.alpha / parts.config_rank * made.rank
    return LokrLayer(alpha=alpha, **factors)


def _per_output(magnitude: Tensor, change: Layer) -> Tensor:
    """(out,), (out, 1) or (out, 1, 1, 1) → (out,)."""
    shape, out = tuple(magnitude.shape), change.out_features
    if shape == (out,) or (shape[0] == out and magnitude.numel() == out):
        return magnitude.reshape(out)
    if shape[0] == 1:
        raise _Clause(
            f"is a DoRA with a magnitude for each of {magnitude.numel()} inputs; here and in PEFT there is one for "
            "each output. Use a file that was trained with wd_on_out."
        )
    raise _Clause(f"has magnitudes of shape {shape} for {out} outputs. Use another file.")


def _require_size(layer: Layer, limits: Limits) -> None:
    """A few bytes of factors can stand for a change of any size."""
    height, width = layer.kernel
    size = layer.in_features * layer.out_features * height * width
    if size > limits.max_change_elements:
        raise _Clause(
            f"changes a weight of {size:,} numbers, the limit is {limits.max_change_elements:,}. It is no adapter."
        )


def _fold(down: Tensor, mid: Tensor, limits: Limits) -> Tensor:
    """``mid`` (rank, rank, kh, kw) after ``down`` (rank, in, 1, 1) as one (rank, in, kh, kw)."""
    if mid.ndim != 4 or mid.shape[0] > limits.max_rank or down.ndim < 2:
        raise ShapeMismatch(
            f"factors of shape {tuple(down.shape)} (down) and {tuple(mid.shape)} (mid) do not fit."
        )
    if mid.shape[0] * mid.shape[2] * mid.shape[3] * down[0].numel() > limits.max_change_elements:
        raise _Clause(f"folds to more than {limits.max_change_elements:,} numbers. It is no adapter.")
    return torch.einsum("srhw,ri->sihw", mid, down.flatten(1)).contiguous()
