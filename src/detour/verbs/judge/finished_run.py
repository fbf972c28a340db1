"""Reads what a proof or an evaluation starts from: a run folder after training, or an adapter file on its own."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from detour.adapter_files.reading import read_adapter
from detour.bases.embedded import embedded_of_identity
from detour.data.folder import Dataset
from detour.errors import AdapterError, ConfigError, RunError
from detour.evaluation.proof import GradientFigures
from detour.evaluation.report import Metrics, read_metrics
from detour.specs import AdapterSpec, BaseSpec, DataSpec, RunSpec, load_run_spec
from detour.specs.sources import parse
from detour.training.rates import schedule_fault
from detour.training.resolving import schedule_of
from detour.training.resume import DISTILLED, read_settings, settings_in_checkpoint
from detour.training.run_folder import RUN_STATE
from detour.verbs.train.saved_run import product_of

SETTINGS = "resolved.toml"
CONFIG, BASE, TRIGGER, TAGS = (
    "detour.config",
    "detour.base",
    "modelspec.trigger_phrase",
    "ss_tag_frequency",
)

SHOWN_FACTS = {"seconds": "training took (seconds)", "threads": "CPU threads", "torch": "torch"}
"""Keys of ``run.json`` that a page shows → the words that it shows them under."""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """Content of a run folder before the proof; after full fine-tuning the product is a folder and no adapter file.

    Attributes:
        folder: where results go.
        spec: of the run; of an adapter file as much as the file says.
        adapter_file: that was made.
        state: of ``run.json``.
        gradients: of the gradient proof, where the run kept them.
        metrics: curves.
        tags: what an adapter file says of the captions it was trained on; a run has the captions themselves.
        is_run: whether ``folder`` is a run's.
        problems: sentences on what of the run is damaged or gone, and what was read in its place.
        dataset: its pictures, where they were read before; ``None``: whoever needs them reads them.
    """

    folder: Path
    spec: RunSpec
    adapter_file: Path
    state: Mapping[str, Any]
    gradients: GradientFigures | None
    metrics: Metrics
    tags: tuple[str, ...] = ()
    is_run: bool = True
    problems: tuple[str, ...] = ()
    dataset: Dataset | None = None

    @property
    def validation_lost(self) -> bool:
        """Whether the run held pictures out, but the losses measured on them are missing."""
        asked = self.spec.validate_.every not in ("auto", 0) and self.spec.data.holdout not in ("auto", 0.0)
        return self.is_run and asked and not self.metrics.validation


def shown_facts(run: FinishedRun) -> dict[str, Any]:
    """Facts on how the run went that a page shows beside its settings."""
    return {name: run.state[key] for key, name in SHOWN_FACTS.items() if key in run.state}


def is_run_folder(path: Path) -> bool:
    """Whether ``path`` is treated as a run, and not as an adapter, which may be a folder too."""
    if (path / SETTINGS).is_file() or (path / RUN_STATE).is_file():
        return True
    return path.is_dir() and not any(any(path.glob(names)) for names in ("*.safetensors", "*/*.safetensors"))


def read_finished_run(run_folder: Path) -> FinishedRun:
    """Read settings, state and curves of a run.

    Raises:
        RunError: no run, or one without an adapter file.
    """
    resolved = run_folder / SETTINGS
    known = load_run_spec(config=resolved) if resolved.is_file() else settings_in_checkpoint(run_folder)
    if known is None:
        raise RunError(f"{run_folder}: no {SETTINGS}, so no run of detour. Name a folder under runs/.")
    spec = known
    if spec.distill.steps:
        raise RunError(
            f"{run_folder}: a distilled adapter is compared with its base in {DISTILLED}, and has no other proof. "
            f"Delete that file and call detour distill --resume {run_folder} to compare them again."
        )
    adapter_file = product_of(run_folder, spec)
    if not adapter_file.exists():
        raise RunError(
            f"{adapter_file}: the run has no adapter yet. Finish it with detour train --resume {run_folder}."
        )
    state = _read_json(run_folder / "run.json")
    metrics, problems = _curves(run_folder, state)
    if fault := schedule_fault_of(spec):
        problems = (*problems, f"The schedule does not fit the run: {fault}.")
    return FinishedRun(
        folder=run_folder,
        spec=spec,
        adapter_file=adapter_file,
        state=state,
        gradients=_read_gradients(run_folder / "gradients.json"),
        metrics=metrics,
        problems=problems,
    )


def read_trained_run(run_folder: Path) -> FinishedRun:
    """Read settings and curves of a run whose adapter is not shipped yet, to judge its checkpoints.

    Raises:
        RunError: no run.
    """
    spec = read_settings(run_folder)
    return FinishedRun(
        folder=run_folder,
        spec=spec,
        adapter_file=product_of(run_folder, spec),
        state={},
        gradients=None,
        metrics=read_metrics(run_folder / "metrics.jsonl"),
    )


def chosen_step(run: FinishedRun) -> int | None:
    """Step whose weights were shipped; ``None`` where the last ones were, or where ``run.json`` does not say it."""
    step = run.state.get("best_step")
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def validation_of(run: FinishedRun) -> tuple[float, ...]:
    """Losses on held-out pictures up to the weights that are shipped: the last ones, or those of a chosen step."""
    chosen = chosen_step(run)
    return tuple(value for step, value in run.metrics.validation if chosen is None or step <= chosen)


def schedule_fault_of(spec: RunSpec) -> str:
    """Say why the rate schedule of a run does not fit its steps; empty where it fits or is not known."""
    if "auto" in (spec.train.steps, spec.train.schedule.warmup):
        return ""
    return schedule_fault(**schedule_of(spec))


def _curves(run_folder: Path, state: Mapping[str, Any]) -> tuple[Metrics, tuple[str, ...]]:
    """Read the curves of a run; losses on held-out pictures are also in ``run.json``, in case the log is lost."""
    path = run_folder / "metrics.jsonl"
    metrics, kept = read_metrics(path), _pairs(state.get("validation"))
    problem = metrics.problem
    if not metrics.exists:
        problem = f"{path} is gone, so there is no curve of the training loss."
    if len(kept) <= len(metrics.validation):
        return metrics, (problem,) if problem else ()
    problem = problem or f"{path} lacks steps."
    said = f"{problem} The losses on pictures kept out were read from run.json."
    return replace(metrics, validation=kept), (said,)


def _pairs(value: Any) -> list[tuple[float, float]]:
    """Read ``[[step, loss], …]`` of ``run.json``; empty where the value is anything else."""
    try:
        return [(float(step), float(loss)) for step, loss in value]
    except (TypeError, ValueError):
        return []


def run_of_file(
    adapter_file: Path,
    *,
    out: Path,
    base: str | None = None,
    revision: str | None = None,
    pictures: Path | None = None,
    allow_pickle: bool = False,
) -> FinishedRun:
    """Treat an adapter file as the product of a run; training facts that the file does not state stay unknown.

    Args:
        adapter_file: of any format.
        out: where results go.
        base: that it is for; ``None``: the one that its metadata names.
        revision: of a hub base.
        pictures: that it was trained on, or that show what it should have learned, with captions or without.
        allow_pickle: read ``.pt``, ``.bin`` and ``.ckpt`` files too, their tensors alone.

    Raises:
        AdapterError: missing or broken.
        ConfigError: nothing says which base it is for.
    """
    if not adapter_file.exists():
        raise AdapterError(f"{adapter_file}: no such adapter. Name a run folder or an adapter file.")
    metadata = read_adapter(adapter_file, allow_pickle=allow_pickle).metadata
    recorded = _spec_in(metadata)
    name = base or (recorded.base.name if recorded is not None else _base_named_in(metadata, adapter_file))
    revision = revision or (recorded.base.revision if recorded is not None and base is None else None)
    spec = recorded or RunSpec(adapter=AdapterSpec(), data=DataSpec(trigger=metadata.get(TRIGGER, "")))
    data = {
        "source": str(pictures or ""),
        "folders": (),
        "caption": "" if pictures else None,
        "captions": "own",
    }
    return FinishedRun(
        folder=out,
        spec=spec.model_copy(
            update={
                "name": adapter_file.stem,
                "base": BaseSpec(name=name, revision=revision),
                "data": spec.data.model_copy(update=data),
            }
        ),
        adapter_file=adapter_file,
        state={},
        gradients=None,
        metrics=Metrics(),
        tags=_tags(metadata),
        is_run=False,
    )


def _spec_in(metadata: Mapping[str, str]) -> RunSpec | None:
    """Read the run settings in the file's metadata; ``None`` where there are none that can be read."""
    try:
        return parse(RunSpec, tomllib.loads(metadata[CONFIG])) if CONFIG in metadata else None
    except (tomllib.TOMLDecodeError, ConfigError):
        return None  # another version's


def _base_named_in(metadata: Mapping[str, str], adapter_file: Path) -> str:
    embedded = embedded_of_identity(metadata.get(BASE, ""))
    if embedded is not None:
        return embedded.name
    raise ConfigError(f"{adapter_file}: does not say which base it is for. Name it with --base.")


def _tags(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Tags of all groups, the most frequent first."""
    try:
        groups = json.loads(metadata.get(TAGS, "{}"))
        counts = [(int(count), str(tag)) for tags in groups.values() for tag, count in tags.items()]
    except (ValueError, AttributeError, TypeError):
        return ()  # somebody else's idea of the table
    return tuple(tag for _, tag in sorted(counts, key=lambda pair: -pair[0]))


def _read_gradients(path: Path) -> GradientFigures | None:
    figures = _read_json(path)
    try:
        return GradientFigures.model_validate(figures) if figures else None
    except ValidationError as error:
        raise RunError(f"{path}: not what the gradient proof writes. Restore it or train again.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as JSON ({error}). Restore it or run again.") from error
    return values if isinstance(values, dict) else {}
