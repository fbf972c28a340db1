"""Pictures for prompts, with and without adapters, each file with its provenance."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from detour.bases.base import Base, open_base
from detour.bases.hardware import drawing_dtype, pick_device, set_threads, torch_dtype
from detour.bases.words import WordVectors
from detour.errors import ConfigError
from detour.generation.engine import Drawn, Moment, OnStep, PictureEngine, PictureRequest
from detour.generation.few_steps import names_of, parse_kind, recognise, with_few_steps
from detour.generation.grids import grid as lay_out
from detour.generation.png import PictureMetadata, ReferenceUse, StartUse, SteeringUse, save_image
from detour.generation.prompts import PromptReader, read_weights, reads_weights
from detour.generation.references import ReferenceInUse
from detour.generation.sidecar import save_picture
from detour.generation.signing import PictureSigner, open_signer
from detour.generation.starts import StartPicture
from detour.generation.strength import check_step_weights
from detour.specs.generation import GenerateSpec
from detour.verbs.chosen_adapters import ChosenAdapter, base_for, choose_adapter, in_use, words_of
from detour.verbs.doctor.finding import Finding
from detour.verbs.doctor.request import examine_request
from detour.verbs.draw.merged import merge_adapters_of
from detour.verbs.draw.reference_pictures import open_references, words_of_uses
from detour.verbs.draw.screening import Screening, WithheldPicture, greyed, open_policy
from detour.verbs.draw.start_picture import open_start
from detour.verbs.progress import Progress, ProgressFn, silent
from detour.verbs.staging import refuse_unwritable

MAX_SLUG = 40

Kind = Literal["picture", "base", "moment", "trace", "compare", "grid"]


class DrawnFile(BaseModel):
    """One file that was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    kind: Kind
    """``picture`` (with the adapters, if any), ``base`` (without), ``moment`` and ``trace`` (strip) of
    denoising, ``compare`` and ``grid`` (sheets)."""
    metadata: PictureMetadata | None = None


NO_CHECKER = "has no safety checker"


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
    told = _Teller(
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
    with _Numbers.claimed(out, len(spec.prompts) * spec.count, force=force) as numbers:
        # Batch by batch to disk: what is drawn is kept when a long call is stopped.
        for start in range(0, len(requests), spec.batch):
            chunk = requests[start : start + spec.batch]
            drawn = engine.draw(chunk, batch=spec.batch, on_step=count.of(len(chunk)))
            plain = _without(engine, chunk, spec, count) if spec.compare else None
            places = [number for number, _ in screening.open[start : start + spec.batch]]
            passed = screening.passed(places, drawn, plain, how=engine.resolved(spec.picture))
            files += _write(numbers, told, chunk, places, passed, drawn, plain)
            with_adapters.append(_shown(drawn, passed))
            without += [_shown(plain, passed)] if plain is not None else []
        pictures = np.concatenate([drawn.pictures for drawn in with_adapters]) if with_adapters else None
        others = np.concatenate([drawn.pictures for drawn in without]) if without else None
        if pictures is not None:
            files += _sheets(numbers, told, requests, pictures, others, grid=grid)
    return GenerateResult(
        files=tuple(files),
        mean_abs_diff=None if others is None or pictures is None else _difference(pictures, others),
        safety=with_adapters[0].safety if with_adapters else "absent",
        policy=screening.version,
        withheld=tuple(screening.withheld),
        notes=(*few_steps, *screening.notes(), *_notes(engine, spec, with_adapters, words)),
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


@dataclass(frozen=True, kw_only=True)
class _Teller:
    """Makes the metadata of each picture of one call."""

    engine: PictureEngine
    base: Base
    spec: GenerateSpec
    loras: Sequence[ChosenAdapter]
    device: str
    dtype: str
    policy: str
    steering: SteeringUse | None = None
    start: StartUse | None = None
    references: tuple[ReferenceUse, ...] = ()
    signer: PictureSigner | None = None

    def metadata(
        self,
        request: PictureRequest,
        drawn: Drawn,
        index: int,
        *,
        adapted: bool = True,
        moment: Moment | None = None,
    ) -> PictureMetadata:
        how = self.engine.resolved(self.spec.picture)
        return PictureMetadata(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt or how.negative_prompt,
            seed=request.seed,
            steps=how.steps,
            scheduler=how.scheduler,
            guidance_scale=how.guidance_scale,
            true_guidance_scale=how.true_guidance_scale,
            width_px=how.width_px,
            height_px=how.height_px,
            spacing=how.spacing,
            eta=how.eta,
            guidance_interval=how.guidance_interval,
            deep_every=how.deep_every,
            base=self.base.identity,
            base_revision=self.base.revision,
            adapters=tuple(lora.use for lora in self.loras) if adapted else (),
            adapter_steps=self.spec.lora_steps if adapted else (),
            merged=self.spec.merge,
            start=self.start,
            references=self.references if adapted else (),
            device=self.device.partition(":")[0],
            dtype=self.dtype,
            batch=self.spec.batch,
            width_class=drawn.width_classes[index],
            threads=set_threads("auto"),
            versions=versions(),
            # The checker looks at finished pictures alone.
            safety="absent" if moment else drawn.safety,
            safety_flagged=None if moment or drawn.nsfw is None else drawn.nsfw[index],
            policy=self.policy,
            steering=self.steering,
            moment=f"step {moment.step} of {moment.total}" if moment else "",
        )


def versions() -> dict[str, str]:
    """Versions on which the bytes of a picture depend."""
    import diffusers
    import torch

    import detour

    return {"detour": detour.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__}


_CLAIMS: dict[Path, list[int]] = {}
_CLAIMING = threading.Lock()


class _Numbers:
    """Numbered file names in one folder."""

    def __init__(self, out: Path, first: int, *, force: bool) -> None:
        self.out = out
        self.first = first
        self.force = force

    @classmethod
    @contextlib.contextmanager
    def claimed(cls, out: Path, count: int, *, force: bool) -> Iterator[_Numbers]:
        """Numbers behind those that are taken, for ``count`` pictures; no other call of this process gets them."""
        folder = out.absolute()
        with _CLAIMING:
            ends = _CLAIMS.setdefault(folder, [])
            taken = (
                [int(path.name[:4]) for path in out.glob("[0-9][0-9][0-9][0-9]-*")] if out.is_dir() else []
            )
            first = 0 if force else max([*(number + 1 for number in taken), *ends], default=0)
            ends.append(first + count)
        try:
            yield cls(out, first, force=force)
        finally:
            with _CLAIMING:
                ends.remove(first + count)
                if not ends:
                    _CLAIMS.pop(folder, None)

    def path(self, number: int, *words: str) -> Path:
        path = self.out / ("-".join([f"{self.first + number:04d}", *words]) + ".png")
        if path.exists() and not self.force:  # somebody else wrote here meanwhile
            raise ConfigError(f"{path}: is there already. Run again, or pass another folder with --out.")
        return path


def _write(
    numbers: _Numbers,
    told: _Teller,
    requests: Sequence[PictureRequest],
    places: Sequence[int],
    passed: Sequence[bool],
    drawn: Drawn,
    without: Drawn | None,
) -> list[DrawnFile]:
    """The files of one batch; ``places`` are the pictures' numbers within the call; those not passed are left out."""
    files = []
    for index, request in enumerate(requests):
        if not passed[index]:
            continue
        number = places[index]
        words = (slug(request.prompt), f"seed{request.seed}")
        metadata = told.metadata(request, drawn, index)
        path = numbers.path(number, *words)
        save_picture(path, drawn.pictures[index], metadata, signer=told.signer)
        files.append(DrawnFile(path=path, kind="picture", metadata=metadata))
        if without is not None:
            path = numbers.path(number, *words, "base")
            metadata = told.metadata(request, without, index, adapted=False)
            save_picture(path, without.pictures[index], metadata, signer=told.signer)
            files.append(DrawnFile(path=path, kind="base", metadata=metadata))
        files += _write_trace(numbers, told, request, drawn, index, number)
    return files


def _write_trace(
    numbers: _Numbers, told: _Teller, request: PictureRequest, drawn: Drawn, index: int, number: int
) -> list[DrawnFile]:
    """Each moment as a file, and all of them as one strip; nothing of a picture that was refused."""
    if not drawn.trace or (drawn.nsfw is not None and drawn.nsfw[index]):
        return []
    words = (slug(request.prompt), f"seed{request.seed}")
    files = []
    for moment in drawn.trace:
        path = numbers.path(number, *words, f"step{moment.step:03d}")
        metadata = told.metadata(request, drawn, index, moment=moment)
        save_picture(path, moment.pictures[index], metadata, signer=told.signer)
        files.append(DrawnFile(path=path, kind="moment", metadata=metadata))
    strip = lay_out(
        np.stack([moment.pictures[index] for moment in drawn.trace]),
        len(drawn.trace),
        row_labels=[f"{request.prompt}  (seed {request.seed})"],
        column_labels=[f"step {moment.step} of {moment.total}" for moment in drawn.trace],
    )
    path = numbers.path(number, *words, "trace")
    metadata = told.metadata(request, drawn, index)
    save_picture(path, strip, metadata, signer=told.signer)
    return [*files, DrawnFile(path=path, kind="trace", metadata=metadata)]


def _sheets(
    numbers: _Numbers,
    told: _Teller,
    requests: Sequence[PictureRequest],
    pictures: np.ndarray,
    without: np.ndarray | None,
    *,
    grid: bool,
) -> list[DrawnFile]:
    files = []
    if without is not None:
        pairs = np.stack([without, pictures], axis=1).reshape(-1, *pictures.shape[1:])
        named = [f"{lora.use.name} ×{lora.use.weight:g}" for lora in told.loras]
        names = ", ".join([*named, *([words_of_uses(told.references)] if told.references else [])])
        sheet = lay_out(
            pairs,
            2,
            row_labels=[f"{request.prompt}  (seed {request.seed})" for request in requests],
            column_labels=["without", f"with {names}"],
        )
        path = numbers.path(0, "compare")
        save_image(path, sheet)
        files.append(DrawnFile(path=path, kind="compare"))
    if grid:
        columns = told.spec.count if told.spec.count > 1 else min(len(requests), 4)
        sheet = lay_out(pictures, columns, row_labels=_row_labels(told.spec, requests, columns))
        path = numbers.path(0, "grid")
        save_image(path, sheet)
        files.append(DrawnFile(path=path, kind="grid"))
    return files


def _row_labels(spec: GenerateSpec, requests: Sequence[PictureRequest], columns: int) -> list[str]:
    """A row is one prompt at several seeds, or several prompts at one seed each."""
    labels = []
    for start in range(0, len(requests), columns):
        row = requests[start : start + columns]
        if spec.count > 1:
            labels.append(f"{row[0].prompt}  (seeds {row[0].seed} to {row[-1].seed})")
        else:
            labels.append("  |  ".join(f"{request.prompt} (seed {request.seed})" for request in row))
    return labels


def slug(prompt: str) -> str:
    """A prompt as part of a file name: letters and digits of ASCII, joined by hyphens."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:MAX_SLUG].strip("-") or "picture"


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean())


def _notes_on_prompts(engine: PictureEngine, spec: GenerateSpec, words: WordVectors) -> list[str]:
    """What became of prompts that are long or weighted."""
    prompts = tuple(dict.fromkeys((*spec.prompts, spec.picture.negative_prompt)))
    if reads_weights(engine.base):
        reader = PromptReader(engine.text.knowing(words))
        windows = {prompt: reader.num_windows(prompt) for prompt in prompts}
        return [
            f"'{prompt[:60]}…' is longer than the text encoder reads at once (75 tokens); it was read in {num} windows."
            for prompt, num in windows.items()
            if num > 1
        ]
    title = engine.base.family.title
    notes = [
        f"'{prompt[:60]}…' is longer than a text encoder of {title} reads, which saw its beginning alone."
        for prompt in engine.text.too_long(prompts)
    ]
    if any(span.weight != 1 for prompt in prompts for span in read_weights(prompt)):
        notes.append(f"{title} reads no weights in prompts: brackets were read as they stand.")
    return notes


def _notes_on_guidance(base: Base, spec: GenerateSpec) -> list[str]:
    """Settings of guidance that have no effect on this base."""
    how = spec.picture
    if not base.embeds_guidance:
        scale = base.recommended_guidance if how.guidance_scale == "auto" else how.guidance_scale
        notes = []
        if how.true_guidance_scale != 1:
            notes.append(
                f"true_guidance_scale has no effect: base '{spec.base}' is told no guidance scale, and guidance_scale "
                "is its classifier-free guidance."
            )
        if how.negative_prompt and scale <= 1:
            notes.append(
                f"the negative prompt has no effect: guidance is {scale:g}. Raise --guidance above 1."
            )
        return notes
    if how.negative_prompt and how.true_guidance_scale <= 1:
        return [
            f"the negative prompt has no effect: base '{spec.base}' is told its guidance scale and makes one "
            "prediction. Pass --true-guidance above 1, which doubles the cost."
        ]
    return []


def _notes(
    engine: PictureEngine, spec: GenerateSpec, batches: Sequence[Drawn], words: WordVectors
) -> tuple[str, ...]:
    notes = [*_notes_on_prompts(engine, spec, words), *_notes_on_guidance(engine.base, spec)]
    if batches and batches[0].safety == "absent":
        notes.append(f"base '{spec.base}' {NO_CHECKER}; the pictures were not checked.")
    refused = sum(sum(drawn.nsfw or ()) for drawn in batches)
    if refused:
        notes.append(f"the base's safety checker refused {refused} of the pictures; they are black.")
    return tuple(notes)
