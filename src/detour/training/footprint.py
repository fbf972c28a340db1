"""How much memory a run will take, found by running its stages on tensors that have shapes and no storage.

The real code runs: the base's own architecture, the attached adapter, the loss, the backward pass. Every storage that
an operator makes is counted while it lives. What stays invisible is scratch memory inside kernels and what the
allocator keeps; figures against measured peaks are in docs/training.md.
"""

import contextlib
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from detour.bases import parts
from detour.bases.denoiser import Denoiser, make_denoiser
from detour.bases.hardware import torch_dtype
from detour.bases.latents import encode_pictures, pictures_in_pass
from detour.bases.quantize import saved_bytes
from detour.bases.text import Conditioning
from detour.training.assembly import attach_trainable, choose_targets
from detour.training.batches import Batch
from detour.training.cache import ENCODE_BATCH
from detour.training.optimizers import OPTIMIZERS
from detour.training.step import batch_loss
from detour.training.text_adapter import trains_text

if TYPE_CHECKING:
    from detour.bases.base import Base
    from detour.specs.resolved import ResolvedRun

CUDA_CONTEXT_BYTES = 600 << 20
"""Assumed, not measured: what a CUDA context, its libraries and the allocator's rounding take on a GPU."""

ALLOCATOR_SHARE = 0.3
"""What malloc and the kernels' scratch memory add to the activations on a CPU; the slow test holds it."""


@dataclass(frozen=True)
class Footprint:
    """Memory of one stage by part, bytes.

    Attributes:
        stage: what the run does then.
        parts: "weights", "adapter", "optimizer", "activations" …, those that live at the stage's peak.
    """

    stage: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def on_cpu(self) -> "Footprint":
        """With what the allocator of a CPU adds."""
        return Footprint(
            self.stage, {**self.parts, "allocator": int(ALLOCATOR_SHARE * self.parts.get("activations", 0))}
        )


class AllocatedBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operators make, while they live.

    Attributes:
        current: bytes alive now.
        peak: the most that were alive at once since the last :meth:`reset`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._sizes: dict[int, int] = {}

    def reset(self) -> None:
        self.peak = self.current

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.current += self._sizes[key]
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.current -= self._sizes.pop(key)


def training_footprint(base: "Base", spec: "ResolvedRun") -> Footprint:
    """Memory of a training step of a resolved run: one micro-batch, forward and backward."""
    dtype = torch_dtype(spec.base.dtype)
    network = base.meta_network()
    saved = 0
    if spec.base.quantize != "none":
        saved = saved_bytes(network, spec.base.quantize, dtype)
    targets = choose_targets(network, base, spec)
    denoiser = make_denoiser(base, network, device="cpu", dtype=dtype, autocast=True)
    attached = attach_trainable(denoiser, targets.layers, spec)
    if spec.train.gradient_checkpointing:
        network.enable_gradient_checkpointing()  # type: ignore[operator]
    adapter = sum(4 * p.numel() for p in attached.parameters())
    start = sum(4 * t.numel() for layer in attached.trainable_layers for t in layer.constants.values())
    with _shapes_only() as bytes_:
        _fill(network, dtype)
        for layer in attached.trainable_layers:
            layer.factors = {name: nn.Parameter(torch.empty(p.shape)) for name, p in layer.factors.items()}
            layer.constants = {name: torch.empty(t.shape) for name, t in layer.constants.items()}
        for parameter in attached.parameters():
            parameter.grad = torch.zeros_like(parameter)
        weights = bytes_.current - 2 * adapter - start
        batch = _batch(base, denoiser, num=spec.train.batch, side_px=spec.data.resolution)
        bytes_.reset()
        standing = bytes_.current
        batch_loss(denoiser, batch).backward()
        activations = bytes_.peak - standing
    kept = {
        "weights": weights - saved,
        "adapter": adapter,
        "start": start,
        "gradients": adapter,
        "optimizer": int(OPTIMIZERS[spec.train.optim.name].state * adapter),
        "average": adapter if spec.train.ema else 0,
        "text encoders": _trained_text_bytes(base, spec),
        "activations": activations,
    }
    return Footprint("training", {name: size for name, size in kept.items() if size})


def encoding_footprint(base: "Base", spec: "ResolvedRun") -> Footprint:
    """Memory of turning pictures into latents, before the network is loaded."""
    vae = parts.empty_part("vae", base.config("vae"))
    side = spec.data.resolution
    with _shapes_only() as bytes_:
        _fill(vae, torch.float32)
        weights = bytes_.current
        pixels = torch.empty(ENCODE_BATCH, 3, side, side)
        bytes_.reset()
        encode_pictures(vae, pixels)
        return Footprint("encoding pictures", {"weights": weights, "activations": bytes_.peak - weights})


def text_footprint(base: "Base", *, t5_bits: int = 32) -> Footprint:
    """Memory of the text encoders, which are loaded after the VAE and released before the network.

    Args:
        base: shapes are enough.
        t5_bits: of each of T5's numbers; CLIP's encoders stand in fp32.
    """
    models = {part: parts.empty_part(part, base.config(part)) for part in base.text_parts}
    sizes = {part: sum(p.numel() for p in model.parameters()) for part, model in models.items()}
    weights = sum(n * (t5_bits // 8 if part == base.family.t5_part else 4) for part, n in sizes.items())
    return Footprint("encoding captions", {"weights": weights})


def drawing_footprint(base: "Base", spec: "ResolvedRun", training: Footprint, *, pictures: int) -> Footprint:
    """Memory of drawing ``pictures`` at a time beside the training state: the VAE's decoder is the largest part."""
    vae = parts.empty_part("vae", base.config("vae"))
    weights, activations = _decoding(vae, base, spec.data.resolution, pictures)
    kept = {name: size for name, size in training.parts.items() if name != "activations"}
    return Footprint("drawing samples", {**kept, "decoder": weights, "activations": activations})


def proving_footprint(base: "Base", *, side_px: int, dtype: torch.dtype, pictures: int) -> Footprint:
    """Predict the memory of the proof: a fresh base draws ``pictures`` at a time, guidance on.

    Args:
        base: that is proved on.
        side_px: of the pictures.
        dtype: of the base.
        pictures: in one forward pass.
    """
    network = base.meta_network()
    vae = parts.empty_part("vae", base.config("vae"))
    decoder, decoding = _decoding(vae, base, side_px, pictures, dtype)
    with _shapes_only() as bytes_:
        _fill(network, dtype)
        weights = bytes_.current
        denoiser = make_denoiser(base, network, device="cpu", dtype=dtype, autocast=True)
        batch = _batch(base, denoiser, num=2 * pictures, side_px=side_px)
        bytes_.reset()
        standing = bytes_.current
        with torch.no_grad():
            denoiser.predict(batch.latents, batch.times, batch.text)
        activations = bytes_.peak - standing
    text = text_footprint(base).total * dtype.itemsize // 4
    return Footprint(
        "proving",
        {
            "weights": weights,
            "decoder": decoder,
            "text encoders": text,
            "activations": max(activations, decoding),
        },
    )


def process_bytes() -> int:
    """Memory of this process now: interpreter and libraries, before any model is loaded."""
    import resource
    import sys

    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    except (OSError, ValueError, IndexError):  # no procfs: the most that was ever used
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _trained_text_bytes(base: "Base", spec: "ResolvedRun") -> int:
    """Text encoders that stay loaded because they train: weights, and what one micro-batch of captions keeps."""
    if not trains_text(spec):
        return 0
    total = 0
    for part in base.text_parts:
        model = parts.empty_part(part, base.config(part))
        with _shapes_only() as bytes_:
            _fill(model.requires_grad_(True), torch.float32)
            is_t5 = part == base.family.t5_part
            ids = torch.zeros(
                spec.train.batch, base.family.t5_tokens if is_t5 else base.clip_tokens(part), dtype=torch.long
            )
            model(ids, output_hidden_states=True)[0].sum()
            total += bytes_.peak
    return total


def _decoding(
    vae: nn.Module, base: "Base", size: int, batch: int, dtype: torch.dtype = torch.float32
) -> tuple[int, int]:
    """Weights and activations of the VAE that decodes up to ``batch`` pictures of ``size`` px, bytes."""
    side = size // base.latent_factor
    if base.family.vae_overflows_in_fp16 and dtype == torch.float16:
        dtype = torch.float32
    with _shapes_only() as bytes_:
        _fill(vae, dtype)
        weights = bytes_.current
        shape = (min(batch, pictures_in_pass(size, size)), base.latent_channels, side, side)
        latents = torch.empty(shape, dtype=dtype)
        bytes_.reset()
        with torch.no_grad():
            vae.decode(latents)  # type: ignore[operator]
        return weights, bytes_.peak - weights


@contextlib.contextmanager
def _shapes_only() -> Iterator[AllocatedBytes]:
    """Give tensors a device, a dtype and a shape inside the block, and no storage; so matrix products take no time."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), AllocatedBytes() as bytes_:
        yield bytes_


def _fill(model: nn.Module, dtype: torch.dtype) -> None:
    """Give a model of the meta device tensors of the mode, trained ones in float32, all others in ``dtype``."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                kind = torch.float32 if parameter.requires_grad else dtype
                values = torch.empty(parameter.shape, dtype=kind)
                module._parameters[name] = nn.Parameter(values, requires_grad=parameter.requires_grad)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                kind = (
                    dtype if buffer.is_floating_point() else buffer.dtype
                )  # positions of SD 3: 0.8 GiB in fp32
                module._buffers[name] = torch.empty(buffer.shape, dtype=kind)


def _batch(base: "Base", denoiser: Denoiser, *, num: int, side_px: int) -> Batch:
    side = side_px // base.latent_factor
    latents = torch.empty(num, base.latent_channels, side, side)
    pooled = None
    if base.family.reads_sizes:
        pooled = torch.empty(num, int(base.config("text_encoder_2")["projection_dim"]))
    elif base.joint_text is not None:
        pooled = torch.empty(num, int(base.network_config["pooled_projection_dim"]))
    return Batch(
        latents=latents,
        noise=torch.empty_like(latents),
        times=denoiser.process.times([denoiser.process.span[0]] * num),
        text=Conditioning(torch.empty(num, base.text_length, base.cross_attention_width), pooled),
        pictures=tuple(range(num)),
    )
