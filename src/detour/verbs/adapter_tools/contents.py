"""What is in an adapter file, without a base; from the header alone where that suffices."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from detour.adapter_files.adapter_family import family_of_adapter
from detour.adapter_files.container import empty_tensor, read_header, read_region
from detour.adapter_files.hashes import data_sha256, stated_sha256
from detour.adapter_files.layer_file import open_layers
from detour.adapter_files.limits import DEFAULT_LIMITS
from detour.adapter_files.pickled import is_pickle_name
from detour.adapter_files.reading import (
    adapter_of,
    located,
    read_adapter,
    require_no_peft,
    require_no_reference,
)
from detour.adapter_files.reference_files import holds_reference, read_reference_facts, require_fit
from detour.adapter_files.unread import Unread
from detour.adapters.adapter import Adapter, FileFormat, part_of
from detour.adapters.analysis import spectrum_of_values
from detour.adapters.blocks import block_of, blocks_in_order
from detour.adapters.places import find_layer
from detour.adapters.reference_kinds import ReferenceKind
from detour.adapters.spectra import singular_values_of
from detour.bases.base import Base, open_base
from detour.bases.parts import empty_part
from detour.errors import AdapterError

NORMS_UP_TO_BYTES = 64_000_000
"""Larger files are shown from their header, which answers at once; norms are computed where they are asked for."""


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BlockFigures(_Figures):
    """The change in one block; norm and shares are ``None`` where only the header was read."""

    block: str
    layers: int
    parameters: int
    norm: float | None = None
    """Frobenius norm of all its changes together."""
    stable_rank: float | None = None
    """Energy over the energy of each layer's first direction."""
    first_share: float | None = None
    """Share of the energy in each layer's first direction."""
    first_four_share: float | None = None
    """Share of the energy in each layer's first four directions."""


class BaseMatch(_Figures):
    """Whether the layers are those of a base."""

    base: str
    fitting: int
    problems: tuple[str, ...]
    """One sentence for each layer that the base does not have, or has in another shape."""


class AdapterReport(_Figures):
    """Everything that ``detour show`` knows."""

    path: Path
    file_format: FileFormat | None
    num_bytes: int
    dtype: str
    family: str
    family_why: str
    algorithms: dict[str, int]
    """Algorithm → number of layers."""
    parts: dict[str, int]
    """Part → number of layers."""
    parameters: int
    ranks: dict[int, int]
    """Rank → layers that have it."""
    alphas: dict[float, int]
    """Alpha → layers that have it."""
    trigger: str | None
    words: dict[str, int]
    """New word with vectors of its own → how many."""
    metadata: dict[str, str]
    """Metadata without the settings of the run and the thumbnail, which have their own flags."""
    has_config: bool
    has_thumbnail: bool
    tensor_sha256: str | None
    """SHA-256 of the tensors' bytes, computed here; ``None`` where only the header was read."""
    hash_agrees: bool | None
    """Whether that is what the file says of itself; ``None`` where either is not there."""
    states_sha256: bool
    """Whether the file says what the SHA-256 of its tensors is."""
    blocks: tuple[BlockFigures, ...]
    match: BaseMatch | None = None

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)


class ReferenceReport(_Figures):
    """Everything that ``detour show`` knows of an IP-Adapter, which shows a base reference pictures."""

    path: Path
    num_bytes: int
    kind: ReferenceKind
    encoder: str
    """The image encoder that it needs: ``ViT-H``, ``ViT-bigG``, or empty for another one."""
    encoder_words: str
    """The encoder with what of it is read, in words."""
    family: str
    """``sd1``, ``sd2`` or ``sdxl``; empty for bases with text states of another width."""
    text_width: int
    num_tokens: int
    """Tokens a picture; 0 where the image encoder decides it."""
    layers: int
    """Cross-attention layers with a second pair of keys and values."""
    parameters: int
    sha256: str
    match: BaseMatch | None = None

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)


def show_adapter(
    path: Path, *, base: str | None = None, norms: bool | None = None, allow_pickle: bool = False
) -> AdapterReport | ReferenceReport:
    """Tell what is in an adapter's file or PEFT folder, or in an IP-Adapter's file.

    Args:
        path: of any format that is read.
        base: name of a base whose layers the adapter is held against; shapes are enough.
        norms: compute figures of the change (reads all of the file); ``None`` does so up to 64 MB.
        allow_pickle: read a ``.pt``, ``.bin`` or ``.ckpt`` file too, its tensors alone; it has no header.

    Raises:
        AdapterError: not an adapter that can be read.
        BaseError: the base cannot be opened.
    """
    path = _inside(path, allow_pickle=allow_pickle)
    if holds_reference(path, allow_pickle=allow_pickle):
        return _reference(path, base, allow_pickle=allow_pickle)
    num_bytes = (
        path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.rglob("*"))
    )
    whole = _is_pickled(path) or (num_bytes <= NORMS_UP_TO_BYTES if norms is None else norms)
    adapter = read_adapter(path, allow_pickle=allow_pickle) if whole else read_shapes(path)
    guess = family_of_adapter(adapter)
    metadata = dict(adapter.metadata)
    has_header = path.is_file() and not is_pickle_name(path)
    digest = data_sha256(path.read_bytes()) if whole and has_header else None
    said = stated_sha256(metadata) if has_header else None
    return AdapterReport(
        path=path,
        file_format=adapter.file_format,
        num_bytes=num_bytes,
        dtype=adapter.file_dtype,
        family=guess.family.name,
        family_why=guess.why,
        algorithms=dict(adapter.kinds),
        parts={part: sum(part_of(key) == part for key in adapter.layers) for part in adapter.parts},
        parameters=adapter.num_parameters,
        ranks=dict(sorted(Counter(layer.rank for layer in adapter.layers.values()).items())),
        alphas=dict(sorted(Counter(layer.alpha for layer in adapter.layers.values()).items())),
        trigger=metadata.get("modelspec.trigger_phrase"),
        words={word: next(iter(parts.values())).shape[0] for word, parts in adapter.words.items()},
        has_config="detour.config" in metadata,
        has_thumbnail="modelspec.thumbnail" in metadata,
        metadata={
            key: text
            for key, text in sorted(metadata.items())
            if key not in ("detour.config", "modelspec.thumbnail")
        },
        tensor_sha256=digest,
        hash_agrees=None if digest is None or said is None else said == digest,
        states_sha256=said is not None,
        blocks=_blocks(adapter, figures=whole and norms is not False),
        match=None if base is None else _match(adapter, open_base(base, weights=False)),
    )


def _reference(path: Path, base: str | None, *, allow_pickle: bool) -> ReferenceReport:
    facts, sha256 = read_reference_facts(path, allow_pickle=allow_pickle)
    match = None
    if base is not None:
        opened = open_base(base, weights=False)
        try:
            require_fit(facts, opened, where=path.name)
            match = BaseMatch(base=opened.identity, fitting=facts.num_layers, problems=())
        except AdapterError as error:
            match = BaseMatch(base=opened.identity, fitting=0, problems=(str(error),))
    return ReferenceReport(
        path=path,
        num_bytes=path.stat().st_size,
        kind=facts.kind,
        encoder=facts.encoder,
        encoder_words=facts.encoder_words,
        family=facts.family,
        text_width=facts.text_width,
        num_tokens=facts.num_tokens,
        layers=facts.num_layers,
        parameters=facts.num_parameters,
        sha256=sha256,
        match=match,
    )


def read_config(path: Path) -> str:
    """The settings of the run that made the file, as a run.toml.

    Raises:
        AdapterError: it carries none.
    """
    path = _inside(path, allow_pickle=True)
    metadata: Mapping[str, str] = {}
    if not _is_pickled(path):
        metadata = read_shapes(path).metadata if path.is_dir() else read_header(path, DEFAULT_LIMITS)[1]
    if "detour.config" not in metadata:
        raise AdapterError(f"{path}: carries no settings of a run; only adapters trained by detour do.")
    return metadata["detour.config"]


def read_shapes(path: Path) -> Adapter:
    """The adapter's layers without their numbers: names, shapes, alphas and metadata, from the header alone.

    Raises:
        AdapterError: not an adapter that can be read.
    """
    if path.is_dir():
        with open_layers(path) as file:
            return replace(file.meta_adapter, file_format="peft", file_dtype=file.dtype)
    regions, metadata = read_header(path, DEFAULT_LIMITS)
    require_no_peft(regions, str(path))
    require_no_reference(regions, str(path))
    tensors = {name: empty_tensor(region) for name, region in regions.items()}
    try:
        with path.open("rb") as stream:
            tensors |= {
                name: read_region(stream, region)
                for name, region in regions.items()
                if name.endswith(".alpha") and math.prod(region.shape) == 1
            }
    except OSError as error:
        raise AdapterError(f"{path}: adapter cannot be read ({error.strerror}). Check the name.") from error
    return adapter_of(tensors, metadata, unread=Unread(str(path)))


def _inside(path: Path, *, allow_pickle: bool) -> Path:
    """The file of a folder that holds one adapter file; PEFT folders stay folders."""
    if not path.exists():
        raise AdapterError(f"{path}: no such file. Check the name.")
    return located(path, allow_pickle=allow_pickle)


def _is_pickled(path: Path) -> bool:
    """Whether a file, or the weights of a PEFT folder, have no header that could be read alone."""
    files = path.rglob("*") if path.is_dir() else (path,)
    return any(is_pickle_name(file) for file in files)


def _blocks(adapter: Adapter, *, figures: bool) -> tuple[BlockFigures, ...]:
    found = []
    for block in blocks_in_order(adapter.layers):
        layers = [layer for key, layer in adapter.layers.items() if block_of(key) == block]
        sizes = {"layers": len(layers), "parameters": sum(layer.num_parameters for layer in layers)}
        if not figures:
            found.append(BlockFigures(block=block, **sizes))
            continue
        values = spectrum_of_values(singular_values_of(layer) for layer in layers)
        found.append(
            BlockFigures(
                block=block,
                **sizes,
                norm=values.norm,
                stable_rank=values.stable_rank,
                first_share=values.first_share,
                first_four_share=values.first_four_share,
            )
        )
    return tuple(found)


def _match(adapter: Adapter, base: Base) -> BaseMatch:
    models = {part: empty_part(part, base.config(part)) for part in adapter.parts if part in base.configs}
    problems = []
    for key, layer in adapter.layers.items():
        if part_of(key) not in models:
            problems.append(f"'{key}': {base.family.title} has no {part_of(key)}.")
            continue
        try:
            find_layer(models, key, layer)
        except AdapterError as error:
            problems.append(str(error))
    return BaseMatch(
        base=base.identity, fitting=len(adapter.layers) - len(problems), problems=tuple(problems)
    )
