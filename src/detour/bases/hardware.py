"""Where the work runs and in which precision."""

import torch

from detour.errors import ConfigError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(device: str = "auto") -> str:
    """``auto`` becomes cuda, then mps, then cpu, by what is there; a named device must be there.

    Raises:
        ConfigError: the named device is not usable with the installed torch.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, usable in there.items() if usable)
    kind = device.partition(":")[0]
    if kind not in there:
        raise ConfigError(f"device '{device}' is not known. Choose cuda, mps, cpu or auto.")
    if not there[kind]:
        raise ConfigError(
            f"device '{device}' is not usable here (torch {torch.__version__}). Choose cpu, or install a "
            "torch build for it."
        )
    return device


def torch_dtype(name: str) -> torch.dtype:
    """``"bf16"`` → ``torch.bfloat16``.

    Raises:
        ConfigError: the name is not fp32, bf16 or fp16.
    """
    if name not in DTYPES:
        raise ConfigError(f"dtype '{name}' is not known. Choose fp32, bf16 or fp16.")
    return DTYPES[name]


def drawing_dtype(name: str, device: str) -> str:
    """Precision for drawing: ``auto`` is fp16 on cuda and fp32 elsewhere (CPUs are slow in fp16)."""
    if name != "auto":
        return name
    return "fp16" if device.startswith("cuda") else "fp32"


def t5_dtype(device: str) -> torch.dtype:
    """Precision in which T5 reads captions for training: bf16 on a GPU that has it, where fp32 takes 18 GiB; else fp32.

    Drawing reads prompts in the precision of drawing, so nobody meets T5 in fp32 on a GPU afterwards either.
    """
    has_bf16 = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bf16 else torch.float32


def set_threads(threads: int | str = "auto") -> int:
    """Set the CPU threads of torch and return how many there are.

    Args:
        threads: a count, or ``auto`` for torch's own choice (the cores it may use, or ``OMP_NUM_THREADS``).
            The count belongs to the result: sums are split by it, so other counts round differently.
    """
    if threads != "auto":
        torch.set_num_threads(int(threads))
    return torch.get_num_threads()
