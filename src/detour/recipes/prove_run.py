"""Prove a finished run: load its file into a fresh base, draw, compare, decide, and write it all down."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detour.adapters.adapter import Adapter
from detour.evaluation import pixels, thresholds
from detour.evaluation.card import write_card
from detour.evaluation.causes import AdapterState, causes_of_no_effect
from detour.evaluation.copies import calibrate, find_copies
from detour.evaluation.held_out import Scores, score_held_out
from detour.evaluation.pixels import Pictures
from detour.evaluation.proof import LargestDifference, PixelFigures, Proof, write_proof
from detour.evaluation.proof_pictures import ProofRequest, proof_dtype, proof_requests, read_trained_pictures
from detour.evaluation.report import Pair, RunStory, write_report
from detour.evaluation.sheet import write_sheet
from detour.evaluation.sides import Sides, draw_full_sides, draw_sides
from detour.evaluation.verdict import Evidence, decide, has_effect
from detour.recipes.finished_run import (
    FinishedRun,
    read_finished_run,
    run_of_file,
    schedule_fault_of,
    shown_facts,
)
from detour.recipes.held_out_material import (
    HeldOutMaterial,
    TrainingPictures,
    gather_held_out,
    training_pictures_or_note,
)
from detour.recipes.progress import Progress, ProgressFn, silent
from detour.training.optimizers import larger_steps

if TYPE_CHECKING:
    from detour.bases.base import Base

SHEET = Path("samples") / "sheet.png"


def prove_run(run_folder: Path, *, weight: float = 1.0, progress: ProgressFn = silent) -> Proof:
    """Prove a run and write ``proof.json``, ``report.html``, ``README.md`` and ``samples/sheet.png`` into it.

    Everything is measured in ``evaluate.dtype`` on the adapter read back from the saved file into a fresh base, at the
    thread count of the run. ``proof.json`` is written last.

    Args:
        run_folder: of a run that has an adapter file and ``resolved.toml``.
        weight: with which the adapter is attached.
        progress: told about stages and pictures.

    Raises:
        RunError: the folder holds no finished run.
        AdapterError: the file is broken or made for another base.
        BaseError: the base is not there any more.
    """
    return _prove(read_finished_run(run_folder), weight, progress)


def prove_adapter(
    adapter_file: Path,
    *,
    out: Path,
    base: str | None = None,
    revision: str | None = None,
    pictures: Path | None = None,
    prompts: Sequence[str] = (),
    allow_pickle: bool = False,
    weight: float = 1.0,
    progress: ProgressFn = silent,
) -> Proof:
    """Prove an adapter file without its run; nothing is known of its training, so its pictures have to speak for it.

    Args:
        adapter_file: of any format.
        out: folder for ``proof.json``, ``report.html`` and ``samples/sheet.png``.
        base: that it is for; ``None``: the one that its metadata names.
        revision: of a hub base.
        pictures: of what it should have learned; ``None``: no style to compare with.
        prompts: new to it; none: those that the base's own world writes, where it can.
        allow_pickle: read ``.pt``, ``.bin`` and ``.ckpt`` files too, their tensors alone.
        weight: with which the adapter is attached.
        progress: told about stages and pictures.

    Raises:
        AdapterError: missing, broken or made for another base.
        ConfigError: nothing says which base it is for.
        BaseError: the base cannot be opened.
    """
    run = run_of_file(
        adapter_file, out=out, base=base, revision=revision, pictures=pictures, allow_pickle=allow_pickle
    )
    if prompts:
        asked = run.spec.evaluate.model_copy(update={"prompts": tuple(prompts)})
        run = replace(run, spec=run.spec.model_copy(update={"evaluate": asked}))
    return _prove(run, weight, progress, allow_pickle=allow_pickle)


def _prove(run: FinishedRun, weight: float, progress: ProgressFn, *, allow_pickle: bool = False) -> Proof:
    from detour.adapter_files import read_adapter
    from detour.bases.base import open_base
    from detour.bases.hardware import set_threads
    from detour.training.assembly import as_trained

    set_threads(run.spec.train.threads)
    base = as_trained(open_base(run.spec.base.name, revision=run.spec.base.revision), run.spec)
    full = run.spec.adapter.method == "full"
    adapter = Adapter({}) if full else read_adapter(run.adapter_file, allow_pickle=allow_pickle)
    size_px = run.spec.data.resolution if isinstance(run.spec.data.resolution, int) else base.native_size_px
    progress(Progress(stage="gathering held-out prompts"))
    own = run.folder if run.is_run else None
    training, notes = training_pictures_or_note(run.spec, size_px=size_px, run_folder=own)
    material = gather_held_out(run.spec, base, run.folder, training, size_px=size_px)
    kept = read_trained_pictures(run.folder)
    requests, trained = kept or (proof_requests(run.spec, training.captions if training else ()), None)
    sides = _draw(run, base, adapter, requests, material, weight, progress)
    progress(Progress(stage="scoring"))
    scores = _score(base, sides, material)
    evidence = _gather_evidence(
        run,
        adapter,
        sides,
        trained,
        scores,
        material,
        training,
        weight,
        (*run.problems, *notes, *material.notes),
    )
    proof = _decide(evidence)
    _write(run, base, proof, sides, requests, material)
    return proof


def _draw(
    run: FinishedRun,
    base: "Base",
    adapter: Adapter,
    requests: Sequence[ProofRequest],
    material: HeldOutMaterial,
    weight: float,
    progress: ProgressFn,
) -> Sides:
    import torch

    from detour.bases.base import open_base
    from detour.bases.hardware import pick_device
    from detour.generation.engine import PictureEngine

    stage = "drawing proof pictures"
    progress(Progress(stage=stage))
    device = pick_device(run.spec.base.device)
    engine = PictureEngine.load(base, device=device, dtype=proof_dtype(run.spec))

    def tell(done: int, total: int) -> None:
        progress(Progress(stage=stage, done=done, total=total))

    if run.spec.adapter.method == "full":
        unet = open_base(str(run.adapter_file)).load_network(torch.float32, device)
        return draw_full_sides(
            engine, unet, proof=requests, held_out=material.requests, spec=run.spec, on_pictures=tell
        )
    return draw_sides(
        engine,
        adapter,
        proof=requests,
        held_out=material.requests,
        spec=run.spec,
        weight=weight,
        on_pictures=tell,
    )


def _score(base: "Base", sides: Sides, material: HeldOutMaterial) -> Scores:
    from detour.evaluation.judge import Judge

    folder = base.folder / "judge"
    judge = Judge.load(folder) if folder.is_dir() and material.requests else None
    return score_held_out(
        judge,
        sides.held_out_base,
        sides.held_out_adapter,
        style=material.style,
        accuracy=material.accuracy,
        prompts=material.prompts,
    )


def _gather_evidence(
    run: FinishedRun,
    adapter: Adapter,
    sides: Sides,
    trained: Pictures | None,
    scores: Scores,
    material: HeldOutMaterial,
    training: TrainingPictures | None,
    weight: float,
    notes: tuple[str, ...],
) -> Evidence:
    moved = PixelFigures(
        mean_abs_diff=pixels.mean_abs_diff(sides.adapter, sides.base),
        noise_floor=pixels.noise_floor(sides.base, sides.switched_off),
        pictures=len(sides.base),
    )
    if trained is None:
        notes = (
            *notes,
            "The trained model's own pictures were not kept: the reload was not compared with them.",
        )
    state = AdapterState(
        learning_rate=run.spec.train.optim.lr if isinstance(run.spec.train.optim.lr, float) else None,
        weight=weight,
        layers=tuple(adapter.layers),
        layers_matched=sides.layers_matched,
        up_is_zero=bool(adapter.layers)
        and all(layer.kind == "lora" and not layer.tensors["up"].any() for layer in adapter.layers.values()),
        trained_diff=None if trained is None else pixels.mean_abs_diff(trained, sides.base),
        best_step=chosen_step(run),
        schedule_fault=schedule_fault_of(run.spec),
        larger_steps=larger_steps(run.spec.train.optim.name),
    )
    shown = sides.held_out_adapter if len(sides.held_out_adapter) else sides.adapter
    plain = sides.held_out_base if len(sides.held_out_base) else sides.base
    expected = [pixels.diversity(one) for one in (plain, material.truths) if one is not None]
    copied = _copied(sides, training)
    return Evidence(
        gradients=run.gradients,
        pixels=moved,
        reload_diff=None if trained is None else pixels.max_abs_diff(trained, sides.adapter),
        merge_diff=pixels.max_abs_diff(sides.merged, sides.adapter) if adapter.layers else None,
        merge_mean=pixels.mean_abs_diff(sides.merged, sides.adapter) if adapter.layers else None,
        exact=proof_dtype(run.spec) == "fp32",
        held_out=scores.figures,
        style_p_value=scores.style_p_value,
        falls=scores.falls,
        following=scores.following,
        causes=()
        if has_effect(moved)
        else causes_of_no_effect(state, effect_min_diff=thresholds.EFFECT_MIN_DIFF),
        validation=validation_of(run),
        validation_lost=run.validation_lost,
        diversity=pixels.diversity(shown),
        diversity_expected=min(expected),
        copied_share=copied[0] if copied else None,
        copied_share_base=copied[1] if copied else 0.0,
        notes=notes,
    )


def _copied(sides: Sides, training: TrainingPictures | None) -> tuple[float, float] | None:
    """Share of copies of training pictures among the pictures for new prompts: of the adapter and of the base."""
    if training is None or not len(training.train) or not len(sides.held_out_adapter):
        return None
    scale = calibrate(training.train)
    adapter, base = (
        find_copies(drawn, training.train, scale).share
        for drawn in (sides.held_out_adapter, sides.held_out_base)
    )
    return adapter, base


def chosen_step(run: FinishedRun) -> int | None:
    """The step whose weights were chosen; ``None`` where the last were shipped, or ``run.json`` says nothing usable."""
    step = run.state.get("best_step")
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def validation_of(run: FinishedRun) -> tuple[float, ...]:
    """Losses on pictures kept out up to the weights that are shipped: the last ones, or those of a chosen step."""
    chosen = chosen_step(run)
    return tuple(value for step, value in run.metrics.validation if chosen is None or step <= chosen)


def _decide(evidence: Evidence) -> Proof:
    verdict = decide(evidence)
    return Proof(
        gradients=evidence.gradients,
        pixels=evidence.pixels,
        reload=LargestDifference(max_abs_diff=evidence.reload_diff),
        merge=LargestDifference(max_abs_diff=evidence.merge_diff),
        held_out=evidence.held_out,
        verdict=verdict.name,
        reasons=verdict.reasons,
    )


def _write(
    run: FinishedRun,
    base: "Base",
    proof: Proof,
    sides: Sides,
    requests: Sequence[ProofRequest],
    material: HeldOutMaterial,
) -> None:
    story = RunStory(
        spec=run.spec,
        name=str(run.spec.name),
        base_identity=base.identity,
        proof=proof,
        metrics=run.metrics,
        proof_pairs=_pairs(requests, sides.base, sides.adapter, None),
        held_out_pairs=_pairs(
            material.requests, sides.held_out_base, sides.held_out_adapter, material.truths
        ),
        settings_known=run.is_run,
        facts=shown_facts(run),
    )
    write_sheet(run.folder / SHEET, story.held_out_pairs or story.proof_pairs)
    write_report(run.folder / "report.html", story)
    if run.is_run:  # how a lone file was trained is not known well enough for a card
        write_card(run.folder / "README.md", story, pictures=[SHEET])
    write_proof(run.folder / "proof.json", proof)


def _pairs(
    requests: Sequence[ProofRequest], base: Pictures, adapter: Pictures, truths: Pictures | None
) -> list[Pair]:
    return [
        Pair(
            prompt=request.prompt,
            seed=request.seed,
            base=base[i],
            adapter=adapter[i],
            truth=None if truths is None else truths[i],
        )
        for i, request in enumerate(requests)
    ]
