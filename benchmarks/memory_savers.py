"""What gradient checkpointing and a quantised base save, and what they cost: ``python -m benchmarks.memory_savers``.

Bytes kept for the backward pass are those of the tensors that a forward pass makes and that outlive it.
"""

import importlib.util
import time
from pathlib import Path
from typing import Any

import torch

from detour.adapters.attach import Attached
from detour.bases.base import Base, open_base
from detour.bases.denoiser import Denoiser
from detour.bases.quantize import PACKAGES, chosen_linears, quantize_linears, saved_bytes, stored_bytes
from detour.bases.text import Conditioning
from detour.specs import load_run_spec
from detour.specs.resolved import ResolvedRun
from detour.training.assembly import attach_trainable, choose_targets, load_denoiser
from detour.training.batches import Batch
from detour.training.footprint import AllocatedBytes
from detour.training.resolving import resolve
from detour.training.step import batch_loss

MIB = 1 << 20
REPEATS = 7


def resolved(base: Base, **flags: Any) -> ResolvedRun:
    values = {"base.name": base.name, "train.batch": 1, "train.threads": 1, "adapter.rank": 4}
    values |= {
        "adapter.targets": "attn",
        "train.optim.lr": 1e-4,
        **{k.replace("__", "."): v for k, v in flags.items()},
    }
    return resolve(load_run_spec(flags=values), base, ["a"], name="x", device="cpu").spec


def random_batch(base: Base, num: int) -> Batch:
    size = base.native_size_px // base.latent_factor
    generator = torch.Generator().manual_seed(0)
    return Batch(
        latents=torch.randn(num, 4, size, size, generator=generator),
        noise=torch.randn(num, 4, size, size, generator=generator),
        times=torch.arange(num) * 100 + 50,
        text=Conditioning(torch.randn(num, 77, base.cross_attention_width, generator=generator)),
        pictures=tuple(range(num)),
    )


def assembled(base: Base, **flags: Any) -> tuple[Denoiser, Attached]:
    spec = resolved(base, **flags)
    denoiser = load_denoiser(base, spec)
    return denoiser, attach_trainable(denoiser, choose_targets(denoiser.network, base, spec).layers, spec)


def kept(denoiser: Denoiser, batch: Batch) -> int:
    with AllocatedBytes() as made:
        loss = batch_loss(denoiser, batch)
    assert loss.requires_grad
    return made.current


def step_seconds(denoiser: Denoiser, attached: Attached, batch: Batch) -> float:
    begun = time.perf_counter()
    batch_loss(denoiser, batch).backward()
    for parameter in attached.parameters():
        parameter.grad = None
    return time.perf_counter() - begun


def checkpointing() -> None:
    base = open_base("pocket")
    batch = random_batch(base, 8)
    plain, saving = assembled(base), assembled(base, train__gradient_checkpointing=True)
    a, b = kept(plain[0], batch), kept(saving[0], batch)
    print(
        f"pocket, batch 8, {plain[0].dtype}: kept for the backward pass {a / MIB:.1f} → {b / MIB:.1f} MiB ({b / a:.2f})"
    )
    ratios = []
    for _ in range(REPEATS):  # interleaved, because the machine's speed drifts
        first = step_seconds(*plain, batch)
        ratios.append(step_seconds(*saving, batch) / first)
    print(f"pocket, batch 8: a step takes {sorted(ratios)[REPEATS // 2]:.2f} times as long")


def quantised(kind: Any) -> None:
    base = open_base("pocket")
    exact: Any = base.load_network()
    small: Any = base.load_network()
    done = quantize_linears(small, kind, dtype=torch.float32, device="cpu")
    batch = random_batch(base, 8)
    with torch.no_grad():
        a, b = (unet(batch.latents, batch.times, batch.text.states)[0] for unet in (exact, small))
    error = float((a - b).norm() / a.norm())
    print(
        f"pocket, {kind}: {done.layers} layers, {done.bytes_before / MIB:.1f} → {done.bytes_after / MIB:.1f} MiB "
        f"(from fp32), the UNet's answer moves by {error:.4f} of its size"
    )


def weights_at_true_shape(name: str) -> tuple[int, float, dict[str, float]]:
    """Quantised layers, their share of the weights, and MiB of all weights by precision, counted from shapes."""
    unet = open_base(name).meta_network()
    whole = stored_bytes(unet) // 2  # bf16
    linears = [unet.get_parameter(f"{path}.weight") for path in chosen_linears(unet)]
    numel = sum(weight.numel() for weight in linears)
    int8, nf4 = (whole - saved_bytes(unet, kind, torch.bfloat16) for kind in ("int8", "nf4"))
    sizes = {"bf16": whole / MIB, "int8": int8 / MIB, "nf4": nf4 / MIB}
    return len(linears), 2 * numel / whole, sizes


def show_weights(name: str) -> None:
    """Print :func:`weights_at_true_shape` of a base."""
    layers, share, sizes = weights_at_true_shape(name)
    listed = ", ".join(f"{precision} {size:.0f} MiB" for precision, size in sizes.items())
    print(f"{name}: {layers} layers hold {share:.0%} of the weights; {listed}")


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread; {Path(__file__).name}")
    for kind in PACKAGES:
        if importlib.util.find_spec(PACKAGES[kind]) is None:
            print(f"{kind}: left out, {PACKAGES[kind]} is not installed")
        else:
            quantised(kind)
    for name in ("sd15", "sdxl"):
        show_weights(name)
    checkpointing()


if __name__ == "__main__":
    main()
