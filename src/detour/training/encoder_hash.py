"""What an encoder is, in one string: the hash of its tensors, its settings, and the arithmetic that runs it.

Hashing tensors means loading them. So the hash is remembered by the identity of the files that they came from, and
an encoder whose entries are all there is never loaded.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from detour.adapters.gradient_proof import hash_base
from detour.bases import parts
from detour.files import file_identity, is_settled, sha256_of, write_json

if TYPE_CHECKING:
    from detour.bases.base import Base


def encoder_facts(
    base: "Base",
    names: Sequence[str],
    load: Callable[[], Mapping[str, nn.Module]],
    memory: Path,
    *,
    device: str,
) -> str:
    """Everything about encoders that their answers depend on, as JSON.

    Args:
        base: that they belong to.
        names: its parts, e.g. ``["vae"]``.
        load: gives the parts; called only when their hash is not remembered.
        memory: folder of remembered hashes.
        device: where they run.
    """
    files = [file for name in names for file in weight_files(base, name)]
    tensors = tensor_hash(files, names, load, memory)
    facts: dict[str, Any] = {
        "tensors": tensors,
        "settings": {name: base.config(name) for name in names},
        "arithmetic": _arithmetic(device),
    }
    if "vae" not in names:
        facts |= {
            "tokenizers": {name: _tokenizer(base, name) for name in names},
            "states": [base.family.text_states, base.family.uncond],
        }
    return json.dumps(facts, sort_keys=True, default=str)


def weight_files(base: "Base", part: str) -> list[Path]:
    """The files that a part's tensors are read from."""
    assert base.weights is not None, "its weights were required before"
    return [base.weights] if base.weights.is_file() else parts.weight_files(base.weights / part)


def tensor_hash(
    files: Sequence[Path], names: Sequence[str], load: Callable[[], Mapping[str, nn.Module]], memory: Path
) -> str:
    """Hex SHA-256 of the tensors of all parts, remembered while the files are the same ones and unchanged."""
    identity = [file_identity(file) for file in files]
    text = json.dumps([list(names), identity], sort_keys=True)
    note = memory / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
    try:
        return str(json.loads(note.read_text(encoding="utf-8"))["tensors"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = load()
    digest = hashlib.sha256("".join(f"{name}:{hash_base(found[name])}\n" for name in names).encode())
    if [file_identity(file) for file in files] == identity and all(is_settled(one) for one in identity):
        write_json(note, {"tensors": digest.hexdigest()})
    return digest.hexdigest()


def _arithmetic(device: str) -> dict[str, Any]:
    """What moves the last bits of an answer."""
    is_cuda = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else device,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _tokenizer(base: "Base", part: str) -> Any:
    folder = base.folder / part.replace("text_encoder", "tokenizer")
    if not folder.is_dir():
        return base.pad_token(part)
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.is_file()}
