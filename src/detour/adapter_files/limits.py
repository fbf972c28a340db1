"""How large an adapter file may be before it is refused unread: hostile headers cost seconds and memory."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Far above any honest adapter: all of SDXL at rank 64 is under 1 MiB of header and 800 MiB of fp32.

    Attributes:
        max_file_bytes: whole file.
        max_header_bytes: names, shapes and metadata; the worst of this size takes under a second to read.
        max_tensors: in one file.
        max_rank: of any layer.
        max_change_elements: numbers in one layer's dense change; SDXL's largest has 13 million, Flux's 66.
    """

    max_file_bytes: int = 4 << 30
    max_header_bytes: int = 6 << 20
    max_tensors: int = 16_384
    max_rank: int = 4_096
    max_change_elements: int = 1 << 28


DEFAULT_LIMITS = Limits()
