"""Pictures of a subject's class, drawn by the base before it is trained: what prior preservation shows it.

Each picture has a place of its own in a cache folder, named by everything that it depends on (base and its weights,
prompt, seed, size, steps, guidance), so later runs find it and none can take one of another base.
"""

import gc
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detour.bases.hardware import drawing_dtype, set_threads
from detour.data.finding import counted
from detour.data.folder import Dataset, Example
from detour.data.pictures import open_picture, read_bytes
from detour.errors import DataError
from detour.files import cache_home
from detour.generation.schedulers import pick_sampler
from detour.specs import PictureSpec, PriorSpec
from detour.specs.resolved import ResolvedRun
from detour.verbs.progress import Progress, ProgressFn, silent

if TYPE_CHECKING:
    from detour.bases.base import Base
    from detour.generation.engine import PictureEngine
    from detour.generation.png import PictureMetadata

BATCH = 4
STAGE = "drawing class pictures"
SIDE_LIMIT_MEGAPIXELS = 100.0


@dataclass(frozen=True, kw_only=True)
class ClassPicture:
    """One picture that is wanted: reads like the generation engine's request.

    Attributes:
        prompt: of the class.
        seed: of its start noise.
        path: where it is kept.
    """

    prompt: str
    seed: int
    path: Path
    negative_prompt: str = ""


def draw_class_pictures(spec: ResolvedRun, base: "Base", *, progress: ProgressFn = silent) -> Dataset | None:
    """Draw what is not there yet; nothing of the base stays in memory.

    Args:
        spec: a resolved run.
        base: what will be trained.
        progress: told of each batch.

    Returns:
        The class pictures with their prompts as captions; ``None`` for a run without prior preservation.

    Raises:
        BaseError: the base cannot be loaded.
        StorageError: a picture cannot be written.
    """
    if not spec.prior.use:
        return None
    wanted = list(wanted_pictures(spec, base))
    missing = [one for one in wanted if not _is_whole(one.path)]
    if missing:
        progress(Progress(stage=STAGE, note=cost_sentence(spec, len(missing))))
        _draw(wanted, missing, spec, base, progress)
        gc.collect()
    note = f"{len(wanted)} class pictures, {len(wanted) - len(missing)} of them drawn before: {_root(spec.prior)}"
    progress(Progress(stage=STAGE, note=note))
    return Dataset(tuple(_example(one) for one in wanted), found=("class pictures drawn by the base",))


def cost_sentence(spec: ResolvedRun, missing: int) -> str:
    """What drawing the class costs before training begins, in training steps.

    A picture takes a pass of the UNet a step, two with guidance; a training step takes a forward and a backward pass,
    about three forward ones, for each sample.
    """
    passes = missing * spec.prior.steps * (2 if spec.prior.guidance_scale > 1 else 1)
    steps = round(passes / (3 * spec.train.batch * spec.train.grad_accum))
    half = spec.prior.pictures // 2
    fewer = f"; fewer: --set prior.pictures={half}" if half else ""
    return (
        f"Before training the base draws {counted(missing, 'picture')} of the class in "
        f"{counted(spec.prior.steps, 'step')} each: about as much work as {counted(steps, 'training step')}, "
        f"and the run has {spec.train.steps}. They are kept for later runs{fewer}."
    )


def wanted_pictures(spec: ResolvedRun, base: "Base") -> Iterator[ClassPicture]:
    """The prompts take turns; picture i has seed i, so that more pictures contain the fewer."""
    side = spec.data.resolution
    facts = {
        "base": base.identity,
        "weights": base.weights_sha256(),
        "side_px": side,
        "steps": spec.prior.steps,
        "guidance_scale": spec.prior.guidance_scale,
        "scheduler": pick_sampler("auto", base.scheduler_config()),
    }
    for index in range(spec.prior.pictures):
        prompt = spec.prior.class_prompts[index % len(spec.prior.class_prompts)]
        text = json.dumps({**facts, "prompt": prompt}, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:20]
        yield ClassPicture(prompt=prompt, seed=index, path=_root(spec.prior) / key / f"{index:05d}.png")


def _root(prior: PriorSpec) -> Path:
    return Path(prior.folder).expanduser() if prior.folder else cache_home() / "class-pictures"


def _is_whole(path: Path) -> bool:
    try:
        open_picture(path, max_megapixels=SIDE_LIMIT_MEGAPIXELS, name=path.name)
    except DataError:
        return False  # not there yet, or damaged: it is drawn again
    return True


def _draw(
    wanted: Sequence[ClassPicture],
    missing: Sequence[ClassPicture],
    spec: ResolvedRun,
    base: "Base",
    progress: ProgressFn,
) -> None:
    """Draw and write what is missing, each picture in the batch that it was drawn in at first.

    A picture's last bits depend on its batch. One that was damaged has to come out the same to the byte, so that a
    run can go on with it: its whole batch is drawn again, and batches are filled up to :data:`BATCH`.
    """
    from detour.generation.engine import PictureEngine
    from detour.generation.png import save_png

    device = spec.base.device
    progress(Progress(stage=STAGE, done=0, total=len(missing)))
    # The safety checker is left out: a black picture is no picture of the class.
    engine = PictureEngine.load(base, device=device, dtype=drawing_dtype("auto", device))
    side = spec.data.resolution
    how = PictureSpec(
        steps=spec.prior.steps, guidance_scale=spec.prior.guidance_scale, width_px=side, height_px=side
    )
    lacking, done = {one.path for one in missing}, 0
    for start in range(0, len(wanted), BATCH):
        chunk = wanted[start : start + BATCH]
        if lacking.isdisjoint(one.path for one in chunk):
            continue
        filled = [*chunk, *[chunk[-1]] * (BATCH - len(chunk))]
        pictures = engine.draw(filled, how, batch=BATCH).pictures
        for one, picture in zip(chunk, pictures, strict=False):
            if one.path in lacking:
                save_png(one.path, picture, _metadata(one, how, engine, device))
                done += 1
        progress(Progress(stage=STAGE, done=done, total=len(missing)))


def _metadata(one: ClassPicture, how: PictureSpec, engine: "PictureEngine", device: str) -> "PictureMetadata":
    from detour.generation.png import PictureMetadata
    from detour.verbs.draw.picture_files import versions

    resolved = engine.resolved(how)
    return PictureMetadata(
        prompt=one.prompt,
        seed=one.seed,
        steps=resolved.steps,
        scheduler=resolved.scheduler,
        guidance_scale=resolved.guidance_scale,
        width_px=resolved.width_px,
        height_px=resolved.height_px,
        base=engine.base.identity,
        base_revision=engine.base.revision,
        device=device.partition(":")[0],
        dtype=drawing_dtype("auto", device),
        batch=BATCH,
        threads=set_threads("auto"),
        versions=versions(),
        safety="absent",
    )


def _example(one: ClassPicture) -> Example:
    data = read_bytes(one.path, one.path.name)
    size_px = open_picture(data, max_megapixels=SIDE_LIMIT_MEGAPIXELS, name=one.path.name).size
    name = f"class/{one.path.parent.name}/{one.path.name}"
    return Example(name, one.path, one.prompt, hashlib.sha256(data).hexdigest(), 1, size_px)
