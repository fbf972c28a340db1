"""Read an adapter of any supported format, trusting nothing in the file."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from detour.adapter_files.container import dtype_of, read_file, read_header, refuse_link_out
from detour.adapter_files.diffusers_format import CONFIG_KEY
from detour.adapter_files.formats import format_of
from detour.adapter_files.hashes import data_sha256, stated_sha256
from detour.adapter_files.limits import DEFAULT_LIMITS, Limits
from detour.adapter_files.peft_format import (
    CONFIG_NAME,
    KEY_PREFIX,
    PICKLED_NAME,
    WEIGHTS_NAME,
    from_peft,
    is_peft_folder,
)
from detour.adapter_files.pickled import is_pickle_name, read_tensors
from detour.adapter_files.unread import Unread
from detour.adapter_files.words import split_words
from detour.adapter_files.writing import DIFFUSERS_NAME
from detour.adapters.adapter import Adapter, FileDtype, FileFormat
from detour.adapters.layers import Layer
from detour.adapters.reference_kinds import is_reference_file
from detour.errors import AdapterError


def read_adapter(
    path: Path,
    *,
    limits: Limits = DEFAULT_LIMITS,
    allow_partial: bool = False,
    allow_pickle: bool = False,
) -> Adapter:
    """Read a kohya or diffusers file, or a PEFT folder; the format is told from the content.

    LoRA, DoRA, LoHa and LoKr are read. rsLoRA is folded into alpha, which the metadata then says.

    Args:
        path: a ``.safetensors`` file, a PEFT folder, or a folder with one adapter file.
        limits: sizes above which a file is refused.
        allow_partial: read what can be read, and list the rest in ``left_out``; a layer of which a part is
            missing, unknown, misshapen or not finite is left out whole. A container that lies is refused always.
        allow_pickle: read a ``.pt``, ``.bin`` or ``.ckpt`` file as well, its tensors alone. A file that is named
            otherwise is never read as one.

    Returns:
        Factors in float32 on the CPU, finite, with an explicit alpha for each layer.

    Raises:
        AdapterError: missing, a pickle, too large, malformed, not finite, of another kind or family.
    """
    path = located(path, allow_pickle=allow_pickle)
    unread = Unread(str(path), allowed=allow_partial)
    if path.is_dir():
        layers, metadata, dtype = from_peft(path, limits, unread=unread, allow_pickle=allow_pickle)
        return _checked(layers, metadata, unread, file_format="peft", file_dtype=dtype)
    tensors, metadata = read_tensors(path, limits, finite=not allow_partial, allow_pickle=allow_pickle)
    require_no_peft(tensors, str(path))
    require_no_reference(tensors, str(path))
    return adapter_of(tensors, metadata, limits=limits, unread=unread)


def require_intact(path: Path) -> None:
    """Raise where the tensors of a file are not those whose hash it names; a file without a hash passes.

    Raises:
        AdapterError: damaged since it was written, or not readable.
    """
    data = read_file(path, DEFAULT_LIMITS)
    _, metadata = read_header(path, DEFAULT_LIMITS)
    said = stated_sha256(metadata)
    if said is not None and said != data_sha256(data):
        raise AdapterError(
            f"{path}: damaged: its tensors are not those that were written (another SHA-256). Delete it; "
            "a run that is resumed from before it writes it again."
        )


def adapter_of(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    limits: Limits = DEFAULT_LIMITS,
    unread: Unread,
) -> Adapter:
    """The adapter of one file's tensors; the format is told from their names.

    Args:
        tensors: name → tensor; on the meta device where only shapes are asked for.
        metadata: of the file.
        limits: sizes above which a layer is refused.
        unread: takes what cannot be read.

    Raises:
        AdapterError: as :func:`read_adapter`.
    """
    tensors, words = split_words(tensors, unread)
    form = format_of(tensors)
    assert form.read is not None  # PEFT's folders are told from their config
    layers, found = form.read(tensors, metadata, limits=limits, unread=unread)
    adapter = _checked(
        layers, {**metadata, **found}, unread, file_format=form.name, file_dtype=dtype_of(tensors)
    )
    return replace(adapter, words=words)


def located(path: Path, *, allow_pickle: bool = False) -> Path:
    """The file, or the PEFT folder, that a user means by a file or a folder.

    Args:
        path: a file or a folder.
        allow_pickle: take the one pickle of a folder without safetensors.

    Raises:
        AdapterError: a folder without an adapter, or with several, or with a link that leads out of it.
    """
    if path.is_dir():
        if is_peft_folder(path):
            return path
        file = _only_file(path, allow_pickle=allow_pickle)
        refuse_link_out(file, path)
        return file
    is_weights = path.name in (WEIGHTS_NAME, PICKLED_NAME)
    return path.parent if is_weights and (path.parent / CONFIG_NAME).is_file() else path


def require_no_peft(names: Iterable[str], where: str) -> None:
    """Raise for a file of a PEFT folder that came without its config.

    Raises:
        AdapterError: it would be read with another scale.
    """
    if any(name.startswith(KEY_PREFIX) for name in names):
        raise AdapterError(
            f"{where}: a PEFT file needs {CONFIG_NAME} beside it, for its alpha. Fetch the folder."
        )


def require_no_reference(names: Iterable[str], where: str) -> None:
    """Raise for an IP-Adapter, which shows a base a picture and has no layers beside the base's.

    Raises:
        AdapterError: says how it is used.
    """
    if is_reference_file(names):
        raise AdapterError(
            f"{where}: an IP-Adapter, which shows a base reference pictures and is no LoRA. Draw with it: "
            "--reference PICTURE --reference-adapter FILE."
        )


def _only_file(folder: Path, *, allow_pickle: bool) -> Path:
    if (folder / DIFFUSERS_NAME).is_file():
        return folder / DIFFUSERS_NAME
    found = sorted(folder.glob("*.safetensors"))
    if not found and allow_pickle:
        found = sorted(path for path in folder.iterdir() if is_pickle_name(path))
    if len(found) != 1:
        what = f"{len(found)} adapter files" if found else "no adapter"
        raise AdapterError(f"{folder}: a folder with {what}. Name one file.")
    return found[0]


def _checked(
    layers: Mapping[str, Layer],
    metadata: Mapping[str, str],
    unread: Unread,
    *,
    file_format: FileFormat,
    file_dtype: FileDtype,
) -> Adapter:
    left_out = unread.listed()
    if not layers:
        rest = f" ({len(left_out)} things were left out, the first: {left_out[0]})" if left_out else ""
        raise AdapterError(f"{unread.where}: holds no adapter layers{rest}. Use another file.")
    # safetensors hands tensors out in another order each time: attach in the same one always
    ordered = dict(sorted(layers.items()))
    return Adapter(ordered, informal(metadata), left_out, file_format=file_format, file_dtype=file_dtype)


def informal(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a file says of the adapter, without what it says of the file's own form."""
    return {name: text for name, text in metadata.items() if name not in ("format", CONFIG_KEY)}
