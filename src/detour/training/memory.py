"""Running out of memory, said in one line with the setting that mends it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from detour.errors import DetourError, RunError
from detour.specs import TrainSpec


@contextmanager
def memory_errors_explained(spec: TrainSpec) -> Iterator[None]:
    """Turn the allocators' errors into one line.

    Raises:
        RunError: the block ran out of memory.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _explained(spec) from error
    except RuntimeError as error:
        # The CPU allocator has no error class of its own (torch 2.13).
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise _explained(spec) from error
        raise


def _explained(spec: TrainSpec) -> DetourError:
    batch = spec.batch
    if isinstance(batch, int) and batch > 1:
        half = batch // 2
        advice = (
            f"Try --batch {half} --grad-accum {spec.grad_accum * 2}, which trains the same, or a smaller --resolution."
            if batch % 2 == 0
            else f"Try --batch {half}, or a smaller --resolution."
        )
    else:
        again = "" if spec.gradient_checkpointing else "--set train.gradient_checkpointing=true, "
        advice = f"Try {again}a smaller --resolution, --dtype bf16, or fewer targets (--targets cross-attn)."
    return RunError(f"out of memory at batch {batch}. {advice}")
