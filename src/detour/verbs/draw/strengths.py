"""One adapter on one sheet: a column for each strength, a row for each prompt and checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from detour.adapter_files.hashes import data_sha256
from detour.adapter_files.reading import require_intact
from detour.bases.base import open_base
from detour.bases.hardware import drawing_dtype, pick_device
from detour.errors import ConfigError
from detour.evaluation.pixels import Pictures, mean_abs_diff
from detour.files import write_json
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.generation.png import save_image
from detour.specs.generation import GenerateSpec
from detour.training.checkpoints import kept_adapters
from detour.verbs.chosen_adapters import base_for, choose_adapter, in_use, parse_lora
from detour.verbs.draw.screening import Screening, WithheldPicture, open_policy
from detour.verbs.draw.sheets import refuse_unread
from detour.verbs.progress import Progress, ProgressFn, silent
from detour.verbs.staging import refuse_no_png, refuse_taken

STRENGTHS = (0.5, 0.75, 1.0, 1.25)
"""Columns where nothing else is asked for, beside the base."""

MOST_CHECKPOINTS = 6
"""Rows of a prompt; of more checkpoints, those at even distances are drawn, the first and the last among them."""


class StrengthRow(BaseModel):
    """One prompt with the weights of one step; figures are mean absolute differences to the base, 0-255 scale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    seed: int
    adapter: str
    """``step 200`` of a run's checkpoint, else the file's name."""
    moved: tuple[float, ...]
    """One for each strength."""


class StrengthResult(BaseModel):
    """The sheet and its figures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    figures: Path
    base: str
    name: str
    strengths: tuple[float, ...]
    checkpoints: tuple[str, ...]
    left_out: int
    """Checkpoints that were not drawn, because there are more than fit a sheet."""
    rows: tuple[StrengthRow, ...]
    policy: str = ""
    """Version of the safety policy; empty without one."""
    withheld: tuple[WithheldPicture, ...] = ()
    """Pictures that the policy refused or held: a grey field in the sheet; a refused prompt has no row."""

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)


def draw_strengths(
    spec: GenerateSpec,
    *,
    out: Path,
    strengths: Sequence[float] = STRENGTHS,
    force: bool = False,
    progress: ProgressFn = silent,
) -> StrengthResult:
    """Draw every prompt with the base and with one adapter at several strengths, for each checkpoint of its run.

    Args:
        spec: one adapter in ``loras``, whose own weight multiplies the strengths; prompt i has the seed ``seed + i`` in
            every cell. Checkpoints are those of ``checkpoints/adapters`` beside the file, where there are some.
        out: the sheet, a ``.png``; its figures go beside it as ``.json``.
        strengths: one column for each.
        force: write over what stands at ``out``.
        progress: told picture by picture.

    Raises:
        ConfigError: not one adapter, no strengths, settings that a sheet does not read, or ``out`` is taken.
        AdapterError: the adapter or a checkpoint is broken, damaged or made for another base.
        Withheld: the policy refuses every prompt.
    """
    refuse_unread(spec)
    if len(spec.loras) != 1:
        raise ConfigError(
            f"a sheet of strengths shows one adapter, {len(spec.loras)} were named. Pass --lora once."
        )
    if not strengths or not spec.prompts:
        raise ConfigError("a sheet of strengths needs a prompt and a strength.")
    refuse_no_png(out)
    figures = out.with_suffix(".json")
    for place in (out, figures):
        refuse_taken(place, force=force)
    file, weight = parse_lora(spec.loras[0])
    sources, left_out = _sources(file)
    base = open_base(spec.base, revision=spec.revision)
    base.require_weights()
    chosen = [choose_adapter(f"{one.file}:{weight}", base, allow_pickle=spec.allow_pickle) for one in sources]
    base = base_for(base, chosen)
    device = pick_device(spec.device)
    asked = [
        PictureRequest(prompt=text, seed=spec.seed + index, adapters=in_use(chosen))
        for index, text in enumerate(spec.prompts)
    ]
    screening = Screening(open_policy(spec.policy, base, device=device), asked)
    screening.require_open()
    requests = [request for _, request in screening.open]
    engine = PictureEngine.load(
        base, device=device, dtype=drawing_dtype(spec.dtype, device), safety=True, prompts="written"
    )
    total, done = (1 + len(sources) * len(strengths)) * len(requests), 0

    def drawn(*adapters: AdapterInUse) -> tuple[Pictures, Pictures]:
        nonlocal done
        progress(Progress(stage="drawing", done=done, total=total))
        pictures = screening.draw(engine, spec.picture, adapters=adapters, batch=spec.batch)
        done += len(requests)
        return pictures

    plain, plain_shown = drawn()
    cells = [[drawn(*in_use([one], factor=strength)) for strength in strengths] for one in chosen]
    rows, pictures, labels = [], [], []
    for index, request in enumerate(requests):
        for source, mine in zip(sources, cells, strict=True):
            pictures += [plain_shown[index], *(shown[index] for _, shown in mine)]
            labels.append(f"{request.prompt}  (seed {request.seed}, {source.name})")
            moved = tuple(
                mean_abs_diff(plain[index : index + 1], column[index : index + 1]) for column, _ in mine
            )
            rows.append(
                StrengthRow(prompt=request.prompt, seed=request.seed, adapter=source.name, moved=moved)
            )
    heads = ["base", *(f"×{strength:g}" for strength in strengths)]
    save_image(out, grid(np.stack(pictures), len(heads), row_labels=labels, column_labels=heads))
    result = StrengthResult(
        path=out,
        figures=figures,
        base=base.identity,
        name=file.stem,
        strengths=tuple(strengths),
        checkpoints=tuple(source.name for source in sources),
        left_out=left_out,
        rows=tuple(rows),
        policy=screening.version,
        withheld=tuple(screening.withheld),
    )
    write_json(figures, result.model_dump(mode="json", exclude={"path", "figures"}))
    return result


@dataclass(frozen=True, kw_only=True)
class _Source:
    """An adapter file and how its row is called."""

    name: str
    file: Path


def _sources(file: Path) -> tuple[list[_Source], int]:
    """The checkpoints of the run that the file is the product of, and the file itself; how many were left out.

    A checkpoint with the same tensors as the file is the file.
    """
    kept = kept_adapters(file.parent) if file.is_file() else {}
    whole = data_sha256(file.read_bytes()) if kept else ""
    steps = []
    for step, place in kept.items():
        require_intact(place)
        if data_sha256(place.read_bytes()) != whole:
            steps.append(_Source(name=f"step {step}", file=place))
    every = [*steps, _Source(name=file.stem, file=file)]
    if len(every) <= MOST_CHECKPOINTS:
        return every, 0
    places = sorted({round(at) for at in np.linspace(0, len(every) - 1, MOST_CHECKPOINTS)})
    return [every[place] for place in places], len(every) - len(places)
