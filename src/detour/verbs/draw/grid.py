"""The composition experiment as one picture: base, A, B and A+B at several weights, everything else equal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from detour.bases.base import open_base
from detour.bases.hardware import drawing_dtype, pick_device
from detour.errors import ConfigError
from detour.evaluation.pixels import Pictures, mean_abs_diff
from detour.files import write_json
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.generation.png import save_image
from detour.specs.generation import GenerateSpec
from detour.verbs.chosen_adapters import base_for, choose_adapter, in_use
from detour.verbs.draw.screening import Screening, WithheldPicture, open_policy
from detour.verbs.draw.sheets import refuse_unread
from detour.verbs.progress import Progress, ProgressFn, silent
from detour.verbs.staging import refuse_no_png, refuse_taken


class GridRow(BaseModel):
    """One prompt at one weight; figures are mean absolute differences to the base, on the 0-255 scale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    seed: int
    weight: float
    first: float
    second: float
    both: float


class GridResult(BaseModel):
    """The sheet and its figures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    figures: Path
    base: str
    names: tuple[str, str]
    rows: tuple[GridRow, ...]
    policy: str = ""
    """Version of the safety policy; empty without one."""
    withheld: tuple[WithheldPicture, ...] = ()
    """Pictures that the policy refused or held: a grey field in the sheet; a refused prompt has no row."""

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)


def draw_grid(
    spec: GenerateSpec,
    *,
    out: Path,
    weights: Sequence[float] = (0.5, 1.0),
    force: bool = False,
    progress: ProgressFn = silent,
) -> GridResult:
    """Draw every prompt with the base, with each of two adapters, and with both.

    Args:
        spec: two adapters in ``loras``, whose own weights multiply those of the rows; prompt i has the seed
            ``seed + i`` in every column and row.
        out: the sheet, a ``.png``; its figures go beside it as ``.json``.
        weights: one row of each prompt for each.
        force: overwrite existing output.
        progress: told picture by picture.

    Raises:
        ConfigError: not two adapters, no weights, settings that a sheet does not read, or ``out`` is taken.
        AdapterError: an adapter is broken or made for another base.
        Withheld: the policy refuses every prompt.
    """
    refuse_unread(spec)
    if len(spec.loras) != 2:
        raise ConfigError(
            f"a grid compares two adapters, {len(spec.loras)} were named. Pass --lora twice, or "
            "once for one adapter at several strengths."
        )
    if not weights or not spec.prompts:
        raise ConfigError("a grid needs a prompt and a weight.")
    refuse_no_png(out)
    figures = out.with_suffix(".json")
    for place in (out, figures):
        refuse_taken(place, force=force)
    base = open_base(spec.base, revision=spec.revision)
    base.require_weights()
    chosen = [choose_adapter(text, base, allow_pickle=spec.allow_pickle) for text in spec.loras]
    base = base_for(base, chosen)
    device = pick_device(spec.device)
    dtype = drawing_dtype(spec.dtype, device)
    asked = [
        PictureRequest(prompt=prompt, seed=spec.seed + index, adapters=in_use(chosen))
        for index, prompt in enumerate(spec.prompts)
    ]
    screening = Screening(open_policy(spec.policy, base, device=device), asked)
    screening.require_open()
    requests = [request for _, request in screening.open]
    engine = PictureEngine.load(base, device=device, dtype=dtype, safety=True, prompts="written")
    total = (1 + 3 * len(weights)) * len(requests)
    done = 0

    def drawn(first: float, second: float) -> tuple[Pictures, Pictures]:
        nonlocal done
        adapters = [
            AdapterInUse(adapter=one.adapter, weight=one.use.weight * weight, sha256=one.use.sha256)
            for one, weight in zip(chosen, (first, second), strict=True)
        ]
        progress(Progress(stage="drawing", done=done, total=total))
        pictures = screening.draw(engine, spec.picture, adapters=adapters, batch=spec.batch)
        done += len(requests)
        return pictures

    plain = drawn(0.0, 0.0)
    cells = {weight: (drawn(weight, 0.0), drawn(0.0, weight), drawn(weight, weight)) for weight in weights}
    rows, pictures, labels = [], [], []
    for index, request in enumerate(requests):
        for weight in weights:
            columns = (plain, *cells[weight])
            mine = [column[index] for column, _ in columns]
            pictures += [shown[index] for _, shown in columns]
            labels.append(f"{request.prompt}  (seed {request.seed}, weight {weight:g})")
            moved = [mean_abs_diff(mine[0][None], one[None]) for one in mine[1:]]
            rows.append(
                GridRow(
                    prompt=request.prompt, seed=request.seed, weight=weight,
                    first=moved[0], second=moved[1], both=moved[2],
                )
            )  # fmt: skip
    names = (chosen[0].use.name, chosen[1].use.name)
    heads = ["base", names[0], names[1], f"{names[0]} + {names[1]}"]
    save_image(out, grid(np.stack(pictures), 4, row_labels=labels, column_labels=heads))
    result = GridResult(
        path=out, figures=figures, base=base.identity, names=names, rows=tuple(rows),
        policy=screening.version, withheld=tuple(screening.withheld),
    )  # fmt: skip
    write_json(figures, result.model_dump(mode="json", exclude={"path", "figures"}))
    return result
