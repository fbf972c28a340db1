"""How large an adapter file may be before it is refused unread: hostile headers cost seconds and memory."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Far above any honest adapter: all of SDXL at rank 64 is under 1 MiB of header and 800 MiB of fp32."""

    max_file_bytes: int = 4 << 30
    max_header_bytes: int = 16 << 20
    max_tensors: int = 16_384
    max_rank: int = 4_096


DEFAULT_LIMITS = Limits()
