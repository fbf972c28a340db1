"""Ask every checkpoint of a run for the same new pictures, and say which one to ship."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detour.errors import RunError
from detour.evaluation import pixels
from detour.evaluation.checkpoints import Behind, Candidate, CheckpointFigure, CheckpointFigures, choose
from detour.evaluation.compared import Compared
from detour.evaluation.judge_choice import can_be_judged, open_judge
from detour.evaluation.pixels import Pictures
from detour.evaluation.proof_pictures import ProofRequest
from detour.evaluation.verdict import Verdict
from detour.files import write_json, write_with
from detour.training.checkpoints import kept_adapters
from detour.verbs.judge.figures import Figures, measure_sides
from detour.verbs.judge.finished_run import read_trained_run
from detour.verbs.judge.material import EvaluationMaterial, gather_material
from detour.verbs.judge.presets import quick_preset
from detour.verbs.judge.side_pictures import Drawn, Painter, SideSource, requests_of
from detour.verbs.judge.verdict import OfRun, verdict_of
from detour.verbs.progress import Progress, ProgressFn, silent

if TYPE_CHECKING:
    from torch import Tensor

    from detour.data.folder import Dataset
    from detour.evaluation.judge import Judge

FIGURES = "checkpoints.json"
SHEET = Path("samples") / "checkpoints.png"
STAGE = "comparing checkpoints"
SHOWN_PROMPTS = 6


@dataclass(frozen=True, kw_only=True)
class CheckpointRequest:
    """Prompts, judge and references that are the same for every checkpoint of a run.

    Attributes:
        judge: who scores; ``None`` where nobody can.
        material: prompts, references and training pictures.
        base: uint8 (N, H, W, 3), the base's pictures of the same prompts.
        losses: (step, loss on pictures kept out), the first step first.
    """

    judge: "Judge | None"
    material: EvaluationMaterial
    base: Pictures
    losses: Sequence[tuple[float, float]]


def evaluate_checkpoints(
    run_folder: Path,
    *,
    judge: str | None = None,
    dataset: "Dataset | None" = None,
    progress: ProgressFn = silent,
) -> CheckpointFigures:
    """Draw the held-out prompts with every adapter that the run kept, score them, and choose one.

    Writes ``checkpoints.json`` and ``samples/checkpoints.png`` (prompts × steps). Pictures are drawn in the
    proof's precision and kept beside the adapters, so that an evaluation that was stopped goes on where it was.

    Args:
        run_folder: of a run that is trained, finished or not.
        judge: CLIP model that scores, as a hub id or folder; ``None`` takes the base's own, where it has one.
        dataset: the run's pictures, where they were read before; ``None`` reads them where the run found them.
        progress: told of every checkpoint.

    Raises:
        RunError: no run, or one that kept no adapters.
        AdapterError: one of them was damaged since it was written.
        BaseError: the base is not there any more.
    """
    from detour.bases.base import open_base
    from detour.bases.hardware import pick_device, set_threads
    from detour.evaluation.feature_cache import FeatureCache
    from detour.training.assembly import as_trained

    files = require_kept_adapters(run_folder)
    run = replace(read_trained_run(run_folder), dataset=dataset)
    spec = run.spec
    set_threads(spec.train.threads)
    base = as_trained(open_base(spec.base.name, revision=spec.base.revision), spec)
    size_px = spec.data.resolution if isinstance(spec.data.resolution, int) else base.native_size_px
    material = gather_material(
        run, base, quick_preset(spec), size_px=size_px, judged=can_be_judged(judge, base)
    )
    if not material.new_prompts.prompts:
        raise RunError(f"{run_folder}: no prompts to ask its checkpoints. Set evaluate.prompts.")
    device = pick_device(spec.base.device)
    kept = next(iter(files.values())).parent
    painter = Painter(folder=kept, base=base, spec=spec, device=device)
    requests = requests_of(material.new_prompts.prompts, 0)
    drawn = _draw_all(painter, files, requests, progress)
    progress(Progress(stage=STAGE, note="scoring"))
    cache = FeatureCache()
    try:
        opened, _ = open_judge(judge, base, device=device, cache=cache, fetch=False)
        request = CheckpointRequest(
            judge=opened, material=material, base=drawn[None], losses=run.metrics.validation
        )
        figures = measure_checkpoints(
            request, {step: pictures for step, pictures in drawn.items() if step is not None}
        )
    finally:
        cache.close()
    _write_sheet(run_folder / SHEET, requests, drawn)
    write_json(run_folder / FIGURES, figures.model_dump(mode="json", by_alias=True))
    return figures


def require_kept_adapters(run_folder: Path) -> dict[int, Path]:
    """Find the adapter file of every checkpoint of a run, and refuse files that are not what was written.

    Raises:
        RunError: none was kept.
        AdapterError: one was damaged since it was written.
    """
    from detour.adapter_files.reading import require_intact

    files = kept_adapters(run_folder)
    if not files:
        raise RunError(
            f"{run_folder}: no adapters are kept in checkpoints/adapters. Train with checkpoint.every above 0; full "
            "fine-tuning keeps none."
        )
    for file in files.values():
        require_intact(file)
    return files


def _draw_all(
    painter: Painter, files: dict[int, Path], requests: Sequence[ProofRequest], progress: ProgressFn
) -> dict[int | None, Pictures]:
    """Draw the same prompts with the adapter of each checkpoint and without any; pictures drawn before are read."""
    from detour.verbs.chosen_adapters import choose_adapter

    drawn: dict[int | None, Pictures] = {}
    sources: list[tuple[int | None, Path | None]] = [(None, None), *files.items()]
    for done, (step, file) in enumerate(sources):
        progress(Progress(stage=STAGE, done=done, total=len(sources)))
        source = SideSource()
        if file is not None:
            chosen = choose_adapter(str(file), painter.base)
            source = SideSource(adapter=chosen.adapter, sha256=chosen.use.tensor_sha256)
        drawn[step] = painter.draw(source, requests)
    progress(Progress(stage=STAGE, done=len(sources), total=len(sources)))
    return drawn


def measure_checkpoints(request: CheckpointRequest, drawn: dict[int, Pictures]) -> CheckpointFigures:
    """Score each checkpoint's pictures and choose among them.

    Args:
        request: prompts, judge and references, equal for all.
        drawn: step → uint8 (N, H, W, 3), pictures of the same requests as the base's.
    """
    found: dict[int, tuple[Figures, Verdict, Pictures]] = {}
    candidates = []
    for step, pictures in drawn.items():
        losses = tuple(loss for at, loss in request.losses if at <= step)
        sides = Drawn(pictures={"held_out": {"base": request.base, "adapter": pictures}})
        figures = measure_sides(request.judge, sides, request.material, None, seeds=1)
        verdict, _ = verdict_of(request.judge, figures, sides, request.material, OfRun(validation=losses))
        candidates.append(
            Candidate(
                step=step,
                verdict=verdict.name,
                held_out_loss=losses[-1] if losses else None,
                features=figures.picture_features.get("adapter"),
            )
        )
        found[step] = (figures, verdict, pictures)
    choice = choose(candidates, _references(request))
    rows = [_row(request, *found[one.step], one, choice.behind.get(one.step)) for one in candidates]
    return CheckpointFigures(
        prompts=len(request.material.new_prompts.prompts),
        seeds=1,
        checkpoints=tuple(rows),
        chosen_step=choice.step,
        sound=choice.sound,
        reason=choice.reason,
    )


def _references(request: CheckpointRequest) -> "Tensor | None":
    if request.judge is None or request.material.references is None:
        return None
    return request.judge.picture_features(request.material.references)


def _row(
    request: CheckpointRequest,
    figures: Figures,
    verdict: Verdict,
    pictures: Pictures,
    candidate: Candidate,
    behind: Behind | None,
) -> CheckpointFigure:
    kept, copied = figures.prompt_keeping, figures.copies
    true = request.material.truths
    return CheckpointFigure(
        step=candidate.step,
        held_out_loss=candidate.held_out_loss,
        style_distance=None if figures.fidelity is None else figures.fidelity.style_distance,
        accuracy={}
        if kept is None or kept.parts is None
        else {name: part.share for name, part in kept.parts.items()},
        diversity=Compared(
            adapter=pixels.diversity(pictures),
            base=pixels.diversity(request.base),
            ceiling=None if true is None else pixels.diversity(true),
        ),
        copied=None if copied is None else Compared(adapter=copied.share.adapter, base=copied.share.base),
        verdict=verdict.name,
        reason=verdict.reasons[0],
        behind_best=behind.difference if behind else None,
        standard_error=behind.standard_error if behind else None,
    )


def _write_sheet(path: Path, requests: Sequence[ProofRequest], drawn: dict[int | None, Pictures]) -> None:
    """Write one picture with a row for each prompt: the base's picture, then that of each checkpoint."""
    from detour.generation.grids import grid

    shown = range(min(SHOWN_PROMPTS, len(requests)))
    cells = np.stack([pictures[i] for i in shown for pictures in drawn.values()])
    sheet = grid(
        cells,
        len(drawn),
        row_labels=[requests[i].prompt for i in shown],
        column_labels=["base" if step is None else f"step {step}" for step in drawn],
    )
    write_with(path, lambda temporary: sheet.save(temporary, "PNG", optimize=True))
