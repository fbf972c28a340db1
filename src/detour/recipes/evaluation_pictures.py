"""Draws every side of an evaluation, cell by cell, and keeps each cell by what decides over its pictures.

A cell is one side's pictures of one set of prompts at one seed. It is one PNG under ``pictures/``, named after its
content's cause; so an evaluation that was stopped goes on, and one that asks for more seeds draws those alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from detour.adapters.adapter import Adapter
from detour.bases.base import Base, open_base
from detour.errors import Interrupted
from detour.evaluation.compared import Side
from detour.evaluation.pixels import Pictures
from detour.evaluation.proof_pictures import (
    ProofRequest,
    proof_batch,
    proof_dtype,
    proof_picture_spec,
)
from detour.evaluation.sides import layers_in
from detour.recipes.experiments.engine import read_strip, save_strip
from detour.recipes.generate_pictures import versions
from detour.recipes.held_out_material import FIRST_HELD_OUT_SEED
from detour.recipes.progress import Progress, ProgressFn
from detour.specs import RunSpec

if TYPE_CHECKING:
    from detour.generation.engine import AdapterInUse, PictureEngine

PICTURES = "pictures"
DRAWING = 2
"""Way of drawing: another one rounds otherwise, and pictures of two ways are not compared."""
SEEDS_APART = 1000
"""Picture i of seed number k has seed ``FIRST_HELD_OUT_SEED + 1000 k + i``: the first ones are the proof's."""


@dataclass(frozen=True, kw_only=True)
class SideSource:
    """Who draws a side.

    Attributes:
        adapter: attached while it draws; ``None``: the plain base, or ``unet``.
        unet: folder of a fully trained base whose UNet takes the place of the base's.
        sha256: of what is added to the base; empty for the base.
    """

    adapter: Adapter | None = None
    unet: Path | None = None
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The pictures of an evaluation.

    Attributes:
        pictures: set of prompts → side → uint8 (prompts × seeds, H, W, 3), prompt-major.
        files: set of prompts → side → the cells' files, one a seed, relative to the evaluation's folder.
        switched_off: uint8, the first batch of the first set's first seed with the adapter attached at weight 0.
    """

    pictures: Mapping[str, Mapping[Side, Pictures]]
    files: Mapping[str, Mapping[Side, tuple[str, ...]]]
    switched_off: Pictures


@dataclass(frozen=True, kw_only=True)
class Painter:
    """Draws cells of one evaluation, or finds them drawn.

    Attributes:
        folder: of the evaluation.
        base: with the schedule that the adapter wants.
        spec: how pictures are drawn: size, steps, guidance, batch.
        device: where.
        weight: of every adapter.
    """

    folder: Path
    base: Base
    spec: RunSpec
    device: str
    weight: float = 1.0
    _engines: dict[Path, PictureEngine] = field(default_factory=dict, repr=False)

    @cached_property
    def engine(self) -> PictureEngine:
        """In the proof's precision; loaded when the first cell has to be drawn."""
        from detour.generation.engine import PictureEngine

        return PictureEngine.load(self.base, device=self.device, dtype=proof_dtype(self.spec))

    @cached_property
    def _base_sha256(self) -> str:
        """Of the base's weights: two folders of one name hold two bases."""
        return self.base.weights_sha256()

    def draw_all(
        self,
        sides: Mapping[Side, SideSource],
        prompts: Mapping[str, Sequence[str]],
        *,
        seeds: int,
        progress: ProgressFn,
    ) -> Drawn:
        """Every side's pictures of every set of prompts.

        Args:
            sides: the base and the adapter at least; the base first.
            prompts: name of the set → its prompts; none of the sets empty.
            seeds: pictures of each prompt.
            progress: told after each cell.

        Raises:
            AdapterError: the base has some of the adapter's layers and lacks others.
            StorageError: disk full or not writable.
            Interrupted: Ctrl-C; what is finished is kept.
        """
        cells = [(side, name, number) for side in sides for name in prompts for number in range(seeds)]
        off = requests_of(next(iter(prompts.values())), 0)[: proof_batch(self.spec)]
        told = _counting(progress, [len(prompts[name]) for _, name, _ in cells] + [len(off)])
        found: dict[tuple[Side, str, int], tuple[str, Pictures]] = {}
        try:
            for side, name, number in cells:
                file, drawn, is_new = self._cell(sides[side], requests_of(prompts[name], number))
                found[side, name, number] = file, drawn
                told(is_new)
            _, switched_off, is_new = self._cell(sides["adapter"], off, weight=0.0)
            told(is_new)
        except KeyboardInterrupt:
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
        )

    def layers_matched(self, source: SideSource) -> int:
        """Layers of the adapter that the base has; a fully trained base has its own."""
        if source.adapter is None:
            return 1
        return layers_in(self.engine.models, source.adapter)

    def _cell(
        self, source: SideSource, requests: Sequence[ProofRequest], *, weight: float | None = None
    ) -> tuple[str, Pictures, bool]:
        """File name and pictures of one cell, and whether they had to be drawn."""
        used = self.weight if weight is None else weight
        name = f"{PICTURES}/{self._key(source, requests, used)[:24]}.png"
        path = self.folder / name
        if path.is_file():
            with contextlib.suppress(OSError, ValueError, KeyError):  # half a file of a crash is drawn again
                return name, read_strip(path), False
        how, batch = proof_picture_spec(self.spec), proof_batch(self.spec)
        drawn = (
            self._engine_of(source, used)
            .draw(requests, how, adapters=self._adapters(source, used), batch=batch)
            .pictures
        )
        save_strip(path, drawn)
        return name, drawn, True

    def _key(self, source: SideSource, requests: Sequence[ProofRequest], weight: float) -> str:
        decides: dict[str, Any] = {
            "base": self._base_sha256,
            "schedule": dict(self.base.scheduler_config()),
            "side": [source.sha256, weight] if source.sha256 else None,
            "requests": [[one.prompt, one.seed, one.negative_prompt] for one in requests],
            "how": proof_picture_spec(self.spec).model_dump(mode="json"),
            "batch": proof_batch(self.spec),
            "drawing": DRAWING,
            "dtype": proof_dtype(self.spec),
            "device": self.device.partition(":")[0],
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()

    def _engine_of(self, source: SideSource, weight: float) -> PictureEngine:
        """The engine that draws a side: the base's, or one with the UNet of a fully trained base."""
        if source.unet is None or not weight:
            return self.engine
        if source.unet not in self._engines:
            unet = open_base(str(source.unet)).load_network(torch.float32, self.device)
            self._engines[source.unet] = self.engine.with_unet(unet)
        return self._engines[source.unet]

    def _adapters(self, source: SideSource, weight: float) -> list[AdapterInUse]:
        """What a side adds to the base; at weight 0 its words are left out too."""
        from detour.generation.engine import AdapterInUse

        adapter = source.adapter
        if adapter is None or not layers_in(self.engine.models, adapter):
            return []
        return [AdapterInUse(adapter=adapter if weight else replace(adapter, words={}), weight=weight)]


def requests_of(prompts: Sequence[str], number: int) -> list[ProofRequest]:
    """One picture of each prompt at the seed of that number; the same on every side."""
    first = FIRST_HELD_OUT_SEED + SEEDS_APART * number
    return [ProofRequest(prompt=prompt, seed=first + i) for i, prompt in enumerate(prompts)]


def _prompt_major(strips: Sequence[Pictures]) -> Pictures:
    """S strips of (P, H, W, 3) → (P × S, H, W, 3)."""
    stacked = np.stack(strips, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def _counting(progress: ProgressFn, sizes: Sequence[int]) -> Callable[[bool], None]:
    """Tells after each cell of so many pictures, with the time left by those that had to be drawn."""
    stage, left = "drawing pictures of all sides", list(sizes)
    total, began, new, paid = sum(sizes), time.monotonic(), 0, 0.0
    progress(Progress(stage=stage, total=total))

    def told(is_new: bool) -> None:
        nonlocal began, new, paid
        now, size = time.monotonic(), left.pop(0)
        if is_new:
            new, paid = new + size, paid + now - began
        began, rest = now, sum(left)
        progress(
            Progress(
                stage=stage,
                done=total - rest,
                total=total,
                seconds_left=paid / new * rest if new else None,
            )
        )

    return told
