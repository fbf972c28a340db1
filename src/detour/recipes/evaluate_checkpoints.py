"""Ask every checkpoint of a run for the same new pictures, and say which one to ship."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detour.errors import RunError
from detour.evaluation import pixels
from detour.evaluation.checkpoints import Behind, Candidate, CheckpointFigure, CheckpointFigures, choose
from detour.evaluation.compared import Compared
from detour.evaluation.copies import CopyScale, calibrate, find_copies
from detour.evaluation.held_out import Scores, score_held_out
from detour.evaluation.pixels import Pictures
from detour.evaluation.proof_pictures import (
    ProofRequest,
    draw_proof_pictures,
    keep_pictures,
    proof_dtype,
    read_pictures,
)
from detour.evaluation.report import read_metrics
from detour.evaluation.sides import models_of
from detour.evaluation.verdict import PictureEvidence, Verdict, decide_pictures
from detour.files import sha256_of, write_json, write_with
from detour.recipes.held_out_material import (
    HeldOutMaterial,
    TrainingPictures,
    gather_held_out,
    training_pictures_or_note,
)
from detour.recipes.progress import Progress, ProgressFn, silent
from detour.specs import RunSpec
from detour.training.checkpoints import kept_adapters
from detour.training.resume import read_settings

if TYPE_CHECKING:
    from torch import Tensor

    from detour.bases.base import Base
    from detour.evaluation.judge import Judge

FIGURES = "checkpoints.json"
SHEET = Path("samples") / "checkpoints.png"
STAGE = "comparing checkpoints"
SHOWN_PROMPTS = 6


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What all checkpoints are asked and measured with.

    Attributes:
        judge: of the base; ``None`` where it has none.
        base: uint8 (N, H, W, 3), the base's pictures of the same requests.
        losses: (step, loss on pictures kept out), the first step first.
    """

    judge: "Judge | None"
    material: HeldOutMaterial
    training: TrainingPictures | None
    base: Pictures
    losses: Sequence[tuple[float, float]]

    @cached_property
    def copy_scale(self) -> CopyScale | None:
        """Where a copy of the training pictures begins."""
        return calibrate(self.training.train) if self.training and len(self.training.train) else None

    @cached_property
    def copied_base(self) -> float | None:
        """Share of the base's pictures that look like copies."""
        return self.copied(self.base)

    def copied(self, pictures: Pictures) -> float | None:
        """Share of copies of training pictures; ``None``: there is nothing to compare with."""
        if self.training is None or self.copy_scale is None:
            return None
        return find_copies(pictures, self.training.train, self.copy_scale).share


def evaluate_checkpoints(
    run_folder: Path, *, judge: "Judge | None" = None, progress: ProgressFn = silent
) -> CheckpointFigures:
    """Draw the held-out prompts with every adapter that the run kept, score them, and choose one.

    Writes ``checkpoints.json`` and ``samples/checkpoints.png`` (prompts × steps). Pictures are drawn in the
    proof's precision and kept beside the adapters, so that an evaluation that was stopped goes on where it was.

    Args:
        run_folder: of a run that is trained, finished or not.
        judge: who scores; ``None`` takes the base's own, where it has one.
        progress: told of every checkpoint.

    Raises:
        RunError: no run, or one that kept no adapters.
        AdapterError: one of them was damaged since it was written.
        BaseError: the base is not there any more.
    """
    from detour.adapter_files.reading import require_intact
    from detour.bases.base import open_base
    from detour.bases.hardware import set_threads
    from detour.training.assembly import as_trained

    spec = read_settings(run_folder)
    files = require_kept_adapters(run_folder)
    for file in files.values():
        require_intact(file)
    set_threads(spec.train.threads)
    base = as_trained(open_base(spec.base.name, revision=spec.base.revision), spec)
    size_px = spec.data.resolution if isinstance(spec.data.resolution, int) else base.native_size_px
    training, _ = training_pictures_or_note(spec, size_px=size_px, run_folder=run_folder)
    material = gather_held_out(spec, base, run_folder, training, size_px=size_px)
    if not material.requests:
        raise RunError(f"{run_folder}: no prompts to ask its checkpoints. Set evaluate.prompts.")
    drawn = _draw_all(base, spec, files, material.requests, progress)
    progress(Progress(stage=STAGE, note="scoring"))
    asked = _Asked(
        judge=judge or _judge(base),
        material=material,
        training=training,
        base=drawn[None],
        losses=read_metrics(run_folder / "metrics.jsonl").validation,
    )
    figures = measure_checkpoints(
        asked, {step: pictures for step, pictures in drawn.items() if step is not None}
    )
    _write_sheet(run_folder / SHEET, material.requests, drawn)
    write_json(run_folder / FIGURES, figures.model_dump(mode="json", by_alias=True))
    return figures


def require_kept_adapters(run_folder: Path) -> dict[int, Path]:
    """Step → adapter file of every checkpoint.

    Raises:
        RunError: none was kept.
    """
    files = kept_adapters(run_folder)
    if not files:
        raise RunError(
            f"{run_folder}: no adapters are kept in checkpoints/adapters. Train with checkpoint.every above 0; full "
            "fine-tuning keeps none."
        )
    return files


def _judge(base: "Base") -> "Judge | None":
    from detour.evaluation.judge import Judge

    folder = base.folder / "judge"
    return Judge.load(folder) if folder.is_dir() else None


def _draw_all(
    base: "Base",
    spec: RunSpec,
    files: dict[int, Path],
    requests: Sequence[ProofRequest],
    progress: ProgressFn,
) -> dict[int | None, Pictures]:
    """Step → pictures, ``None`` the base's; what was drawn before is read back."""
    from detour.adapter_files import read_adapter
    from detour.adapters.attach import attach_adapter
    from detour.bases.hardware import pick_device
    from detour.generation.engine import PictureEngine

    engine: PictureEngine | None = None
    drawn: dict[int | None, Pictures] = {}
    sources: list[tuple[int | None, Path | None]] = [(None, None), *files.items()]
    for done, (step, file) in enumerate(sources):
        progress(Progress(stage=STAGE, done=done, total=len(sources)))
        kept = next(iter(files.values())).parent / ("base.npz" if file is None else f"{file.stem}.npz")
        whose = "" if file is None else sha256_of(file)
        made_by = f"{base.content_sha256()} {whose} {spec.evaluate.steps} steps {proof_dtype(spec)}"
        before = read_pictures(kept, made_by=made_by)
        if before is not None and before[0] == list(requests):
            drawn[step] = before[1]
            continue
        if engine is None:
            engine = PictureEngine.load(base, device=pick_device(spec.base.device), dtype=proof_dtype(spec))
        if file is None:
            drawn[step] = draw_proof_pictures(engine, requests, spec)
        else:
            adapter = read_adapter(file)
            attached = attach_adapter(models_of(engine), adapter)
            try:
                with engine.text.with_words(adapter.words):
                    drawn[step] = draw_proof_pictures(engine, requests, spec)
            finally:
                attached.detach()
        keep_pictures(kept, requests, drawn[step], made_by=made_by)
    progress(Progress(stage=STAGE, done=len(sources), total=len(sources)))
    return drawn


def measure_checkpoints(asked: _Asked, drawn: dict[int, Pictures]) -> CheckpointFigures:
    """Score each checkpoint's pictures and choose among them.

    Args:
        asked: what they were asked and are measured with.
        drawn: step → uint8 (N, H, W, 3), pictures of the same requests as the base's.
    """
    found, candidates = {}, []
    for step, pictures in drawn.items():
        losses = tuple(loss for at, loss in asked.losses if at <= step)
        scores = score_held_out(
            asked.judge,
            asked.base,
            pictures,
            style=asked.material.style,
            accuracy=asked.material.accuracy,
            prompts=asked.material.prompts,
        )
        evidence = _evidence(asked, pictures, scores, losses)
        verdict = decide_pictures(evidence)
        candidates.append(
            Candidate(
                step=step,
                verdict=verdict.name,
                held_out_loss=losses[-1] if losses else None,
                features=None if asked.judge is None else asked.judge.picture_features(pictures),
            )
        )
        found[step] = (evidence, verdict)
    choice = choose(candidates, _references(asked))
    rows = []
    for candidate in candidates:
        evidence, verdict = found[candidate.step]
        behind = choice.behind.get(candidate.step)
        rows.append(_row(asked, evidence, verdict, candidate, behind))
    return CheckpointFigures(
        prompts=len({request.prompt for request in asked.material.requests}),
        seeds=1,
        checkpoints=tuple(rows),
        chosen_step=choice.step,
        sound=choice.sound,
        reason=choice.reason,
    )


def _references(asked: _Asked) -> "Tensor | None":
    if asked.judge is None or asked.material.style is None:
        return None
    return asked.judge.picture_features(asked.material.style.references)


def _evidence(
    asked: _Asked, pictures: Pictures, scores: Scores, losses: tuple[float, ...]
) -> PictureEvidence:
    true = asked.material.truths
    expected = [pixels.diversity(one) for one in (asked.base, true) if one is not None]
    return PictureEvidence(
        held_out=scores.figures,
        style_p_value=scores.style_p_value,
        falls=scores.falls,
        following=scores.following,
        validation=losses,
        diversity=pixels.diversity(pictures),
        diversity_expected=min(expected),
        copied_share=asked.copied(pictures),
        copied_share_base=asked.copied_base or 0.0,
    )


def _row(
    asked: _Asked, evidence: PictureEvidence, verdict: Verdict, candidate: Candidate, behind: Behind | None
) -> CheckpointFigure:
    style, accuracy = evidence.held_out.style_distance, evidence.held_out.prompt_accuracy
    true, copied = asked.material.truths, evidence.copied_share
    copied_base = asked.copied_base
    return CheckpointFigure(
        step=candidate.step,
        held_out_loss=candidate.held_out_loss,
        style_distance=None
        if style is None
        else Compared(adapter=style.adapter, base=style.base, ceiling=style.ceiling),
        accuracy={}
        if accuracy is None
        else {
            part: Compared(
                adapter=getattr(accuracy.adapter, part),
                base=getattr(accuracy.base, part),
                ceiling=getattr(accuracy.ceiling, part),
            )
            for part in type(accuracy.base).model_fields
        },
        diversity=Compared(
            adapter=evidence.diversity or 0.0,
            base=pixels.diversity(asked.base),
            ceiling=None if true is None else pixels.diversity(true),
        ),
        copied=None if copied is None or copied_base is None else Compared(adapter=copied, base=copied_base),
        verdict=verdict.name,
        reason=verdict.reasons[0],
        behind_best=behind.difference if behind else None,
        standard_error=behind.standard_error if behind else None,
    )


def _write_sheet(path: Path, requests: Sequence[ProofRequest], drawn: dict[int | None, Pictures]) -> None:
    """Prompts × (base, every step)."""
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
