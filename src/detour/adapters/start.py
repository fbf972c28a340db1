"""How the factors of a fresh layer start: random ones as a function of (seed, layer), or taken from the base.

Every start but the base's own factors (PiSSA, OLoRA) has one factor at zero, so that it changes nothing; those
two are held against a frozen copy of themselves.
"""

import hashlib
import math

import torch
from torch import Tensor

from detour.adapter_methods import Start
from detour.errors import AdapterError


def draw(*shape: int, seed: int, key: str, factor: str, std: float = 1.0) -> Tensor:
    """N(0, std²) as a function of (seed, layer key, factor), float32 on the CPU."""
    return std * torch.randn(shape, generator=_generator(seed, key, factor))


def spread(*shape: int, seed: int, key: str, factor: str) -> Tensor:
    """Uniform within ±1/√fan_in, which is PEFT's Kaiming start; float32 on the CPU."""
    bound = 1.0 / math.sqrt(math.prod(shape[1:]))
    return (torch.rand(shape, generator=_generator(seed, key, factor)) * 2.0 - 1.0) * bound


def lora_down(shape: tuple[int, ...], *, init: Start, seed: int, key: str) -> Tensor:
    """``down`` of a LoRA or DoRA layer, (rank, in) or (rank, in, kh, kw); ``up`` starts at zero.

    Args:
        shape: of the factor.
        init: "kaiming": uniform within ±1/√fan_in; "gaussian": N(0, (1/rank)²).
        seed: of the run.
        key: of the layer.
    """
    if init == "gaussian":
        return draw(*shape, seed=seed, key=key, factor="down") / shape[0]
    return spread(*shape, seed=seed, key=key, factor="down")


def loha_factors(out: int, inputs: int, *, rank: int, seed: int, key: str) -> dict[str, Tensor]:
    """The four factors of a LoHa layer; ``w2_a`` is zero.

    The widths are LyCORIS's (normal: 0.1, 1, 0, 1), so that rates published for it hold.

    Source: lycoris/modules/loha.py, ``HadaWeight`` start.
    """

    def normal(factor: str, std: float, *shape: int) -> Tensor:
        return draw(*shape, seed=seed, key=key, factor=factor, std=std)

    return {
        "w1_a": normal("w1_a", 0.1, out, rank),
        "w1_b": normal("w1_b", 1.0, rank, inputs),
        "w2_a": torch.zeros(out, rank),
        "w2_b": normal("w2_b", 1.0, rank, inputs),
    }


def lokr_factors(
    weight_shape: tuple[int, ...], *, rank: int, factor: int | None, seed: int, key: str
) -> dict[str, Tensor]:
    """The matrices of a LoKr layer: ``w1`` whole and spread, ``w2`` zero, in factors where the rank is small.

    ``w2`` is in factors when the rank is below half of its larger side, as in LyCORIS and PEFT.

    Args:
        weight_shape: (out, in) or (out, in, kh, kw) of the layer.
        rank: of the factors of ``w2``.
        factor: wanted size of ``w1``; None takes the divisors nearest to the square root.
        seed: of the run.
        key: of the layer.

    Source: lycoris/modules/lokr.py.
    """
    out, inputs, *kernel = weight_shape
    (out1, out2), (in1, in2) = split_size(out, factor), split_size(inputs, factor)
    factors = {"w1": spread(out1, in1, seed=seed, key=key, factor="w1")}
    if rank >= max(out2, in2) / 2:
        return {**factors, "w2": torch.zeros(out2, in2, *kernel)}
    factors["w2_a"] = spread(out2, rank, seed=seed, key=key, factor="w2_a")
    factors["w2_b"] = torch.zeros(rank, in2 * math.prod(kernel))
    return factors


def split_size(size: int, factor: int | None = None) -> tuple[int, int]:
    """Two whole numbers with product ``size``, the smaller one first unless ``factor`` divides ``size``.

    Args:
        size: of one side of a weight.
        factor: taken as the first number where it divides ``size``, else a bound of it; None: no bound, and the
            two are as near to each other as they can be.

    Source: lycoris/functional/general.py, ``factorization``; the same in PEFT.
    """
    if factor is not None and size % factor == 0:
        return factor, size // factor
    largest = min(math.isqrt(size), factor or size)
    first = next(number for number in range(largest, 0, -1) if size % number == 0)
    return first, size // first


def base_factors(weight: Tensor, *, rank: int, init: Start, scale: float, key: str) -> tuple[Tensor, Tensor]:
    """``down`` and ``up`` taken from a frozen weight; ``scale · up @ down`` is its largest part.

    PiSSA takes the largest singular directions, with the root of each singular value in both factors; OLoRA the
    first columns of a QR decomposition. Computed in float32 on the CPU: a resumed run makes them again and must
    get the same bits.

    Args:
        weight: (out, in) of a Linear layer; on the meta device, shapes come back alone.
        rank: at most the smaller side of ``weight``.
        init: "pissa" or "olora".
        scale: alpha / rank; PiSSA is divided by it, OLoRA is not, as in PEFT.
        key: of the layer, for the error.

    Returns:
        (rank, in) and (out, rank), float32.

    Raises:
        AdapterError: the rank is larger than the weight has.

    Source: Meng et al. 2024, arXiv:2404.02948, equations 2 to 4; Büyükakyüz 2024, arXiv:2406.01775, algorithm 1.
    """
    if rank > min(weight.shape):
        raise AdapterError(
            f"'{key}' has rank {min(weight.shape)}, so {init} cannot take {rank} directions from it. Lower --rank."
        )
    if weight.is_meta:
        out, inputs = weight.shape
        return torch.empty(rank, inputs, device="meta"), torch.empty(out, rank, device="meta")
    frozen = weight.detach().to("cpu", torch.float32)
    if init == "olora":
        q, r = torch.linalg.qr(frozen)
        return r[:rank].contiguous(), q[:, :rank].contiguous()
    u, s, v = torch.linalg.svd(frozen, full_matrices=False)
    roots = (s[:rank] / scale).sqrt()
    return (roots[:, None] * v[:rank]).contiguous(), (u[:, :rank] * roots).contiguous()


def _generator(seed: int, key: str, factor: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{key}/{factor}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
