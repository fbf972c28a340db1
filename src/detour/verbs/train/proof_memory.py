"""In which precision a run is proved: fp32, unless the GPU's memory is too small for a second base in it."""

import torch

from detour.bases.base import Base
from detour.bases.hardware import torch_dtype
from detour.evaluation.proof_pictures import proof_batch
from detour.specs import RunSpec
from detour.specs.sources import with_changes
from detour.training.footprint import CUDA_CONTEXT_BYTES, Footprint, proving_footprint
from detour.training.resolving import training_dtype

USABLE = 0.92
"""Share of a GPU's memory that can be used; the rest is lost between blocks of the allocator."""


def proof_footprint(base: Base, spec: RunSpec, dtype: str) -> Footprint:
    """Memory of the proof in ``dtype``; an ``auto`` resolution is the base's own."""
    side = base.native_size_px if spec.data.resolution == "auto" else spec.data.resolution
    return proving_footprint(
        base,
        side_px=side,
        dtype=torch_dtype(dtype),
        pictures=proof_batch(with_changes(spec, {"data.resolution": side})),
    )


def with_proof_dtype(spec: RunSpec, base: Base, device: str) -> tuple[RunSpec, tuple[str, ...]]:
    """The run with ``evaluate.dtype`` chosen where it matters, and a sentence when it is not fp32.

    Args:
        spec: as the user gave it.
        base: that is proved on.
        device: that the run uses; only a GPU's memory is looked at.
    """
    if spec.evaluate.dtype != "auto" or not device.startswith("cuda"):
        return spec, ()
    memory = torch.cuda.get_device_properties(device).total_memory
    whole = proof_footprint(base, spec, "fp32").total + CUDA_CONTEXT_BYTES
    if whole <= USABLE * memory or spec.adapter.method == "full":
        return spec, ()
    half = training_dtype(device) if spec.base.dtype in ("auto", "fp32") else spec.base.dtype
    note = (
        f"The proof is drawn in {half}: in fp32 it takes {whole / 2**30:.1f} GiB and the GPU has "
        f"{memory / 2**30:.1f}. Differences below the measured noise floor are not seen in it."
    )
    return with_changes(spec, {"evaluate.dtype": half}), (note,)
