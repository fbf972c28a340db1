"""Proof before the first step: every adapter tensor gets a gradient, and no base tensor does.

At initialisation ``up`` is zero, so ``down`` has no gradient by arithmetic and a plain look would mislead. The proof
randomises all factors for one backward pass and puts them back, bit for bit.
"""

import hashlib
import math
import re
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detour.adapters.attach import Attached
from detour.errors import GradientProofFailed

SMALLEST_SHARE = 1e-6
"""Smallest share of the median gradient norm of a layer that learns. Dead layers show rounding noise: 1e-10 against a
median of 3e-2 was seen."""


@dataclass(frozen=True, kw_only=True)
class GradientReport:
    """What one backward pass reached.

    Attributes:
        adapter_tensors: factors that must get a gradient (those dead by structure are not among them).
        adapter_tensors_with_gradient: factors that got one above 1e-6 of the median.
        dead_by_structure: attached layer keys that can never get one in this family.
        base_tensors_with_gradient: 0, or the proof fails.
    """

    adapter_tensors: int
    adapter_tensors_with_gradient: int
    dead_by_structure: tuple[str, ...]
    base_tensors_with_gradient: int


def prove_gradients(
    model: nn.Module,
    attached: Attached,
    loss_fn: Callable[[], Tensor],
    *,
    dead_by_structure: Sequence[str] = (),
) -> GradientReport:
    """Run one backward pass with random factors and look at every gradient.

    Factors and ``.grad`` are as before afterwards, whatever happens.

    Args:
        model: the adapted model; its other parameters are the base.
        attached: the adapter in training.
        loss_fn: the training loss of one batch, a scalar; called once.
        dead_by_structure: regular expressions of whole layer keys that can get no gradient.

    Raises:
        GradientProofFailed: names the layers without a gradient, or the base tensors with one.
    """
    factors = attached.named_factors
    keys = list(dict.fromkeys(key for key, _ in factors))
    dead = tuple(key for key in keys if any(re.fullmatch(pattern, key) for pattern in dead_by_structure))
    own = {id(parameter) for parameter in attached.parameters()}
    base = {name: p for name, p in model.named_parameters() if id(p) not in own}
    with (
        _random_factors(factors if attached.starts_silent else {}),
        _fresh_gradients([*base.values(), *attached.parameters()]),
    ):
        loss = loss_fn()
        if not loss.requires_grad:
            raise GradientProofFailed(
                f"the loss depends on none of the {len(keys)} adapter layers, so nothing can be learned. "
                "With gradient checkpointing, its inputs must require gradients (or use_reentrant=False)."
            )
        loss.backward()  # not autograd.grad: re-entrant checkpointing supports backward() alone
        norms = {
            f"{key} ({name})": _norm(factor.grad)
            for (key, name), factor in factors.items()
            if key not in dead
        }
        touched = [name for name, parameter in base.items() if _norm(parameter.grad) != 0.0]
    _require_all_alive(norms)
    if touched:
        raise GradientProofFailed(
            f"{len(touched)} tensors of the frozen base get a gradient ({_some(touched)}). Freeze the base."
        )
    return GradientReport(
        adapter_tensors=len(norms),
        adapter_tensors_with_gradient=len(norms),
        dead_by_structure=dead,
        base_tensors_with_gradient=0,
    )


def hash_base(model: nn.Module, *, without: Collection[str] = ()) -> str:
    """Hex SHA-256 over names, dtypes, shapes and bytes of all tensors that are not an adapter's.

    The same with an adapter attached and without. Tensors named in ``without`` are left out.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if ".lora_" in name or name in without:
            continue
        plain = name.replace(".base_layer.", ".")
        for place, stored in _stored(plain, tensor):
            digest.update(f"{place}|{stored.dtype}|{tuple(stored.shape)}|".encode())
            flat = stored.detach().cpu().contiguous().reshape(-1)
            digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def _stored(name: str, tensor: Any) -> Iterator[tuple[str, Any]]:
    """The plain tensors that a tensor is made of: of a quantised one its integers and scales, else itself."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield name, tensor
        return
    for inner in tensor.__tensor_flatten__()[0]:
        yield from _stored(f"{name}.{inner}", getattr(tensor, inner))


def _require_all_alive(norms: Mapping[str, float]) -> None:
    if not norms:
        raise GradientProofFailed("every attached layer is dead by structure, so nothing can be learned.")
    unfinite = [name for name, norm in norms.items() if not math.isfinite(norm)]
    if unfinite:
        raise GradientProofFailed(
            f"the gradient of {len(unfinite)} of {len(norms)} adapter tensors is not finite: {_some(unfinite)}. "
            "Use fp32 or bf16 instead of fp16, or a lower alpha."
        )
    median = statistics.median(norms.values())
    lost = [name for name, norm in norms.items() if norm <= SMALLEST_SHARE * median]
    if lost:
        raise GradientProofFailed(
            f"{len(lost)} of {len(norms)} adapter tensors get no gradient: {_some(lost)}; median of all {median:.1e}. "
            "They would never change. Leave these layers out of the targets, or find what cuts them off "
            "(gradient checkpointing with inputs that require none is a usual cause)."
        )


@contextmanager
def _random_factors(factors: Mapping[tuple[str, str], nn.Parameter]) -> Iterator[None]:
    """Random numbers in place of the factors; seeded by layer, so that the proof is the same every time."""
    kept = [(factor, factor.detach().clone()) for factor in factors.values()]
    generators: dict[str, torch.Generator] = {}
    try:
        for (key, name), factor in factors.items():
            seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest(), "big")
            generator = generators.setdefault(key, torch.Generator().manual_seed(seed))
            factor.data.copy_(_random_factor(name, factor, generator))
        yield
    finally:
        for factor, before in kept:
            factor.data.copy_(before)


def _random_factor(name: str, factor: Tensor, generator: torch.Generator) -> Tensor:
    numbers = torch.randn(factor.shape, generator=generator)
    if name == "magnitude":  # sizes of the layer's outputs: others would drown what the layer does
        return factor.cpu() * (1.0 + 0.1 * numbers)
    size = math.prod(factor.shape[1:]) ** -0.5
    return numbers * (0.1 * size if name == "up" else size)


@contextmanager
def _fresh_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """No gradients inside; the same gradient tensors again afterwards (they may be views of one buffer)."""
    kept = [(parameter, parameter.grad) for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


def _norm(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.detach().float().norm())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
