"""Read an adapter of any supported format, trusting nothing in the file."""

from pathlib import Path

from detour.adapter_files.container import decode, read_file
from detour.adapter_files.diffusers_format import CONFIG_KEY, from_diffusers
from detour.adapter_files.kohya import from_kohya
from detour.adapter_files.limits import DEFAULT_LIMITS, Limits
from detour.adapter_files.names import TEXT_PREFIXES, UNET_PREFIX
from detour.adapter_files.peft_format import CONFIG_NAME, KEY_PREFIX, WEIGHTS_NAME, from_peft, is_peft_folder
from detour.adapter_files.writing import DIFFUSERS_NAME
from detour.adapters.adapter import Adapter, LoraLayer
from detour.errors import AdapterError

_KOHYA_PREFIXES = (UNET_PREFIX, *TEXT_PREFIXES)


def read_adapter(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> Adapter:
    """Read a kohya or diffusers file, or a PEFT folder; the format is told from the content.

    Args:
        path: a ``.safetensors`` file, a PEFT folder, or a folder with one adapter file.
        limits: sizes above which a file is refused.

    Returns:
        Factors in float32 on the CPU, finite, with an explicit alpha for each layer.

    Raises:
        AdapterError: missing, a pickle, too large, malformed, not finite, of another kind or family.
    """
    if path.is_dir():
        if is_peft_folder(path):
            layers, metadata = from_peft(path, limits)
            return _checked(layers, metadata, limits, str(path))
        path = _only_file(path)
    elif path.name == WEIGHTS_NAME and (path.parent / CONFIG_NAME).is_file():
        return read_adapter(path.parent, limits=limits)
    where = str(path)
    tensors, metadata = decode(read_file(path, limits), limits, where=where)
    if any(name.startswith(KEY_PREFIX) for name in tensors):
        raise AdapterError(
            f"{where}: a PEFT file needs {CONFIG_NAME} beside it, for its alpha. Fetch the folder."
        )
    if any(name.startswith(_KOHYA_PREFIXES) for name in tensors):
        layers = from_kohya(tensors, where=where)
    else:
        layers = from_diffusers(tensors, metadata, where=where)
    return _checked(layers, metadata, limits, where)


def _only_file(folder: Path) -> Path:
    if (folder / DIFFUSERS_NAME).is_file():
        return folder / DIFFUSERS_NAME
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        what = f"{len(found)} .safetensors files" if found else "no adapter"
        raise AdapterError(f"{folder}: a folder with {what}. Name one file.")
    return found[0]


def _checked(layers: dict[str, LoraLayer], metadata: dict[str, str], limits: Limits, where: str) -> Adapter:
    if not layers:
        raise AdapterError(f"{where}: holds no adapter layers. Use another file.")
    for key, layer in layers.items():
        if layer.rank > limits.max_rank:
            raise AdapterError(f"{where}: '{key}' has rank {layer.rank:,}, the limit is {limits.max_rank:,}.")
    formal = ("format", CONFIG_KEY)
    # safetensors hands tensors out in another order each time: attach in the same one always
    return Adapter(dict(sorted(layers.items())), {name: text for name, text in metadata.items() if name not in formal})
