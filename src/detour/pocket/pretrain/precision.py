"""The precision of the pre-training: bfloat16 where the processor multiplies in it, float32 elsewhere.

A processor without bfloat16 instructions emulates them. Measured with torch 2.13 on an AVX2 core: matrix
products 45 GFLOP/s in float32 and 1.3 in bfloat16, convolutions 57 and 1.0.
"""

from __future__ import annotations

import functools

import torch


@functools.cache
def fast_dtype() -> torch.dtype:
    """bfloat16 if this processor has instructions for it (AVX512-BF16 or AMX), else float32."""
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def autocast() -> torch.autocast:
    """A context in which products are computed in :func:`fast_dtype`."""
    dtype = fast_dtype()
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)
