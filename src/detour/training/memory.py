"""Running out of memory, said in one line with what the step needs and the setting that helps."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from detour.errors import DetourError, RunError
from detour.specs.resolved import ResolvedRun
from detour.specs.sources import with_changes
from detour.training.footprint import Footprint, training_footprint

if TYPE_CHECKING:
    from detour.bases.base import Base


@contextmanager
def memory_errors_explained(spec: ResolvedRun, base: "Base") -> Iterator[None]:
    """Turn the allocators' errors into one line that says what ``detour plan`` says of this run.

    Raises:
        RunError: the block ran out of memory.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _explained(spec, base) from error
    except RuntimeError as error:
        # The CPU allocator has no error class of its own (torch 2.13).
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise _explained(spec, base) from error
        raise


def _explained(spec: ResolvedRun, base: "Base") -> DetourError:
    batch = spec.train.batch
    needed = _predicted(spec, base)
    takes = f", whose step takes {_gib(needed)} GiB ({_parts(needed)})" if needed else ""
    for changes, flags in _proposals(spec):
        smaller = _predicted(with_changes(spec, changes), base)
        if needed and smaller and smaller.total < 0.97 * needed.total:
            return RunError(
                f"out of memory at batch {batch}{takes}. Try {flags}: {_gib(smaller)} GiB. See detour plan."
            )
    return RunError(
        f"out of memory at batch {batch}{takes}. Try a smaller --resolution or fewer targets (--targets cross-attn)."
    )


def _proposals(spec: ResolvedRun) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Changes and how they are typed; those that train the same come first."""
    batch, accumulated = spec.train.batch, spec.train.grad_accum
    if batch > 1 and batch % 2 == 0:
        half = {"train.batch": batch // 2, "train.grad_accum": 2 * accumulated}
        yield half, f"--batch {batch // 2} --grad-accum {2 * accumulated}, which trains the same"
    if not spec.train.gradient_checkpointing:
        flag = "--set train.gradient_checkpointing=true"
        yield {"train.gradient_checkpointing": True}, f"{flag}, which trains the same and takes longer"
    if spec.base.dtype == "fp32":
        yield {"base.dtype": "bf16"}, "--dtype bf16"
    if spec.base.quantize == "none" and spec.adapter.method == "lora":
        yield {"base.quantize": "nf4"}, "--set base.quantize=nf4"
    if batch > 1:
        yield {"train.batch": 1}, "--batch 1"


def _predicted(spec: ResolvedRun, base: "Base") -> Footprint | None:
    """Predict the memory, without a figure rather than with a second error: what is explained has happened already."""
    try:
        return training_footprint(base, spec)
    except (RuntimeError, MemoryError, ValueError, DetourError):
        return None


def _parts(footprint: Footprint) -> str:
    largest = sorted(footprint.parts.items(), key=lambda item: -item[1])[:2]
    return ", ".join(f"{name} {size / 2**30:.2g}" for name, size in largest)


def _gib(footprint: Footprint) -> str:
    return f"{footprint.total / 2**30:.3g}"
