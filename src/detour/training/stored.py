"""Latents and text states that live in an :class:`detour.entry_store.EntryStore` and are read when shown.

An entry's key is made of everything that its content depends on: the picture's bytes, the part and the mirroring, the
size, the encoder's tensors and settings, and the arithmetic (device, torch, threads). So an edited picture, another
size or another VAE is another entry, and no stale one can be met.
"""

import gc
import hashlib
import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from detour.bases.latents import encode_pictures, to_pixels
from detour.bases.text import Conditioning, TextStage
from detour.data.folder import Example
from detour.data.framing import CODE_VERSION, Frame
from detour.entry_store import EntryStore
from detour.files import cache_home
from detour.specs import DataSpec
from detour.training.encoder_hash import encoder_facts

if TYPE_CHECKING:
    from detour.bases.base import Base

T = TypeVar("T")

STORED_VERSION = 1
"""Version of what entries hold; raised whenever that changes."""


class Lazy(Generic[T]):
    """A part of a base that is loaded when it is first asked for, perhaps never, and gone when it is released."""

    def __init__(self, load: Callable[[], T]) -> None:
        self._load, self._value = load, list[T]()

    def __call__(self) -> T:
        if not self._value:
            self._value.append(self._load())
        return self._value[0]

    def release(self) -> None:
        """Give memory back; where modules hold each other in a circle, counting references is not enough."""
        if not self._value:
            return
        gone = weakref.ref(self._value.pop())
        if gone() is not None:
            gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def open_store(spec: DataSpec) -> EntryStore | None:
    """The cache on disk of a run; ``None`` where it keeps what it encodes in memory.

    Raises:
        StorageError: its folder cannot be made.
    """
    if spec.cache == "memory":
        return None
    folder = Path(spec.cache_folder).expanduser() if spec.cache_folder else cache_home() / "encoded"
    return EntryStore(folder, max_bytes=int(spec.cache_gib * 2**30))


def stored_encoder(
    base: "Base",
    names: Sequence[str],
    load: Callable[[], Mapping[str, nn.Module]],
    store: EntryStore,
    device: str,
) -> str:
    """What encoders are, see :func:`detour.training.encoder_hash.encoder_facts`; hashes are remembered in the store."""
    return encoder_facts(base, names, load, store.folder / "encoders", device=device)


@dataclass(frozen=True)
class StoredLatents:
    """A :class:`detour.training.cache.LatentSource` on disk.

    Attributes:
        store: that holds the entries.
        keys: picture → frame → view → key.
        shapes: (C, h, w) of each picture.
    """

    store: EntryStore
    keys: tuple[tuple[tuple[str, ...], ...], ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def num_pictures(self) -> int:
        return len(self.keys)

    @property
    def num_views(self) -> int:
        return len(self.keys[0][0])

    def shape_of(self, picture: int) -> tuple[int, ...]:
        """(C, h, w) of a picture."""
        return self.shapes[picture]

    def moments(self, picture: int, view: int, frame: int = 0) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (C, h, w) each."""
        entry = self.store.read(self.keys[picture][frame][view])
        return entry["mean"], entry["std"]


@dataclass(frozen=True)
class StoredText:
    """A :class:`detour.training.cache.TextSource` on disk; reads like :class:`detour.training.cache.TextCache`.

    Attributes:
        store: that holds the entries.
        keys: caption → key; ``None`` is the family's unconditional text.
    """

    store: EntryStore
    keys: Mapping[str | None, str]

    def conditioning(self, captions: Sequence[str | None]) -> Conditioning:
        """States of captions that were encoded, in order."""
        entries = {caption: self.store.read(self.keys[caption]) for caption in set(captions)}
        pooled = [entries[caption]["pooled"] for caption in captions if "pooled" in entries[caption]]
        return Conditioning(
            torch.stack([entries[caption]["states"] for caption in captions]),
            torch.stack(pooled) if pooled else None,
        )

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """States of prompts that were encoded."""
        return self.conditioning(prompts)

    def unconditional(self, num: int) -> Conditioning:
        """The family's unconditional states, ``num`` times."""
        return self.conditioning([None] * num)


def store_latents(
    store: EntryStore,
    vae: Callable[[], nn.Module],
    encoder: str,
    examples: Sequence[Example],
    frames: Sequence[Sequence[Frame]],
    *,
    flip: bool,
    latent: tuple[int, int],
    max_megapixels: float,
    on_frames: Callable[[int], None] | None = None,
) -> StoredLatents:
    """Encode what the store does not hold.

    Each view is encoded by itself: in a batch, its last bits would depend on its neighbours.

    Args:
        store: where entries are.
        vae: gives an ``AutoencoderKL``; asked only when something is missing.
        encoder: what the VAE is, see :func:`detour.training.encoder_hash.encoder_facts`.
        examples: N pictures.
        frames: (N,) the frames of each, of one size.
        flip: add mirrored views.
        latent: (channels, pixels a latent position).
        max_megapixels: larger pictures are refused.
        on_frames: called with the number of frames that are done.
    """
    keys, done = [], 0
    channels, factor = latent
    for example, of_one in zip(examples, frames, strict=True):
        views = [
            tuple(_latent_key(encoder, example, frame, mirrored) for mirrored in (False, True)[: 1 + flip])
            for frame in of_one
        ]
        missing = [[not store.hold(key) for key in of_frame] for of_frame in views]
        if any(map(any, missing)):
            image = example.open(max_megapixels=max_megapixels)
            for frame, of_frame, lacks in zip(of_one, views, missing, strict=True):
                if any(lacks):
                    _encode(store, vae(), frame.cut(image), of_frame, lacks)
        keys.append(tuple(views))
        done += len(of_one)
        if on_frames is not None:
            on_frames(done)
    shapes = [(channels, f[0].size_px[1] // factor, f[0].size_px[0] // factor) for f in frames]
    return StoredLatents(store, tuple(keys), tuple(shapes))


def _encode(
    store: EntryStore, vae: nn.Module, cut: np.ndarray, keys: Sequence[str], lacks: Sequence[bool]
) -> None:
    pixels = to_pixels(cut[None])
    for view, (key, is_missing) in enumerate(zip(keys, lacks, strict=True)):
        if is_missing:
            mean, std = encode_pictures(vae, pixels.flip(-1) if view else pixels)
            store.put(key, {"mean": mean[0], "std": std[0]})


def store_text(
    store: EntryStore, stage: Callable[[], TextStage], encoder: str, prompts: Sequence[str]
) -> tuple[StoredText, list[str]]:
    """Encode the distinct prompts and the unconditional text that the store does not hold.

    Args:
        store: where entries are.
        stage: gives the encoders; asked only when something is missing.
        encoder: what they are, see :func:`detour.training.encoder_hash.encoder_facts`.
        prompts: N of them.

    Returns:
        Their states, and the prompts of which the encoders see only the beginning.
    """
    distinct: list[str | None] = [*dict.fromkeys(prompts), None]
    keys = {prompt: _key("text", encoder=encoder, prompt=prompt) for prompt in distinct}
    for prompt, key in keys.items():
        if not store.hold(key):
            states = stage().unconditional(1) if prompt is None else stage().encode([prompt])
            entry = {"states": states.states[0]} | (
                {"pooled": states.pooled[0]} if states.pooled is not None else {}
            )
            cut_off = bool(prompt) and bool(stage().too_long([prompt or ""]))
            store.put(key, {**entry, "too_long": torch.tensor([cut_off])})
    text = StoredText(store, keys)
    return text, [p for p in distinct if p is not None and bool(store.read(keys[p])["too_long"])]


def _latent_key(encoder: str, example: Example, frame: Frame, mirrored: bool) -> str:
    return _key(
        "latent",
        encoder=encoder,
        picture=example.sha256,
        size_px=frame.size_px,
        centering=frame.centering,
        mirrored=mirrored,
        framing=CODE_VERSION,
    )


def _key(kind: str, **facts: Any) -> str:
    text = json.dumps({"kind": kind, "version": STORED_VERSION, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
