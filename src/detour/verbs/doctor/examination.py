"""Finds what is wrong with this machine, a run, an adapter, a picture or a request, with cause and fix."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from detour.adapter_files.fitting import check_fits
from detour.adapter_files.reading import read_adapter
from detour.adapters.adapter import Adapter
from detour.bases.base import Base, open_base
from detour.bases.embedded import embedded_of_identity
from detour.bases.hardware import drawing_dtype, pick_device
from detour.bases.parts import load_tokenizer
from detour.bases.single_file_writing import load_as_stored
from detour.data.finding import Finding as DataFlaw
from detour.errors import AdapterError, BaseError, ConfigError, DataError, DetourError
from detour.evaluation.report import read_metrics
from detour.generation.png import PictureMetadata, read_png_metadata
from detour.generation.schedulers import pick_sampler
from detour.specs import RunSpec, load_run_spec
from detour.specs.generation import SchedulerName
from detour.training.resolving import own_shift
from detour.verbs.chosen_adapters import parse_weighted
from detour.verbs.datasets.checks import check_data
from detour.verbs.doctor.adapter_rules import examine_adapter, gather_adapter_facts
from detour.verbs.doctor.finding import Finding, gravest_first
from detour.verbs.doctor.machine import Machine, gather_machine
from detour.verbs.doctor.machine_rules import examine_machine
from detour.verbs.doctor.picture_rules import Drawing, examine_drawing
from detour.verbs.doctor.prompt_rules import CUT, WINDOW_TOKENS, examine_prompt
from detour.verbs.doctor.run_rules import RunFacts, examine_run
from detour.verbs.judge.finished_run import SETTINGS, TRIGGER, is_run_folder, run_of_file, schedule_fault_of
from detour.verbs.progress import Progress, ProgressFn, silent
from detour.verbs.train.memory_plan import plan_memory
from detour.verbs.train.run_list import summary_of
from detour.verbs.train.saved_run import product_of


@dataclass(frozen=True, kw_only=True)
class AskedPicture:
    """A picture that is asked for, as far as it is said; ``None`` is the default of ``detour generate``."""

    prompt: str | None = None
    negative_prompt: str = ""
    steps: int | None = None
    guidance_scale: float | None = None
    scheduler: SchedulerName | None = None
    width_px: int | None = None
    height_px: int | None = None
    seed: int | None = None
    dtype: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was asked for."""
        return self == AskedPicture()


class Examination(BaseModel):
    """What was looked at, and what was found, the gravest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str
    """The run, adapter or picture; empty for the machine alone."""
    base: str | None
    machine: Machine
    findings: tuple[Finding, ...]

    @property
    def is_well(self) -> bool:
        """Whether nothing serious was found."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)


def examine(
    subject: str | None = None,
    *,
    base: str | None = None,
    revision: str | None = None,
    asked_picture: AskedPicture | None = None,
    allow_pickle: bool = False,
    progress: ProgressFn = silent,
) -> Examination:
    """Look at the machine, and at a subject; nothing is drawn, trained or written.

    Args:
        subject: a run's folder, an adapter (``FILE`` or ``FILE:weight``), or a PNG that detour drew.
        base: that an adapter or the picture is for; ``None``: the one that the subject names, else pocket.
        revision: of a hub base.
        asked_picture: settings of a picture that is to be drawn.
        allow_pickle: read ``.pt``, ``.bin`` and ``.ckpt`` adapters too, their tensors alone.
        progress: told about stages.

    Raises:
        ConfigError: nothing says which base is meant, or the subject is none of these.
        BaseError, AdapterError, RunError, DataError: what was named cannot be read.
    """
    machine = gather_machine()
    findings = list(examine_machine(machine.facts()))
    seen = _Seen(
        base=base,
        revision=revision,
        asked_picture=asked_picture or AskedPicture(),
        allow_pickle=allow_pickle,
        progress=progress,
    )
    findings += seen.examine(subject)
    return Examination(
        subject=subject or "",
        base=None if seen.opened is None else seen.opened.name,
        machine=machine,
        findings=gravest_first(findings),
    )


class _Seen:
    """One examination under way: what was named, and the base once it is known."""

    def __init__(
        self,
        *,
        base: str | None,
        revision: str | None,
        asked_picture: AskedPicture,
        allow_pickle: bool,
        progress: ProgressFn,
    ) -> None:
        self.base, self.revision, self.asked_picture = base, revision, asked_picture
        self.allow_pickle, self.progress = allow_pickle, progress
        self.opened: Base | None = None

    def examine(self, subject: str | None) -> list[Finding]:
        if subject is None:
            if self.base is None and self.asked_picture.is_empty:
                return []
            opened = self._open(self.base or "pocket")
            return list(self._request(opened, (), ()))
        path = Path(subject).expanduser()
        if path.is_dir() and is_run_folder(path):
            return list(self._run(path))
        if path.suffix.lower() == ".png":
            return list(self._picture(path))
        return list(self._adapter(subject))

    def _open(self, name: str, revision: str | None = None) -> Base:
        self.opened = open_base(name, revision=self.revision or revision, weights=False)
        return self.opened

    def _request(self, base: Base, triggers: Sequence[str], adapters: Sequence[str]) -> Iterator[Finding]:
        """Findings on the picture that is to be drawn; none where there is no such picture."""
        asked_picture = self.asked_picture
        if asked_picture.is_empty:
            return
        device = pick_device()
        yield from examine_drawing(
            Drawing(
                where="request",
                base=base.name,
                native_size_px=base.native_size_px,
                own_guidance=base.recommended_guidance,
                guidance_scale=asked_picture.guidance_scale,
                steps=asked_picture.steps,
                scheduler=asked_picture.scheduler or pick_sampler("auto", base.scheduler_config()),
                embeds_guidance=base.embeds_guidance,
                width_px=asked_picture.width_px,
                height_px=asked_picture.height_px,
                device=device,
                dtype=drawing_dtype(asked_picture.dtype or "auto", device),
                negative_prompt=asked_picture.negative_prompt,
                seed=asked_picture.seed,
                wants_seed=True,
                adapters=tuple(adapters),
            )
        )
        if asked_picture.prompt is not None:
            yield from examine_prompt(
                asked_picture.prompt,
                negative=asked_picture.negative_prompt,
                triggers=triggers,
                tokens=num_tokens(base, asked_picture.prompt),
            )

    def _adapter(self, subject: str) -> Iterator[Finding]:
        path, weight = parse_weighted(subject)
        adapter = read_adapter(path, allow_pickle=self.allow_pickle)
        spec = run_of_file(path, out=path.parent, base=self.base, allow_pickle=self.allow_pickle).spec
        base = self._open(self.base or spec.base.name, spec.base.revision)
        yield from self._adapter_findings(adapter, base, where=path.name, weight=weight)
        trigger = adapter.metadata.get(TRIGGER, "")
        yield from self._request(base, (trigger,) if trigger else (), (path.stem,))

    def _adapter_findings(
        self, adapter: Adapter, base: Base, *, where: str, weight: float
    ) -> Iterator[Finding]:
        try:
            check_fits(adapter, base, called=where)
            misfit = ""
        except AdapterError as error:
            misfit = str(error)
        models: dict[str, Any] = {}
        if not misfit and base.weights is not None:
            self.progress(Progress(stage="reading the base's weights"))
            models = {part: load_as_stored(base, part) for part in adapter.parts}
        yield from examine_adapter(
            gather_adapter_facts(adapter, where=where, weight=weight, models=models, misfit=misfit)
        )

    def _picture(self, path: Path) -> Iterator[Finding]:
        made = read_png_metadata(path)
        if made is None:
            raise ConfigError(f"{path}: detour did not draw it, so it does not say how it was made.")
        embedded = embedded_of_identity(made.base)
        try:
            base = self._open(
                self.base or (made.base if embedded is None else embedded.name), made.base_revision
            )
        except BaseError as error:
            raise ConfigError(
                f"{path}: drawn with '{made.base}', which is not here. Name it with --base."
            ) from error
        yield from examine_drawing(drawing_of(made, base, where=path.name))
        yield from examine_prompt(
            made.prompt, negative=made.negative_prompt, tokens=num_tokens(base, made.prompt), where=path.name
        )

    def _run(self, folder: Path) -> Iterator[Finding]:
        spec = load_run_spec(config=folder / SETTINGS) if (folder / SETTINGS).is_file() else None
        if spec is None:
            raise ConfigError(f"{folder}: no {SETTINGS}, so no run of detour. Name a folder under runs/.")
        base = self._open(spec.base.name, spec.base.revision)
        yield from examine_run(self._run_facts(folder, spec, base))
        yield from _run_prompts(folder, spec, base)
        yield from _run_drawings(folder, spec, base)
        product = product_of(folder, spec)
        if product.is_file() and spec.adapter.method not in ("full", "reference"):
            adapter = read_adapter(product)
            yield from self._adapter_findings(adapter, base, where=str(product), weight=1.0)
        yield from self._request(base, (", ".join(spec.called_by()),), (spec.name,))

    def _run_facts(self, folder: Path, spec: RunSpec, base: Base) -> RunFacts:
        summary, metrics, machine = (
            summary_of(folder),
            read_metrics(folder / "metrics.jsonl"),
            gather_machine(),
        )
        self.progress(Progress(stage="looking at the pictures"))
        return RunFacts(
            where=str(folder),
            spec=spec,
            native_size_px=base.native_size_px,
            highest_rate=base.family.highest_rate,
            own_shift=own_shift(base, spec.data.resolution) if base.is_flow else 0.0,
            state=summary.state,
            error=summary.error or "",
            losses=[loss for _, loss in metrics.loss],
            validation=[loss for _, loss in metrics.validation],
            verdict=summary.verdict,
            reasons=_reasons(folder),
            flaws=_flaws(spec, base),
            log_problem=metrics.problem
            or ("" if metrics.exists or not summary.step else f"{folder}: no metrics.jsonl"),
            schedule_fault=schedule_fault_of(spec),
            peak_bytes=_peak(spec) if summary.state != "finished" else 0,
            free_bytes=machine.memory_free_bytes,
        )


def drawing_of(made: PictureMetadata, base: Base, *, where: str) -> Drawing:
    """How a picture of detour's was drawn."""
    return Drawing(
        where=where,
        base=base.name,
        native_size_px=base.native_size_px,
        own_guidance=base.recommended_guidance,
        guidance_scale=made.guidance_scale,
        embeds_guidance=base.embeds_guidance,
        true_guidance_scale=made.true_guidance_scale,
        steps=made.steps,
        scheduler=made.scheduler,
        spacing=made.spacing,
        guidance_interval=made.guidance_interval,
        deep_every=made.deep_every,
        width_px=made.width_px,
        height_px=made.height_px,
        device=made.device,
        dtype=made.dtype,
        negative_prompt=made.negative_prompt,
        seed=made.seed,
        adapters=tuple(use.name for use in made.adapters),
    )


def num_tokens(base: Base, prompt: str) -> int:
    """Tokens of a prompt for the base's first text encoder, without the marks of beginning and end."""
    from detour.generation.prompts import without_weights

    tokenizer = load_tokenizer(base.folder, base.family.text_parts[0])
    return len(tokenizer(without_weights(prompt), add_special_tokens=False, verbose=False).input_ids)


def _run_prompts(folder: Path, spec: RunSpec, base: Base) -> Iterator[Finding]:
    """The prompts of a run are read as captions are."""
    for name, prompts in (("sample", spec.sample.prompts), ("evaluate", spec.evaluate.prompts)):
        where = f"{folder}/{SETTINGS}, {name}.prompts"
        for prompt in prompts:
            tokens = num_tokens(base, prompt)
            if tokens > WINDOW_TOKENS:
                yield CUT.found(f"'{prompt[:40]}…' has {tokens} tokens", where)
    for prompt in spec.evaluate.prompts:
        yield from examine_prompt(
            prompt,
            triggers=(", ".join(spec.called_by()),),
            where=f"{folder}/{SETTINGS}, evaluate.prompts",
            plain=True,
        )


def _run_drawings(folder: Path, spec: RunSpec, base: Base) -> Iterator[Finding]:
    side = spec.data.resolution if isinstance(spec.data.resolution, int) else None
    drawn: Mapping[str, tuple[int, float | str]] = {
        "sample": (spec.sample.steps, spec.sample.guidance_scale),
        "evaluate": (spec.evaluate.steps, "auto"),
    }
    for name, (steps, guidance) in drawn.items():
        yield from examine_drawing(
            Drawing(
                where=f"{folder}/{SETTINGS}, {name}",
                base=base.name,
                native_size_px=side or base.native_size_px,
                own_guidance=base.recommended_guidance,
                guidance_scale=None if isinstance(guidance, str) else guidance,
                steps=steps,
                scheduler=pick_sampler("auto", base.scheduler_config()),
                embeds_guidance=base.embeds_guidance,
            )
        )


def _flaws(spec: RunSpec, base: Base) -> tuple[DataFlaw, ...] | None:
    """Read what is wrong with the run's data; ``None`` where it cannot be read from here."""
    sources = [folder.source for folder in spec.data.all_folders()]
    if not sources or any(
        source.startswith("hub:") or not Path(source).expanduser().is_dir() for source in sources
    ):
        return None
    side = spec.data.resolution if isinstance(spec.data.resolution, int) else base.native_size_px
    try:
        return check_data(spec.data, goal=spec.goal, resolution_px=side, seed=spec.seed).findings
    except DataError:
        return None


def _peak(spec: RunSpec) -> int:
    """Predicted bytes of a run that is to go on; 0 where they cannot be."""
    try:
        return plan_memory(spec, cards=()).peak_bytes
    except DetourError:
        return 0


def _reasons(folder: Path) -> tuple[str, ...]:
    try:
        reasons = json.loads((folder / "proof.json").read_text(encoding="utf-8")).get("reasons", ())
    except (OSError, ValueError, AttributeError):
        return ()
    return tuple(str(reason) for reason in reasons)
