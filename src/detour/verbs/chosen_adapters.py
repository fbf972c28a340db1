"""Adapters as a user names them: ``FILE`` or ``FILE:weight``, read, checked against a base and attached."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from detour.adapter_files.fitting import check_fits
from detour.adapter_files.hashes import data_sha256
from detour.adapter_files.metadata import ZERO_TERMINAL_SNR
from detour.adapter_files.pickled import is_pickle_name
from detour.adapter_files.reading import read_adapter
from detour.adapters.adapter import Adapter
from detour.adapters.attach import Attached, attach_adapter
from detour.bases.base import Base
from detour.errors import AdapterError
from detour.files import sha256_of
from detour.generation.png import AdapterUse
from detour.generation.requests import AdapterInUse


@dataclass(frozen=True, kw_only=True)
class ChosenAdapter:
    """An adapter that fits the base, and how it is named and weighed.

    Attributes:
        adapter: its layers.
        use: name, weight and hashes, as they go into a picture's metadata.
    """

    adapter: Adapter
    use: AdapterUse


def choose_adapter(text: str, base: Base, *, allow_pickle: bool = False) -> ChosenAdapter:
    """Read ``FILE`` or ``FILE:weight``; nothing of the base is loaded.

    Args:
        text: as the user wrote it.
        base: that it is for.
        allow_pickle: read ``.pt``, ``.bin`` and ``.ckpt`` files too, their tensors alone.

    Raises:
        AdapterError: missing, broken, made for another base, or the weight is no number.
    """
    path, weight = parse_lora(text)
    adapter = read_adapter(
        path, allow_pickle=allow_pickle
    )  # within its limits, before anything else touches it
    check_fits(adapter, base, called=path.name)
    sha256, tensor_sha256 = hashes_of(path)
    use = AdapterUse(name=path.stem, weight=weight, sha256=sha256, tensor_sha256=tensor_sha256)
    return ChosenAdapter(adapter=adapter, use=use)


def in_use(chosen: Sequence[ChosenAdapter], *, factor: float = 1.0) -> tuple[AdapterInUse, ...]:
    """The adapters as a drawing request carries them, each at its own weight times ``factor``."""
    return tuple(
        AdapterInUse(adapter=one.adapter, weight=one.use.weight * factor, sha256=one.use.sha256)
        for one in chosen
    )


def attach_chosen(models: Mapping[str, nn.Module], chosen: Sequence[ChosenAdapter]) -> list[Attached]:
    """Attach each at its own weight, all active together."""
    return [
        attach_adapter(models, one.adapter, one.use.weight, name=f"lora_{index}")
        for index, one in enumerate(chosen)
    ]


def words_of(chosen: Sequence[ChosenAdapter]) -> dict[str, Mapping[str, Tensor]]:
    """The new words of all adapters; strengths do not apply to words.

    Raises:
        AdapterError: two adapters have the same word.
    """
    words: dict[str, Mapping[str, Tensor]] = {}
    for one in chosen:
        twice = next((word for word in one.adapter.words if word in words), None)
        if twice is not None:
            raise AdapterError(f"two adapters have the word '{twice}'. Use one of them.")
        words |= one.adapter.words
    return words


def base_for(base: Base, chosen: Sequence[ChosenAdapter]) -> Base:
    """The base with the noise schedule that the adapters were trained on.

    An adapter of zero-terminal-SNR training draws washed-out pictures on the schedule that it was not trained on.
    """
    rescaled = any(one.adapter.metadata.get(ZERO_TERMINAL_SNR) == "True" for one in chosen)
    return base.with_zero_terminal_snr() if rescaled else base


def parse_lora(text: str) -> tuple[Path, float]:
    """``FILE`` or ``FILE:weight``, as ``--lora`` takes it; see :func:`parse_weighted`.

    Raises:
        AdapterError: no such file, or the weight is no number.
    """
    return parse_weighted(text, said="--lora ")


def parse_weighted(text: str, *, said: str = "") -> tuple[Path, float]:
    """``FILE`` or ``FILE:weight``; a file whose name ends in a number wins over a weight.

    Args:
        text: as the user wrote it.
        said: what stood before it on the command line, for the message.

    Raises:
        AdapterError: no such file, or the weight is no number.
    """
    whole = Path(text).expanduser()
    if whole.exists():
        return whole, 1.0
    head, colon, tail = text.rpartition(":")
    path = Path(head).expanduser()
    if not colon or not path.exists():
        raise AdapterError(f"{said}{text}: no such file. Write FILE or FILE:weight.")
    try:
        weight = float(tail)
    except ValueError:
        weight = float("nan")
    if not math.isfinite(weight):
        raise AdapterError(f"{said}{text}: '{tail}' is no weight. Write FILE:weight, e.g. {path.name}:0.8.")
    return path, weight


def hashes_of(path: Path) -> tuple[str, str]:
    """SHA-256 of the file, and of its tensors alone; of a folder of several files, of all their hashes.

    A pickle has no part that is its tensors: both are the file's.
    """
    files = [path]
    if path.is_dir():
        files = sorted(path.glob("*.safetensors")) or sorted(path.glob("*/*.safetensors"))
        files = files or sorted(one for one in path.rglob("*") if is_pickle_name(one))
    whole = [sha256_of(file) for file in files]
    tensors = [
        sha256 if is_pickle_name(file) else data_sha256(file.read_bytes())
        for file, sha256 in zip(files, whole, strict=True)
    ]
    if len(files) == 1:
        return whole[0], tensors[0]
    return _joint(whole), _joint(tensors)


def _joint(hashes: Sequence[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
