"""Pictures for prompts, with and without adapters, each file with its provenance."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from detour.bases.base import Base, open_base
from detour.bases.hardware import drawing_dtype, pick_device, torch_dtype
from detour.errors import ConfigError
from detour.generation.engine import Drawn, OnStep, PictureEngine, PictureRequest
from detour.generation.few_steps import names_of, parse_kind, recognise, with_few_steps
from detour.generation.references import ReferenceInUse
from detour.generation.signing import open_signer
from detour.generation.starts import StartPicture
from detour.generation.strength import check_step_weights
from detour.specs.generation import GenerateSpec
from detour.verbs.chosen_adapters import ChosenAdapter, base_for, choose_adapter, in_use, words_of
from detour.verbs.doctor.finding import Finding
from detour.verbs.doctor.request import examine_request
from detour.verbs.draw.call_notes import notes_on_call
from detour.verbs.draw.merged import merge_adapters_of
from detour.verbs.draw.picture_files import (
    DrawnFile,
    MetadataMaker,
    NumberedPaths,
    write_pictures,
    write_sheets,
)
from detour.verbs.draw.reference_pictures import open_references
from detour.verbs.draw.screening import Screening, WithheldPicture, greyed, open_policy
from detour.verbs.draw.start_picture import open_start
from detour.verbs.progress import Progress, ProgressFn, silent
from detour.verbs.staging import refuse_unwritable


class GenerateResult(BaseModel):
    """What a call of :func:`generate_pictures` made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: tuple[DrawnFile, ...]
    mean_abs_diff: float | None = None
    """With against without adapters, on the 0-255 scale; only of ``compare``."""
    safety: Literal["checked", "absent"]
    policy: str = ""
    """Version of the safety policy; empty without one."""
    withheld: tuple[WithheldPicture, ...] = ()
    """Pictures that the policy refused or held: each is left out alone, and is in no file."""
    notes: tuple[str, ...] = ()
    warnings: tuple[Finding, ...] = ()
    """What surely makes bad pictures of the request; told as progress before the first one was drawn."""
    seconds: float

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)


def generate_pictures(
    spec: GenerateSpec,
    *,
    out: Path,
    grid: bool = False,
    force: bool = False,
    progress: ProgressFn = silent,
) -> GenerateResult:
    """Draw a picture for each prompt (times ``count``) and write it with all its settings.

    Each picture's settings are in its PNG text and in a sidecar, ``NAME.json``; with a certificate in a signed C2PA
    manifest too.

    With ``lora_steps`` the adapters of the UNet change their strength along the way; what an adapter does to a text
    encoder is in the prompt, which is read once, at full weight.

    Args:
        spec: prompts, base, adapters, seeds and how to draw.
        out: folder; files are numbered from the first free number, nothing is overwritten.
        grid: one labelled sheet of all pictures as well; a picture that the policy withheld is a grey field there.
        force: number from zero and overwrite files of the same name.
        progress: told after every denoising step; counts pictures.

    Raises:
        ConfigError: no prompts, ``compare`` without adapters, a device or size that does not go.
        BaseError: the base cannot be opened or loaded.
        AdapterError: an adapter is missing, broken, or made for another base.
        StorageError: a picture cannot be written; a folder where nothing can be is told before the first is drawn.
    """
    began = time.monotonic()
    _refuse(spec)
    refuse_unwritable(out, as_folder=True)
    signer = open_signer(*(None if name is None else Path(name) for name in (spec.c2pa_cert, spec.c2pa_key)))
    base = open_base(spec.base, revision=spec.revision)
    base.require_weights()
    loras = [choose_adapter(text, base, allow_pickle=spec.allow_pickle) for text in spec.loras]
    base = base_for(base, loras)
    spec, few_steps = for_few_steps(spec, base, loras)
    how, begun_from, use = open_start(spec, base)
    spec = spec.model_copy(update={"picture": how})
    device = pick_device(spec.device)
    dtype = drawing_dtype(spec.dtype, device)
    words = words_of(loras)
    references = open_references(spec, base, device=device, dtype=torch_dtype(dtype))
    screening = Screening(
        open_policy(spec.policy, base, device=device, trace=spec.trace),
        requests_of(spec, loras, begun_from, references.in_use),
    )
    requests = [request for _, request in screening.open]
    progress(Progress(stage="loading", done=0, total=1))
    engine = PictureEngine.load(base, device=device, dtype=dtype, safety=True, prompts="written")
    warned = examine_request(spec, base, models=engine.models, adapters=loras, device=device, dtype=dtype)
    for finding in warned:
        progress(Progress(stage="looking at the request", note=f"{finding.severity}: {finding.line}"))
    if spec.merge:
        requests = merge_adapters_of(engine, requests)
    maker = MetadataMaker(
        engine=engine,
        base=base,
        spec=spec,
        loras=loras,
        device=device,
        dtype=dtype,
        policy=screening.version,
        steering=screening.steering,
        start=use,
        references=references.uses,
        signer=signer,
    )
    count = _StepCount(progress, len(requests), spec)
    files: list[DrawnFile] = []
    with_adapters: list[Drawn] = []
    without: list[Drawn] = []
    with NumberedPaths.claimed(out, len(spec.prompts) * spec.count, force=force) as numbers:
        # Batch by batch to disk: what is drawn is kept when a long call is stopped.
        for start in range(0, len(requests), spec.batch):
            chunk = requests[start : start + spec.batch]
            drawn = engine.draw(chunk, batch=spec.batch, on_step=count.of(len(chunk)))
            plain = _without(engine, chunk, spec, count) if spec.compare else None
            places = [number for number, _ in screening.open[start : start + spec.batch]]
            passed = screening.passed(places, drawn, plain, how=engine.resolved(spec.picture))
            files += write_pictures(numbers, maker, chunk, places, passed, drawn, plain)
            with_adapters.append(_shown(drawn, passed))
            without += [_shown(plain, passed)] if plain is not None else []
        pictures = np.concatenate([drawn.pictures for drawn in with_adapters]) if with_adapters else None
        others = np.concatenate([drawn.pictures for drawn in without]) if without else None
        if pictures is not None:
            files += write_sheets(numbers, maker, requests, pictures, others, grid=grid)
    return GenerateResult(
        files=tuple(files),
        mean_abs_diff=None if others is None or pictures is None else _difference(pictures, others),
        safety=with_adapters[0].safety if with_adapters else "absent",
        policy=screening.version,
        withheld=tuple(screening.withheld),
        notes=(*few_steps, *screening.notes(), *notes_on_call(engine, spec, with_adapters, words)),
        warnings=warned,
        seconds=round(time.monotonic() - began, 3),
    )


def requests_of(
    spec: GenerateSpec,
    loras: Sequence[ChosenAdapter] = (),
    start: StartPicture | None = None,
    references: tuple[ReferenceInUse, ...] = (),
) -> list[PictureRequest]:
    """Prompt by prompt, ``count`` each, with everything that decides a picture; picture i has seed ``seed + i``."""
    prompts = [prompt for prompt in spec.prompts for _ in range(spec.count)]
    adapters = in_use(loras)
    return [
        PictureRequest(
            prompt=prompt,
            seed=spec.seed + index,
            how=spec.picture,
            start=start,
            adapters=adapters,
            references=references,
            step_weights=spec.lora_steps,
            width_class=None if spec.width_class == "auto" else spec.width_class,
            trace=spec.trace,
        )
        for index, prompt in enumerate(prompts)
    ]


def for_few_steps(
    spec: GenerateSpec, base: Base, loras: Sequence[ChosenAdapter]
) -> tuple[GenerateSpec, tuple[str, ...]]:
    """The settings of adapters or bases that were made for few steps, under those that were named.

    Args:
        spec: what was asked.
        base: that draws.
        loras: that are on; the first one that was distilled decides, before the base.

    Returns:
        the spec, and a sentence on what was recognised.

    Raises:
        ConfigError: ``fast`` names no kind.
    """
    named = [(lora.use.name, names_of(lora.use.name, lora.adapter.metadata)) for lora in loras]
    named.append((base.name, (base.name, base.identity)))
    if spec.fast != "auto":
        try:
            found, what = parse_kind(spec.fast), f"--fast {spec.fast}"
        except ValueError as error:
            raise ConfigError(f"fast {spec.fast}: {error}.") from error
    else:
        every = ((name, recognise(names)) for name, names in named)
        what, found = next((pair for pair in every if pair[1] is not None), ("", None))
    if found is None:
        return spec, ()
    how = with_few_steps(spec.picture, found)
    said = f"'{what}' is {found.title} by its name" if spec.fast == "auto" else f"{what}: {found.title}"
    return (
        spec.model_copy(update={"picture": how}),
        (
            f"{said}: drawn as such files want ({found.words}) where nothing else was asked; --fast off leaves it.",
        ),
    )


def _refuse(spec: GenerateSpec) -> None:
    if not spec.prompts:
        raise ConfigError("no prompts: name at least one picture to draw.")
    if spec.compare and not spec.loras and not spec.references:
        raise ConfigError(
            "--compare shows pictures with and without adapters and references: name one with --lora FILE or "
            "--reference PICTURE."
        )
    if spec.lora_steps:
        check_step_weights(spec.lora_steps)
        if not spec.loras:
            raise ConfigError("--lora-steps sets the strength of adapters: name one with --lora FILE.")
    if spec.merge and not spec.loras:
        raise ConfigError("--merge adds adapters to the base's weights: name one with --lora FILE.")
    if spec.merge and (spec.lora_steps or spec.compare):
        raise ConfigError(
            "--merge adds the adapters to the base's weights, which have them in every step and picture then. "
            "Leave out --lora-steps and --compare."
        )
    if spec.trace > spec.picture.steps:
        raise ConfigError(
            f"--trace {spec.trace}: there are only {spec.picture.steps} steps. Ask for as many or fewer."
        )


def _shown(drawn: Drawn, passed: Sequence[bool]) -> Drawn:
    """What sheets show of a batch."""
    return drawn if all(passed) else replace(drawn, pictures=greyed(drawn.pictures, passed))


def _without(
    engine: PictureEngine, requests: Sequence[PictureRequest], spec: GenerateSpec, count: _StepCount
) -> Drawn:
    """Draw the same pictures with the base alone."""
    plain = [replace(request, adapters=(), references=(), step_weights=(), trace=0) for request in requests]
    return engine.draw(plain, batch=spec.batch, on_step=count.of(len(requests)))


class _StepCount:
    """Turns the steps of single batches into the progress of the whole call."""

    def __init__(self, progress: ProgressFn, num_pictures: int, spec: GenerateSpec) -> None:
        self.progress = progress
        self.total = num_pictures * (2 if spec.compare else 1)
        self.before = 0
        self.began = time.monotonic()

    def of(self, num_pictures: int) -> OnStep:
        """The step callback of the next batch; progress is counted in pictures."""
        before, self.before = self.before, self.before + num_pictures

        def on_step(done: int, total: int) -> None:
            share = before + num_pictures * done / total
            left = (time.monotonic() - self.began) / share * (self.total - share)
            self.progress(
                Progress(stage="drawing", done=int(share), total=self.total, seconds_left=max(left, 0.0))
            )

        return on_step


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean())
