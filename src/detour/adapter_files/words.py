"""Vectors of new words in files: bundled with a kohya LoRA, and alone as textual inversions.

In a LoRA file: ``bundle_emb.WORD.string_to_param.*`` for one text encoder, ``bundle_emb.WORD.clip_l`` and ``.clip_g``
for SDXL's two, as A1111 and Forge read them. Alone: the word as the only key (SD 1 and 2), or ``clip_l`` and ``clip_g``
(SDXL), as diffusers' ``load_textual_inversion`` and the other tools take them.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from detour.adapter_files.container import encode
from detour.adapter_files.unread import Unread
from detour.adapters.adapter import Adapter, Words
from detour.errors import AdapterError
from detour.files import write_bytes
from detour.printing import printable

BUNDLE = "bundle_emb."
_ONE = ("string_to_param.*", "emb_params")
_PARTS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
_NAMES = {part: name for name, part in _PARTS.items()}
_MOST_VECTORS = 75
_LONGEST_WORD = 80


def to_bundle(words: Words, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors that go into a kohya file."""
    return {
        f"{BUNDLE}{word}.{name}": tensor.to(dtype)
        for word, parts in words.items()
        for name, tensor in _named(parts, _ONE[0]).items()
    }


def _named(parts: Mapping[str, Tensor], alone: str) -> dict[str, Tensor]:
    if list(parts) == ["text_encoder"]:
        return {alone: parts["text_encoder"]}
    return {_NAMES[part]: tensor for part, tensor in parts.items()}


def split_words(
    tensors: Mapping[str, Tensor], unread: Unread
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """(the other tensors, the words among them).

    Raises:
        AdapterError: vectors that are none.
    """
    rest: dict[str, Tensor] = {}
    words: dict[str, dict[str, Tensor]] = {}
    for name, tensor in sorted(tensors.items()):
        if not name.startswith(BUNDLE):
            rest[name] = tensor
            continue
        word, _, kind = name.removeprefix(BUNDLE).partition(".")
        part = "text_encoder" if kind in _ONE else _PARTS.get(kind)
        try:
            words.setdefault(word, {})[_known(part, name, unread)] = _checked(tensor, word, unread)
        except AdapterError as error:
            unread.refuse(error)
            words.pop(word, None)
    for word, parts in words.items():
        if len({tensor.shape[0] for tensor in parts.values()}) > 1:
            raise AdapterError(
                f"{unread.where}: '{word}' has another number of vectors in each text encoder."
            )
    return rest, {word: dict(sorted(words[word].items())) for word in sorted(words)}


def _known(part: str | None, name: str, unread: Unread) -> str:
    if part is None:
        raise AdapterError(f"{unread.where}: '{_shown(name)}' is no textual inversion of SD 1, SD 2 or SDXL.")
    return part


def _checked(tensor: Tensor, word: str, unread: Unread) -> Tensor:
    vectors = tensor[None] if tensor.ndim == 1 else tensor
    fits = vectors.ndim == 2 and 0 < vectors.shape[0] <= _MOST_VECTORS and vectors.is_floating_point()
    if not fits or not word or len(word) > _LONGEST_WORD or not word.isprintable():
        raise AdapterError(
            f"{unread.where}: '{_shown(word)}' has vectors of shape {tuple(tensor.shape)}; at most "
            f"{_MOST_VECTORS} of a word are expected."
        )
    vectors = vectors.float()
    if not vectors.is_meta and not bool(torch.isfinite(vectors).all()):
        raise AdapterError(f"{unread.where}: the vectors of '{_shown(word)}' hold NaN or infinity.")
    return vectors


def _shown(text: str) -> str:
    return printable(text, longest=80)


def refuse_words(adapter: Adapter, what: str, where: str) -> None:
    """Raise where an adapter's words would be lost.

    Raises:
        AdapterError: it has some.
    """
    if adapter.words:
        named = ", ".join(f"'{word}'" for word in adapter.words)
        raise AdapterError(
            f"{where}: holds vectors of {named}, which {what} would lose. Use the adapter itself, or one without words."
        )


def write_words(adapter_file: Path, words: Words) -> list[Path]:
    """Write each word as a textual inversion of its own beside the adapter: ``NAME-tokens.safetensors``, or with a
    number for each where there are several.

    Raises:
        StorageError: disk full, no permission.
    """
    paths = []
    for index, (word, parts) in enumerate(words.items(), start=1):
        number = f"-{index}" if len(words) > 1 else ""
        path = adapter_file.with_name(f"{adapter_file.stem}-tokens{number}.safetensors")
        tensors = {name: tensor.float() for name, tensor in _named(parts, word).items()}
        write_bytes(path, encode(tensors, {"format": "pt", "detour.word": word}))
        paths.append(path)
    return paths
