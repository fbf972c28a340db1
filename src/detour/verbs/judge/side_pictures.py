"""Draws every side that is judged, and keeps the pictures under a key of everything that determines them.

A cell is one side's pictures of one set of prompts at one seed. It is one PNG under ``pictures/``, named by the hash of
everything that its pictures depend on: so an evaluation that was stopped goes on, one that asks for more seeds draws
those alone, and a base or an adapter that was edited is drawn anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from detour.adapters.adapter import Adapter, part_of, path_of
from detour.adapters.delta import merge_into
from detour.adapters.places import find_path
from detour.bases.base import Base, open_base
from detour.errors import Interrupted
from detour.evaluation.compared import Side
from detour.evaluation.pixels import Pictures
from detour.evaluation.proof_pictures import (
    ProofRequest,
    draw_proof_pictures,
    proof_batch,
    proof_dtype,
    proof_picture_spec,
)
from detour.specs import RunSpec
from detour.verbs.draw.picture_files import versions
from detour.verbs.judge.held_out_material import FIRST_HELD_OUT_SEED
from detour.verbs.progress import Progress, ProgressFn
from detour.verbs.studies.engine import read_strip, save_strip

if TYPE_CHECKING:
    from torch import nn

    from detour.generation.engine import AdapterInUse, PictureEngine

PICTURES = "pictures"
DRAWING = 2
"""Version of the drawing code in the keys of kept pictures; pictures of two versions are not compared."""

OnPicture = Callable[[int, bool], None]
"""Called with the number of finished pictures, and whether they had to be drawn."""

SEEDS_APART = 1000
"""Distance between seeds: picture i of seed number k has seed ``FIRST_HELD_OUT_SEED + 1000 k + i``."""


@dataclass(frozen=True, kw_only=True)
class SideSource:
    """Base, network and adapters that draw one side.

    Attributes:
        adapter: attached while it draws; ``None``: the plain base, or ``network``.
        network: folder of a fully trained base whose network takes the place of the base's.
        sha256: of what is added to the base; empty for the base.
        merged: whether the adapter is merged into the base's weights instead of attached.
    """

    adapter: Adapter | None = None
    network: Path | None = None
    sha256: str = ""
    merged: bool = False


@dataclass(frozen=True, kw_only=True)
class Ways:
    """Requests of the picture proof, drawn in every way that has to give equal pictures.

    Attributes:
        requests: that were drawn.
        base: uint8 (N, H, W, 3), the plain base.
        switched_off: with the adapter attached at weight 0.
        adapter: with the adapter attached.
        merged: with the adapter merged into the base's weights.
    """

    requests: tuple[ProofRequest, ...]
    base: Pictures
    switched_off: Pictures
    adapter: Pictures
    merged: Pictures


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """All pictures that an adapter is judged by.

    Attributes:
        pictures: set of prompts → side → uint8 (prompts × seeds, H, W, 3), prompt-major.
        files: set of prompts → side → the cells' files, one a seed, relative to the painter's folder; empty where
            pictures are not kept.
        switched_off: uint8, the first batch of the first set's first seed with the adapter attached at weight 0;
            ``None`` where :attr:`ways` has it.
        ways: of the picture proof; ``None`` where that was not asked for.
    """

    pictures: Mapping[str, Mapping[Side, Pictures]]
    files: Mapping[str, Mapping[Side, tuple[str, ...]]] = field(default_factory=dict)
    switched_off: Pictures | None = None
    ways: Ways | None = None


@dataclass(frozen=True, kw_only=True)
class Painter:
    """Draws the pictures of all sides, or reads those that were drawn before.

    Attributes:
        folder: that ``pictures/`` lies in; ``None`` keeps nothing.
        base: with the schedule that the adapter wants.
        spec: how pictures are drawn: size, steps, guidance, batch.
        device: where.
        weight: of every adapter.
        dtype: of the pictures; empty for that of the proof.
    """

    folder: Path | None
    base: Base
    spec: RunSpec
    device: str
    weight: float = 1.0
    dtype: str = ""
    _engines: dict[Path, PictureEngine] = field(default_factory=dict, repr=False)

    @cached_property
    def engine(self) -> PictureEngine:
        """Drawing engine of the base, loaded when the first picture has to be drawn."""
        from detour.generation.engine import PictureEngine

        return PictureEngine.load(self.base, device=self.device, dtype=self.dtype or proof_dtype(self.spec))

    @cached_property
    def _base_sha256(self) -> str:
        """SHA-256 of the base's content, because folders of one name can hold different bases."""
        return self.base.content_sha256()

    def draw_all(
        self,
        sides: Mapping[Side, SideSource],
        prompts: Mapping[str, Sequence[str]],
        *,
        seeds: int,
        proof: Sequence[ProofRequest] = (),
        progress: ProgressFn,
    ) -> Drawn:
        """Draw every side's pictures of every set of prompts.

        Args:
            sides: the base and the adapter at least; the base first.
            prompts: name of the set → its prompts; none of the sets empty.
            seeds: pictures of each prompt.
            proof: requests of the picture proof, drawn in every way; without them the first batch of the first set is
                drawn once more with the adapter switched off.
            progress: told after each batch.

        Raises:
            AdapterError: the base has some of the adapter's layers and lacks others.
            StorageError: disk full or not writable.
            Interrupted: Ctrl-C; what is finished is kept.
        """
        cells = [(side, name, number) for side in sides for name in prompts for number in range(seeds)]
        off = [] if proof or not prompts else requests_of(next(iter(prompts.values())), 0)
        off = off[: proof_batch(self.spec)]
        sizes = [len(prompts[name]) for _, name, _ in cells] + [len(off)] + [len(proof)] * 4
        on_picture = _counting(progress, sum(sizes))
        found: dict[tuple[Side, str, int], tuple[str, Pictures]] = {}
        try:
            ways = self._ways(sides["adapter"], proof, on_picture) if proof else None
            for side, name, number in cells:
                requests = requests_of(prompts[name], number)
                found[side, name, number] = self._cell(sides[side], requests, on_picture)
            switched_off = self._cell(sides["adapter"], off, on_picture, weight=0.0)[1] if off else None
        except KeyboardInterrupt:
            if self.folder is None:
                raise
            raise Interrupted(
                f"stopped: {len(found)} of {len(cells)} cells of pictures are kept in {self.folder / PICTURES}. "
                "The same command goes on from there."
            ) from None

        def strips(side: Side, name: str) -> list[tuple[str, Pictures]]:
            return [found[side, name, number] for number in range(seeds)]

        return Drawn(
            pictures={
                name: {side: _prompt_major([rows for _, rows in strips(side, name)]) for side in sides}
                for name in prompts
            },
            files={
                name: {side: tuple(file for file, _ in strips(side, name)) for side in sides}
                for name in prompts
            },
            switched_off=switched_off,
            ways=ways,
        )

    def draw(self, source: SideSource, requests: Sequence[ProofRequest]) -> Pictures:
        """Draw one side's pictures of the requests, or read kept ones: uint8 (N, H, W, 3)."""
        return self._cell(source, requests, lambda _count, _is_new: None)[1]

    def layers_matched(self, source: SideSource) -> int:
        """Number of layers of the adapter that the base has; a fully trained base has its own."""
        return 1 if source.adapter is None else layers_in(self.engine.models, source.adapter)

    def _ways(self, source: SideSource, proof: Sequence[ProofRequest], on_picture: OnPicture) -> Ways:
        base = self._cell(SideSource(), proof, on_picture)[1]
        if not self.layers_matched(source):
            on_picture(3 * len(proof), False)
            return Ways(requests=tuple(proof), base=base, switched_off=base, adapter=base, merged=base)
        switched_off = self._cell(source, proof, on_picture, weight=0.0)[1]
        adapted = self._cell(source, proof, on_picture)[1]
        merged = adapted
        if source.adapter is None:  # a network of its own is its own merge
            on_picture(len(proof), False)
        else:
            merged = self._cell(replace(source, merged=True), proof, on_picture)[1]
        return Ways(
            requests=tuple(proof), base=base, switched_off=switched_off, adapter=adapted, merged=merged
        )

    def _cell(
        self,
        source: SideSource,
        requests: Sequence[ProofRequest],
        on_picture: OnPicture,
        *,
        weight: float | None = None,
    ) -> tuple[str, Pictures]:
        """File name and pictures of one side and set; the name is empty where nothing is kept."""
        used = self.weight if weight is None else weight
        if self.folder is None:
            return "", self._drawn(source, requests, used, on_picture)
        name = f"{PICTURES}/{self._key(source, requests, used)[:24]}.png"
        path = self.folder / name
        if path.is_file():
            with contextlib.suppress(OSError, ValueError, KeyError):  # half a file of a crash is drawn again
                kept = read_strip(path)
                on_picture(len(kept), False)
                return name, kept
        pending = 0

        def on_batch(count: int, _is_new: bool) -> None:
            """Report a batch when the next one is there; the last one counts when the file is written."""
            nonlocal pending
            if pending:
                on_picture(pending, True)
            pending = count

        drawn = self._drawn(source, requests, used, on_batch)
        save_strip(path, drawn)
        on_picture(pending, True)
        return name, drawn

    def _drawn(
        self, source: SideSource, requests: Sequence[ProofRequest], weight: float, on_picture: OnPicture
    ) -> Pictures:
        engine = self._engine_of(source, weight)
        with self._adapters(source, weight) as adapters:
            return draw_proof_pictures(
                engine, requests, self.spec, adapters=adapters, on_batch=lambda count: on_picture(count, True)
            )

    def _key(self, source: SideSource, requests: Sequence[ProofRequest], weight: float) -> str:
        decides: dict[str, Any] = {
            "base": self._base_sha256,
            "schedule": dict(self.base.scheduler_config()),
            "side": [source.sha256, weight, source.merged] if source.sha256 else None,
            "requests": [[one.prompt, one.seed, one.negative_prompt] for one in requests],
            "how": proof_picture_spec(self.spec).model_dump(mode="json"),
            "batch": proof_batch(self.spec),
            "drawing": DRAWING,
            "dtype": self.dtype or proof_dtype(self.spec),
            "device": self.device.partition(":")[0],
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()

    def _engine_of(self, source: SideSource, weight: float) -> PictureEngine:
        """Engine that draws a side: the base's, or one with the network of a fully trained base."""
        folder = source.network
        if folder is None or not weight:
            return self.engine
        if folder not in self._engines:
            dtype = torch.float32 if not self.dtype else self.engine.dtype
            network = open_base(str(folder)).load_network(dtype, self.device)
            self._engines[folder] = self.engine.with_unet(network)
        return self._engines[folder]

    @contextlib.contextmanager
    def _adapters(self, source: SideSource, weight: float) -> Iterator[list[AdapterInUse]]:
        """Adapters of a side's requests; a merged side is merged into the base while the block runs.

        No weight of a base holds a new word, so words go with the requests; at weight 0 they are left out too.
        """
        from detour.generation.engine import AdapterInUse

        adapter = source.adapter
        if adapter is None or not layers_in(self.engine.models, adapter):
            yield []
            return
        if not source.merged:
            yield [AdapterInUse(adapter=adapter if weight else replace(adapter, words={}), weight=weight)]
            return
        merge = merge_into(self.engine.models, adapter, weight)
        try:
            has_words = bool(adapter.words and weight)
            yield [AdapterInUse(adapter=replace(adapter, layers={}))] if has_words else []
        finally:
            merge.undo()


def layers_in(models: Mapping[str, nn.Module], adapter: Adapter) -> int:
    """Number of the adapter's layers that the models have, by name."""
    return sum(
        part_of(key) in models and find_path(models[part_of(key)], path_of(key)) is not None
        for key in adapter.layers
    )


def requests_of(prompts: Sequence[str], number: int) -> list[ProofRequest]:
    """One request for each prompt, seeded by its number; the same on every side."""
    first = FIRST_HELD_OUT_SEED + SEEDS_APART * number
    return [ProofRequest(prompt=prompt, seed=first + i) for i, prompt in enumerate(prompts)]


def _prompt_major(strips: Sequence[Pictures]) -> Pictures:
    """Reorder S strips of (P, H, W, 3) to (P × S, H, W, 3)."""
    stacked = np.stack(strips, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def _counting(progress: ProgressFn, total: int) -> OnPicture:
    """Report finished pictures after each batch, with the time left from those that had to be drawn."""
    stage = "drawing pictures of all sides"
    done, began, new, paid = 0, time.monotonic(), 0, 0.0
    progress(Progress(stage=stage, total=total))

    def on_picture(count: int, is_new: bool) -> None:
        nonlocal done, began, new, paid
        now = time.monotonic()
        if is_new:
            new, paid = new + count, paid + now - began
        done, began = done + count, now
        left = paid / new * (total - done) if new else None
        progress(Progress(stage=stage, done=done, total=total, seconds_left=left))

    return on_picture
