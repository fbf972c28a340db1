"""Judges an adapter: gathers prompts and references, draws all sides, measures them, and reaches the verdict.

``detour prove`` is its quick preset, ``detour evaluate`` the thorough one; checkpoints are judged by the same figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detour.adapter_files import read_adapter
from detour.adapters.adapter import Adapter
from detour.bases.base import Base, open_base
from detour.bases.hardware import pick_device, set_threads
from detour.bases.names import split_name
from detour.evaluation import limits, pixels
from detour.evaluation.answers import Answers
from detour.evaluation.compared import ControlName, Side
from detour.evaluation.feature_cache import FeatureCache
from detour.evaluation.judge_choice import can_be_judged, open_judge
from detour.evaluation.next_steps import RunFacts
from detour.evaluation.pixels import Pictures
from detour.evaluation.proof import Proof, read_proof
from detour.evaluation.proof_pictures import ProofRequest, proof_dtype
from detour.evaluation.report import Pair
from detour.evaluation.verdict import Checks, Verdict
from detour.files import sha256_of
from detour.training.assembly import as_trained
from detour.training.recorded_pictures import read_findings
from detour.verbs.chosen_adapters import base_for, choose_adapter, hashes_of
from detour.verbs.judge.figures import Figures, measure, nearest_of
from detour.verbs.judge.finished_run import SETTINGS, FinishedRun, validation_of
from detour.verbs.judge.material import EvaluationMaterial, gather_material
from detour.verbs.judge.presets import Preset
from detour.verbs.judge.side_pictures import Drawn, Painter, SideSource, requests_of
from detour.verbs.judge.verdict import OfRun, causes_of, likeness_without_prior, verdict_of
from detour.verbs.progress import Progress, ProgressFn
from detour.verbs.train.saved_run import WHOLE_NETWORK


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An opened base with the adapter that is judged.

    Attributes:
        run: with the settings that it is judged by.
        base: with the noise schedule that the adapter wants.
        source: that draws the adapter's side.
    """

    run: FinishedRun
    base: Base
    source: SideSource

    @property
    def adapter(self) -> Adapter:
        """The adapter's layers; empty where the run trained the base's own weights."""
        return self.source.adapter or Adapter({})

    @property
    def size_px(self) -> int:
        """Side of the square pictures, in pixels."""
        side = self.run.spec.data.resolution
        return side if isinstance(side, int) else self.base.native_size_px

    @property
    def device(self) -> str:
        """Device on which pictures are drawn and judged."""
        return pick_device(self.run.spec.base.device)


def open_subject(run: FinishedRun, *, allow_pickle: bool = False, checked: bool = True) -> Subject:
    """Open base and adapter of a run, with the thread count of the run.

    Args:
        run: a finished one, or an adapter file as if it were the end of one.
        allow_pickle: read ``.pt``, ``.bin`` and ``.ckpt`` files too, their tensors alone.
        checked: whether an adapter that fits none of the base's layers is refused; the proof says what it changes.

    Raises:
        AdapterError: the file is broken or made for another base.
        BaseError: the base cannot be opened.
    """
    set_threads(run.spec.train.threads)
    base = as_trained(open_base(run.spec.base.name, revision=run.spec.base.revision), run.spec)
    base.require_weights()
    if run.spec.adapter.method == "full" and run.is_run:
        weights = run.adapter_file / base.family.network_part / WHOLE_NETWORK
        return Subject(
            run=run, base=base, source=SideSource(network=run.adapter_file, sha256=sha256_of(weights))
        )
    if not checked:
        adapter = read_adapter(run.adapter_file, allow_pickle=allow_pickle)
        return Subject(
            run=run, base=base, source=SideSource(adapter=adapter, sha256=hashes_of(run.adapter_file)[1])
        )
    chosen = choose_adapter(str(run.adapter_file), base, allow_pickle=allow_pickle)
    source = SideSource(adapter=chosen.adapter, sha256=chosen.use.tensor_sha256)
    return Subject(run=run, base=base_for(base, [chosen]), source=source)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Figures, pictures and verdict of one judged adapter.

    Attributes:
        subject: that was judged.
        preset: by which.
        material: prompts and references.
        drawn: the pictures of all sides.
        figures: that were measured.
        verdict: one word, and why.
        answers: what the judge's features say; ``None`` where there was too little to look at.
        checks: of its run.
        nearest: for each picture of a new prompt, which of the user's own is nearest to it; empty where there are none.
        has_judge: whether somebody scored the pictures.
        notes: what could not be measured, and why.
    """

    subject: Subject
    preset: Preset
    material: EvaluationMaterial
    drawn: Drawn
    figures: Figures
    verdict: Verdict
    answers: Answers | None
    checks: Checks
    nearest: tuple[int, ...]
    has_judge: bool
    notes: tuple[str, ...]

    @property
    def pairs(self) -> list[Pair]:
        """Pairs of pictures without and with the adapter, of equal prompt and seed, each with a true or own
        picture.
        """
        material, seeds = self.material, self.preset.seeds
        if not material.new_prompts.prompts:
            return []
        new = self.drawn.pictures["held_out"]
        truths = material.truths
        own = material.own if truths is None and self.nearest else None
        requests = [requests_of(material.new_prompts.prompts, number) for number in range(seeds)]
        return [
            Pair(
                prompt=prompt,
                seed=requests[number][i].seed,
                base=new["base"][i * seeds + number],
                adapter=new["adapter"][i * seeds + number],
                truth=None if truths is None else truths[i * seeds + number],
                nearest=None if own is None else own[self.nearest[i * seeds + number]],
            )
            for i, prompt in enumerate(material.new_prompts.prompts)
            for number in range(seeds)
        ]

    @property
    def class_pairs(self) -> list[Pair]:
        """Pairs of pictures of the subject's class alone at their first seed; none for a style."""
        group, seeds = self.material.own_class, self.preset.seeds
        if group is None or "own_class" not in self.drawn.pictures:
            return []
        drawn, requests = self.drawn.pictures["own_class"], requests_of(group.prompts, 0)
        return [
            Pair(
                prompt=prompt,
                seed=requests[i].seed,
                base=drawn["base"][i * seeds],
                adapter=drawn["adapter"][i * seeds],
            )
            for i, prompt in enumerate(group.prompts)
        ]


@dataclass(frozen=True, kw_only=True)
class Request:
    """Choices of one judgement that its preset leaves open.

    Attributes:
        weight: with which the adapter is attached and merged.
        folder: that pictures are kept in; ``None`` keeps none.
        controls: further sides.
        judge: CLIP model that scores, as a hub id or folder; the base's own where it has one.
        proof: requests of the picture proof.
        trained: uint8 (len(proof), H, W, 3), what the trained model drew for them; ``None`` where it was not kept.
        references: uint8 (R, H, W, 3), pictures that must not be reproduced.
    """

    weight: float = 1.0
    folder: Path | None = None
    controls: Mapping[ControlName, SideSource] = field(default_factory=dict)
    judge: str | None = None
    proof: Sequence[ProofRequest] = ()
    trained: Pictures | None = None
    references: Pictures | None = None


def gather(subject: Subject, preset: Preset, *, judge: str | None = None) -> EvaluationMaterial:
    """Gather prompts, references and true pictures of a subject; arguments as in :func:`judge_subject`.

    Raises:
        ConfigError: of the thorough preset: a given prompt is a training caption, or nothing says what to ask for.
        RunError: ``world.json`` is broken.
    """
    return gather_material(
        subject.run,
        subject.base,
        preset,
        size_px=subject.size_px,
        judged=can_be_judged(judge, subject.base),
    )


def judge_subject(
    subject: Subject,
    preset: Preset,
    material: EvaluationMaterial,
    request: Request,
    *,
    progress: ProgressFn,
) -> Judged:
    """Draw all sides of a subject, measure them, and reach the verdict.

    Args:
        subject: opened.
        preset: how thoroughly.
        material: from :func:`gather`.
        request: choices that the preset leaves open.
        progress: told about stages and pictures.

    Raises:
        AdapterError: the base has some of the adapter's layers and lacks others.
        BaseError: the judge cannot be opened.
        RunError: ``proof.json`` is there and damaged.
        StorageError: disk full or not writable.
        Interrupted: Ctrl-C; what is finished is kept.
    """
    run, base = subject.run, subject.base
    painter = Painter(
        folder=request.folder, base=base, spec=run.spec, device=subject.device, weight=request.weight
    )
    sides: dict[Side, SideSource] = {"base": SideSource(), "adapter": subject.source}
    sides.update(request.controls.items())
    drawn = painter.draw_all(
        sides, prompt_sets(material), seeds=preset.seeds, proof=request.proof, progress=progress
    )
    progress(Progress(stage="scoring"))
    cache = FeatureCache(on_disk=preset.thorough)
    try:
        judge, nobody = open_judge(
            request.judge, base, device=subject.device, cache=cache, fetch=preset.thorough
        )
        figures = measure(judge, drawn, material, seeds=preset.seeds, references=request.references)
        new = bool(preset.prompts or preset.num_prompts)
        unsaid = figures.fidelity.frechet_left_out if figures.fidelity and not preset.thorough else None
        measured = (
            note for note in figures.notes if note != unsaid
        )  # a proof has no Fréchet distance to miss
        notes = (*material.notes, *((nobody,) if nobody and new else ()), *measured)
        of_run = _of_run(subject, preset, drawn, request, notes, painter, material.new_prompts.prompts)
        verdict, answers = verdict_of(judge, figures, drawn, material, of_run)
        without_prior = likeness_without_prior(judge, figures, drawn, material)
        nearest = nearest_of(judge, figures, drawn, material)
    finally:
        cache.close()
    return Judged(
        subject=subject,
        preset=preset,
        material=material,
        drawn=drawn,
        figures=figures,
        verdict=verdict,
        answers=None if answers is None else Answers.of(answers, without_prior=without_prior),
        checks=of_run.checks,
        nearest=nearest,
        has_judge=judge is not None,
        notes=notes,
    )


def prompt_sets(material: EvaluationMaterial) -> dict[str, Sequence[str]]:
    """Name of each set of prompts → its prompts; sets without prompts are left out."""
    sets: dict[str, Sequence[str]] = {"held_out": material.new_prompts.prompts}
    for name, request in zip(("unrelated", "unrelated_with_trigger"), material.unrelated, strict=False):
        sets[name] = request.prompts
    sets["recited"] = material.recited
    sets["own_class"] = material.own_class.prompts if material.own_class else ()
    return {name: prompts for name, prompts in sets.items() if prompts}


def _of_run(
    subject: Subject,
    preset: Preset,
    drawn: Drawn,
    request: Request,
    notes: tuple[str, ...],
    painter: Painter,
    prompts: Sequence[str],
) -> OfRun:
    run = subject.run

    def causes() -> tuple[str, ...]:
        moved = None
        if request.trained is not None and drawn.ways is not None:
            moved = pixels.mean_abs_diff(request.trained, drawn.ways.base)
        return causes_of(run, subject.adapter, request.weight, painter.layers_matched(subject.source), moved)

    checks, said = _checks(subject, drawn, request)
    # A proof has no list of notes: what could not be measured stands among the reasons.
    shown = notes if drawn.ways is not None else ()
    return OfRun(
        checks=checks,
        validation=validation_of(run),
        causes=causes,
        notes=(*run.problems, *shown, *said),
        data=_data_sentences(run),
        run=facts_for_commands(run, prompts),
        margin=limits.THOROUGH_MARGIN if preset.thorough else limits.QUICK_MARGIN,
    )


def _data_sentences(run: FinishedRun) -> tuple[str, ...]:
    """Sentences on faults of pictures and captions that were found when the run began.

    Whether captions fit their pictures the verdict says itself, by its own judge.
    """
    found = read_findings(run.folder) if run.is_run else ()
    return tuple(
        f"Of the data: {one.cause}. {one.fix[:1].upper()}{one.fix[1:]}."
        for one in found
        if one.severity != "note" and one.kind != "unrelated"
    )


def _checks(subject: Subject, drawn: Drawn, request: Request) -> tuple[Checks, tuple[str, ...]]:
    """Results of the gradient, reload and merge checks, and sentences on checks that were not made."""
    run, ways = subject.run, drawn.ways
    known = Checks(
        gradients=run.gradients,
        validation_lost=run.validation_lost,
        exact=proof_dtype(run.spec) == "fp32",
    )
    if ways is None:
        proof = proof_of(run)
        if proof is None:
            return known, ("Reload and merge were not compared here: detour prove does that.",)
        found = replace(known, reload_diff=proof.reload.max_abs_diff, merge_diff=proof.merge.max_abs_diff)
        return found, ()
    lost = "The trained model's own pictures were not kept: the reload was not compared with them."
    merged = bool(subject.adapter.layers)
    found = replace(
        known,
        reload_diff=None if request.trained is None else pixels.max_abs_diff(request.trained, ways.adapter),
        merge_diff=pixels.max_abs_diff(ways.merged, ways.adapter) if merged else None,
        merge_mean=pixels.mean_abs_diff(ways.merged, ways.adapter) if merged else None,
    )
    return found, (lost,) if request.trained is None else ()


def facts_for_commands(run: FinishedRun, prompts: Sequence[str] = ()) -> RunFacts:
    """Names and settings for the command that follows a verdict; folders as relative paths where possible.

    Args:
        run: that was judged.
        prompts: new ones, of which the first is shown how to ask.
    """
    spec = run.spec
    sources = [folder.source for folder in spec.data.all_folders() if folder.source]
    steps, rate = spec.train.steps, spec.train.optim.lr
    place, mark = split_name(spec.base.name)
    known: dict[str, Any] = {}
    if sources:
        known["pictures"] = _from_here(Path(sources[0]))
    if spec.prior.class_prompts:
        known["class_prompt"] = spec.prior.class_prompts[0]
        known["prior"] = spec.prior.use is not False
    if prompts:
        known["prompt"] = prompts[0]
    return RunFacts(
        run=_from_here(run.folder if run.is_run else run.adapter_file),
        adapter=_from_here(run.adapter_file),
        base=_from_here(Path(place)) + mark if Path(place).exists() else spec.base.name,
        settings=_from_here(run.folder / SETTINGS) if run.is_run else "",
        steps=steps if run.is_run and isinstance(steps, int) else None,
        rate=rate if run.is_run and isinstance(rate, float) else None,
        first_estimate=spec.train.optim.d0 if run.is_run else None,
        **known,
    )


def _from_here(path: Path) -> str:
    """Path relative to the working directory, or the last part of a path outside it, because reports are shared."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return path.name


def proof_of(run: FinishedRun) -> Proof | None:
    """Read the reload and merge checks of the run's proof, which an evaluation does not repeat.

    Raises:
        RunError: ``proof.json`` is there and damaged.
    """
    path = run.folder / "proof.json"
    return read_proof(path) if run.is_run and path.exists() else None
