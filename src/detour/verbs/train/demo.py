"""The whole tool in one go: draw pictures of a style that the base never saw, train on them, prove, show."""

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from detour.errors import ConfigError, DetourError, nearest
from detour.evaluation.proof import Proof, read_proof
from detour.specs import (
    AdapterSpec,
    BaseSpec,
    DataSpec,
    EvaluateSpec,
    LossSpec,
    RunSpec,
    SampleSpec,
    TrainSpec,
    ValidateSpec,
)
from detour.verbs.judge.held_out_material import write_world_style
from detour.verbs.progress import Progress, ProgressFn, silent
from detour.verbs.train.captioned import write_captioned

RANK = 4
NUM_PICTURES = 24
NUM_PROMPTS = 16
"""Held-out prompts; each is drawn twice. After training, pictures are what the demo's time goes to."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What the demo trains on one of the package's own bases.

    Attributes:
        folder_name: of the run.
        style: of the world, which the base never saw.
        steps: of training.
    """

    folder_name: str
    style: str
    steps: int


DEMOS: Mapping[str, DemoSettings] = {
    # Darker, greyer and warmer than any picture that the base was trained on. Its VAE and a few steps hold such a
    # change of colours whole, where the lead lines of stained glass come out soft.
    "pocket": DemoSettings(folder_name="demo", style="dusk", steps=40),
    # Lead lines around panes of flat colour. True pictures that went through its VAE of sixteen channels are still 98 %
    # of the way to the style; through pocket's of four, 82 %.
    "pocket-flow": DemoSettings(folder_name="demo-flow", style="stained glass", steps=120),
}
"""Embedded base → what the demo trains on it."""

STYLE = DEMOS["pocket"].style
"""The style of the demo on ``pocket``, under the name that ``detour.recipes.run_demo`` had for it."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo made, and how long it took.

    Attributes:
        folder: of the run.
        base: that was trained on.
        style: that was learned.
        proof: figures and verdict.
        adapter_file: the adapter.
        sheet: prompts × (base, adapter, true style).
        report: the page to look at.
        seconds: of the whole demo.
    """

    folder: Path
    base: str
    style: str
    proof: Proof
    adapter_file: Path
    sheet: Path
    report: Path
    seconds: float


def run_demo(*, runs: Path, base: str = "pocket", seed: int = 0, progress: ProgressFn = silent) -> DemoResult:
    """Train a rank-4 adapter on 24 pictures of a held-out style of an embedded base's world, and prove it.

    Args:
        runs: folder of runs; the demo takes ``demo`` (``demo-flow`` on ``pocket-flow``), or ``demo-2`` and so on when
            that is taken.
        base: ``pocket`` learns a light, ``pocket-flow`` a style that lives in its detail.
        seed: draws the pictures and the training.
        progress: told about stages.

    Raises:
        BaseError: the base's weights are missing from this installation.
        ConfigError: there is no demo on this base.
        DetourError: as training and proving do.
    """
    from detour.bases.base import open_base
    from detour.training.run_folder import free_name
    from detour.verbs.train.run import train_adapter

    started = time.monotonic()
    settings = settings_of(base)
    open_base(base).require_weights()  # before pictures are drawn
    folder = runs / free_name(runs, settings.folder_name)
    draw_training_pictures(
        folder / "data",
        style_name=settings.style,
        count=NUM_PICTURES,
        seed=seed,
        as_asked=True,
        progress=progress,
    )
    write_world_style(folder, settings.style)
    spec = demo_spec(folder, base=base, seed=seed)
    train_adapter(spec, runs=runs, resume=None, force=False, progress=progress)
    return DemoResult(
        folder=folder,
        base=base,
        style=settings.style,
        proof=read_proof(folder / "proof.json"),
        adapter_file=folder / f"{folder.name}.safetensors",
        sheet=folder / "samples" / "sheet.png",
        report=folder / "report.html",
        seconds=time.monotonic() - started,
    )


def settings_of(base: str) -> DemoSettings:
    """What the demo trains on a base.

    Raises:
        ConfigError: there is no demo on this base.
    """
    if base not in DEMOS:
        raise ConfigError(
            f"there is no demo on base '{base}'.{nearest(base, list(DEMOS))} There is one on {' and '.join(DEMOS)}; "
            "`detour train` takes every base."
        )
    return DEMOS[base]


def demo_spec(folder: Path, *, base: str = "pocket", seed: int) -> RunSpec:
    """The demo's run: what ``detour train`` does with these pictures, but for name, rank and dropped captions."""
    steps = settings_of(base).steps
    return RunSpec(
        name=folder.name,
        goal="style",
        seed=seed,
        base=BaseSpec(name=base),
        data=DataSpec(source=str(folder / "data")),
        adapter=AdapterSpec(rank=RANK),
        # Without dropped captions the unconditional side stays the base's, and guidance strengthens the style.
        train=TrainSpec(steps=steps, loss=LossSpec(caption_dropout=0.0)),
        # Each sheet costs as much as ten steps and each validation as two: fewer of both keep the demo short.
        sample=SampleSpec(every=steps // 2),
        validate=ValidateSpec(every=steps // 4),
        evaluate=EvaluateSpec(num_prompts=NUM_PROMPTS),
    )


def draw_training_pictures(
    folder: Path,
    *,
    style_name: str,
    count: int,
    seed: int,
    as_asked: bool = False,
    progress: ProgressFn = silent,
) -> None:
    """Draw pictures of the world in one style, each with a true caption that does not name the style.

    The captions say what is shown and nothing of how, so the adapter carries the style whatever is asked. Pictures of
    higher numbers, which an earlier call with a larger ``count`` left in the folder, are removed.

    Args:
        folder: made if missing.
        style_name: of the world's named styles and palettes.
        count: of pictures.
        seed: of scenes and phrasings.
        as_asked: draw only scenes of one thing by day, which is what held-out prompts ask for. The world's other scenes
            show two things or another sky, and references of other contents make a style look further away.
        progress: told after each picture.

    Raises:
        StorageError: disk full or folder not writable.
        DetourError: no such style.
    """
    from detour.pocket.world import HOUSE, NAMED_STYLES, PALETTES, caption, render, training_example
    from detour.pocket.world.vocabulary import DAY

    named = NAMED_STYLES | PALETTES
    if style_name not in named:
        raise DetourError(f"the world has no style '{style_name}'. It has: {', '.join(named)}.")
    scenes = (training_example(seed, index).scene for index in itertools.count())
    if as_asked:
        scenes = (scene for scene in scenes if len(scene.things) == 1 and scene.sky == DAY)
    for index, scene in enumerate(itertools.islice(scenes, count)):
        write_captioned(
            folder / f"{index:03d}.png",
            render(scene, named[style_name]),
            caption(scene, HOUSE, seed=seed + index),
        )
        progress(Progress(stage="drawing training pictures", done=index + 1, total=count))
    for index in itertools.count(count):
        surplus = folder / f"{index:03d}.png"
        if not surplus.is_file():
            break
        surplus.unlink()
        surplus.with_suffix(".txt").unlink(missing_ok=True)
