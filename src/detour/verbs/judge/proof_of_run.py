"""Proves a finished run: loads its file into a fresh base, draws, compares, decides, and writes the proof."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from detour.data.folder import Dataset
from detour.evaluation.card import write_card
from detour.evaluation.pixels import Pictures
from detour.evaluation.proof import LargestDifference, Proof, write_proof
from detour.evaluation.proof_pictures import ProofRequest, proof_requests, read_trained_pictures
from detour.evaluation.report import Pair, RunStory, write_report
from detour.evaluation.sheet import write_sheet
from detour.verbs.judge.finished_run import FinishedRun, read_finished_run, run_of_file, shown_facts
from detour.verbs.judge.judging import Judged, Request, gather, judge_subject, open_subject
from detour.verbs.judge.presets import quick_preset
from detour.verbs.judge.verdict import held_out_figures
from detour.verbs.progress import Progress, ProgressFn, silent

SHEET = Path("samples") / "sheet.png"


def prove_run(
    run_folder: Path,
    *,
    weight: float = 1.0,
    keep: Path | None = None,
    dataset: Dataset | None = None,
    progress: ProgressFn = silent,
) -> Proof:
    """Prove a run and write ``proof.json``, ``report.html``, ``README.md`` and ``samples/sheet.png`` into it.

    Everything is measured in ``evaluate.dtype`` on the adapter read back from the saved file into a fresh base, at the
    thread count of the run. ``proof.json`` is written last.

    Args:
        run_folder: of a run that has an adapter file and ``resolved.toml``.
        weight: with which the adapter is attached.
        keep: folder that pictures are kept in by all that decides over them, so that a second proof draws nothing.
        dataset: the run's pictures, where they were read before; ``None`` reads them where the run found them.
        progress: told about stages and pictures.

    Raises:
        RunError: the folder holds no finished run.
        AdapterError: the file is broken or made for another base.
        BaseError: the base is not there any more.
    """
    run = replace(read_finished_run(run_folder), dataset=dataset)
    return _prove(run, weight, progress, keep=keep)


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
    """Prove an adapter file without its run, from its pictures alone, because its training is not known.

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
        request = run.spec.evaluate.model_copy(update={"prompts": tuple(prompts)})
        run = replace(run, spec=run.spec.model_copy(update={"evaluate": request}))
    return _prove(run, weight, progress, allow_pickle=allow_pickle)


def _prove(
    run: FinishedRun,
    weight: float,
    progress: ProgressFn,
    *,
    keep: Path | None = None,
    allow_pickle: bool = False,
) -> Proof:
    subject = open_subject(run, allow_pickle=allow_pickle, checked=False)
    preset = quick_preset(run.spec)
    progress(Progress(stage="gathering held-out prompts"))
    material = gather(subject, preset)
    requests, trained = _picture_proof(run, material.training.captions if material.training else ())
    request = Request(weight=weight, folder=keep, proof=requests, trained=trained)
    judged = judge_subject(subject, preset, material, request, progress=progress)
    proof = _proof_of(judged)
    _write(judged, proof)
    return proof


def _picture_proof(run: FinishedRun, captions: Sequence[str]) -> tuple[list[ProofRequest], Pictures | None]:
    return read_trained_pictures(run.folder) or (proof_requests(run.spec, captions), None)


def _proof_of(judged: Judged) -> Proof:
    figures, checks = judged.figures, judged.checks
    assert figures.pixels is not None, "a proof draws the base twice"
    return Proof(
        gradients=checks.gradients,
        pixels=figures.pixels,
        reload=LargestDifference(max_abs_diff=checks.reload_diff),
        merge=LargestDifference(max_abs_diff=checks.merge_diff),
        held_out=held_out_figures(figures, judged.material, judged.preset.seeds),
        answers=judged.answers,
        verdict=judged.verdict.name,
        headline=judged.verdict.headline,
        unknown=judged.verdict.unknown,
        reasons=judged.verdict.reasons,
        next_step=judged.verdict.next_step,
    )


def _write(judged: Judged, proof: Proof) -> None:
    run, ways = judged.subject.run, judged.drawn.ways
    assert ways is not None, "a proof draws its requests in every way"
    story = RunStory(
        spec=run.spec,
        name=str(run.spec.name),
        base_identity=judged.subject.base.identity,
        family=judged.subject.base.family,
        proof=proof,
        metrics=run.metrics,
        proof_pairs=[
            Pair(prompt=request.prompt, seed=request.seed, base=ways.base[i], adapter=ways.adapter[i])
            for i, request in enumerate(ways.requests)
        ],
        held_out_pairs=judged.pairs,
        class_pairs=judged.class_pairs,
        settings_known=run.is_run,
        facts=shown_facts(run),
    )
    write_sheet(run.folder / SHEET, story.held_out_pairs or story.proof_pairs)
    write_report(run.folder / "report.html", story)
    if run.is_run:  # how a lone file was trained is not known well enough for a card
        write_card(run.folder / "README.md", story, pictures=[SHEET])
    write_proof(run.folder / "proof.json", proof)
