"""What a training run is before its first step: settings resolved, base and data checked, nothing written."""

from dataclasses import dataclass, replace
from pathlib import Path

from detour.bases.base import Base, open_base
from detour.bases.hardware import pick_device, set_threads
from detour.data.finding import Finding
from detour.data.folder import Dataset, read_dataset
from detour.specs import RunSpec
from detour.specs.resolved import ResolvedRun
from detour.training.assembly import as_trained, choose_targets
from detour.training.checkpoints import Checkpoint
from detour.training.combinations import require_packages
from detour.training.data_fit import check_data
from detour.training.first_weights import with_first_weights
from detour.training.resolving import resolve
from detour.training.resume import find_resume_point, refuse_changed_data
from detour.training.run_folder import name_from
from detour.training.text_adapter import choose_text_targets
from detour.training.tracking import require_tracker
from detour.training.words import check_words
from detour.verbs.datasets.checks import findings_of
from detour.verbs.train.peers import PeerSettings
from detour.verbs.train.proof_memory import with_proof_dtype
from detour.verbs.train.samples import screen_samples


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A run that is ready to begin: everything resolved, everything checked, nothing written."""

    spec: ResolvedRun
    base: Base
    dataset: Dataset
    notes: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    """What is wrong with the pictures and captions; empty where a run goes on from a checkpoint: it wrote it down."""
    like: PeerSettings | None = None
    """Another trainer's settings that the run's were made from; ``None`` where they were not."""
    checkpoint: Checkpoint | None = None
    class_pictures: Dataset | None = None
    """Class pictures that the base draws at the beginning of the run; ``None`` before that and without prior
    preservation.
    """

    @property
    def captions(self) -> list[str]:
        """Captions of every picture to learn, those kept out included."""
        return [example.caption for example in self.dataset.examples]

    def with_spec(self, spec: ResolvedRun) -> "RunPlan":
        """Copy the plan with other settings that change nothing of what was checked, such as the seed."""
        return replace(self, spec=spec)


def plan_run(spec: RunSpec) -> RunPlan:
    """Open base and data, resolve every setting and check that the targets can learn; nothing is written.

    Raises:
        BaseError, DataError, ConfigError: what is missing or does not fit.
        Withheld: the safety policy of the samples stops one of their prompts.
    """
    require_tracker(spec.track)
    if spec.goal == "subject":
        spec = spec.model_copy(update={"data": spec.data.for_subject()})
    if spec.adapter.method == "reference" and spec.data.caption is None:  # pictures alone will do
        spec = spec.model_copy(update={"data": spec.data.model_copy(update={"caption": ""})})
    base, dataset = _opened(spec)
    spec, first_notes = with_first_weights(spec, base)
    device = pick_device(spec.base.device)
    set_threads(spec.train.threads)
    spec, proof_notes = with_proof_dtype(spec, base, device)
    resolved = resolve(
        spec,
        base,
        [example.caption for example in dataset.examples],
        name=name_from(spec.data.all_folders()[0].source),
        device=device,
    )
    require_packages(resolved.spec)
    if resolved.spec.sample.policy is not None:
        screen_samples(resolved.spec, base)
    base = as_trained(base, resolved.spec)
    data_notes = check_data(resolved.spec, dataset, base)
    findings = _findings(resolved.spec, dataset, base)
    check_words(base, resolved.spec, [example.caption for example in dataset.examples])
    targets = choose_targets(base.meta_network(), base, resolved.spec)
    text_targets = choose_text_targets(base, resolved.spec)
    return RunPlan(
        spec=resolved.spec,
        base=base,
        dataset=dataset,
        findings=findings,
        notes=(
            *dataset.found,
            *(finding.line for finding in findings),
            *data_notes,
            *resolved.notes,
            *first_notes,
            *proof_notes,
            *targets.notes,
            *text_targets.notes,
        ),
    )


def plan_resumed(folder: Path, *, processes: int = 1) -> RunPlan:
    """A run that goes on from its newest good checkpoint, with the settings that it began with.

    Raises:
        RunError: nothing to go on from, or data that changed.
    """
    point = find_resume_point(folder, processes=processes)
    base, dataset = _opened(point.spec)
    refuse_changed_data(folder, point.checkpoint, dataset)
    device = pick_device(point.spec.base.device)
    set_threads(point.spec.train.threads)
    captions = [example.caption for example in dataset.examples]
    # Nothing is left to resolve, but for settings that came after the run had begun.
    spec = resolve(point.spec, base, captions, name=point.spec.name, device=device).spec
    require_packages(spec)
    notes = list(point.notes)
    if point.checkpoint is not None:
        notes.append(f"Going on after step {point.checkpoint.step} of {spec.train.steps}.")
    return RunPlan(
        spec=spec,
        base=as_trained(base, spec),
        dataset=dataset,
        notes=tuple(notes),
        findings=_findings(spec, dataset, base) if point.checkpoint is None else (),
        checkpoint=point.checkpoint,
    )


def _findings(spec: ResolvedRun, dataset: Dataset, base: Base) -> tuple[Finding, ...]:
    """What is wrong with the pictures and captions of a run, which its verdict cites."""
    found, _ = findings_of(
        spec.data, dataset, base, goal=spec.goal, seed=spec.seed, class_prompts=spec.prior.class_prompts,
        device=pick_device(spec.base.device),
    )  # fmt: skip
    return found


def _opened(spec: RunSpec) -> tuple[Base, Dataset]:
    base = open_base(spec.base.name, revision=spec.base.revision)
    base.require_weights()
    return base, read_dataset(spec.data)
