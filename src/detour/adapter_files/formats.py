"""The table of file formats: how each is recognised, read and written. An unknown name raises."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from detour.adapter_files.diffusers_format import from_diffusers, to_diffusers
from detour.adapter_files.kohya import from_kohya, is_kohya, to_kohya
from detour.adapter_files.limits import Limits
from detour.adapter_files.metadata import network_metadata
from detour.adapter_files.peft_format import to_peft
from detour.adapter_files.unread import Unread
from detour.adapter_files.words import to_bundle
from detour.adapters.adapter import Adapter, FileFormat
from detour.adapters.layers import Layer
from detour.adapters.meta_tensors import on_meta
from detour.bases.families import Family
from detour.errors import ConfigError, nearest


class ReadTensors(Protocol):
    """Layers by key, and metadata that the names amount to, of one file's tensors."""

    def __call__(
        self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, limits: Limits, unread: Unread
    ) -> tuple[dict[str, Layer], dict[str, str]]: ...


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format of adapter files.

    Attributes:
        name: as ``--to`` takes it.
        is_file: whether an adapter may be one file; PEFT's is a folder always.
        is_folder: whether it may be a folder.
        by_part: whether each part of the base has a folder of its own.
        recognises: whether a file with these tensor names is of this format.
        read: of one file's tensors; ``None`` where a config beside the file is needed.
        tensors: (adapter, part, family, dtype, fused) → what is written; the part is empty where a file holds all;
            ``fused`` joins a transformer's layers to the original code's, in kohya's names alone.
        about: (adapter, family) → metadata that the format needs; factors may be on the meta device.
        holds_words: whether vectors of new words go into the same file.
    """

    name: FileFormat
    is_file: bool
    is_folder: bool
    by_part: bool
    recognises: Callable[[Iterable[str]], bool]
    read: ReadTensors | None
    tensors: Callable[[Adapter, str, Family, torch.dtype, bool], dict[str, Tensor]]
    about: Callable[[Adapter, Family], dict[str, str]]
    holds_words: bool = False


def _kohya_tensors(
    adapter: Adapter, _: str, family: Family, dtype: torch.dtype, fused: bool
) -> dict[str, Tensor]:
    return to_kohya(adapter, family, dtype, fused=fused) | to_bundle(adapter.words, dtype)


def _diffusers_tensors(
    adapter: Adapter, _: str, __: Family, dtype: torch.dtype, ___: bool
) -> dict[str, Tensor]:
    return to_diffusers(adapter, dtype)[0]


def _diffusers_about(adapter: Adapter, _: Family) -> dict[str, str]:
    shapes = {key: on_meta(layer) for key, layer in adapter.layers.items()}  # no numbers are needed
    return to_diffusers(Adapter(shapes), torch.float32)[1]


def _peft_tensors(adapter: Adapter, part: str, _: Family, dtype: torch.dtype, __: bool) -> dict[str, Tensor]:
    return to_peft(adapter, part, dtype)[0]


FORMATS: Mapping[FileFormat, Format] = {
    "kohya": Format(
        name="kohya",
        is_file=True,
        is_folder=False,
        by_part=False,
        recognises=is_kohya,
        read=from_kohya,
        tensors=_kohya_tensors,
        about=network_metadata,
        holds_words=True,
    ),
    "peft": Format(
        name="peft",
        is_file=False,
        is_folder=True,
        by_part=True,
        recognises=lambda _: False,  # told from the config in its folder
        read=None,
        tensors=_peft_tensors,
        about=lambda _, __: {"format": "pt"},
    ),
    "diffusers": Format(
        name="diffusers",
        is_file=True,
        is_folder=True,
        by_part=False,
        recognises=lambda _: True,  # every dotted naming; its reader names what it does not know
        read=from_diffusers,
        tensors=_diffusers_tensors,
        about=_diffusers_about,
    ),
}
"""Name → format, in the order in which they are tried on a file's names."""


def format_named(name: str) -> Format:
    """The format of this name.

    Raises:
        ConfigError: there is none.
    """
    found = next((form for known, form in FORMATS.items() if known == name), None)
    if found is None:
        known: list[str] = sorted(FORMATS)
        raise ConfigError(
            f"file format '{name}' is not known.{nearest(name, known)} Known: {', '.join(known)}."
        )
    return found


def format_of(names: Iterable[str]) -> Format:
    """The format of a file with these tensor names."""
    every = list(names)
    return next(form for form in FORMATS.values() if form.recognises(every))
