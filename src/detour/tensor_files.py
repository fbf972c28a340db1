"""Write tensors as safetensors files, atomically, with a full disk told as one."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from detour.files import write_with

_OS_CODE = re.compile(r"\(os error (\d+)\)")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, durable: bool = True
) -> None:
    """Write a safetensors file in one step, see :func:`detour.files.write_with`.

    The library reports a failed write as its own ``SafetensorError``, with the system's error code in the text
    (safetensors 0.8); here it becomes the system's error again.

    Args:
        path: final place.
        tensors: name → tensor, contiguous, sharing no memory.
        metadata: of the header.
        durable: wait until it is on the disk.

    Raises:
        StorageError: disk full, not writable; nothing is left behind.
    """

    def produce(temporary: Path) -> None:
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
        except SafetensorError as error:
            code = _OS_CODE.search(str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error

    write_with(path, produce, durable=durable)
