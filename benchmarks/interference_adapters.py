"""The adapters of the interference study: three styles, one of them twice, and two subjects, on the embedded base."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from detour.files import write_text, write_with
from detour.pocket.world import HOUSE, held_out_prompts, render
from detour.specs import (
    AdapterSpec,
    BaseSpec,
    DataSpec,
    EvaluateSpec,
    LossSpec,
    OptimSpec,
    RunSpec,
    SampleSpec,
    TrainSpec,
    ValidateSpec,
)
from detour.verbs.train.demo import draw_training_pictures
from detour.verbs.train.run import train_adapter

NUM_PICTURES = 24
RANK = 4


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of one adapter of the study.

    Attributes:
        goal: what it learns.
        learns: a word of the world.
        seed: of its pictures, of the factors' start and of the training.
        lr: peak rate.
        steps: of batch 8.
    """

    goal: Literal["style", "subject"]
    learns: str
    seed: int
    lr: float
    steps: int


TRAININGS: dict[str, Training] = {
    "glass": Training(goal="style", learns="stained glass", seed=0, lr=1.2e-2, steps=120),
    "robot": Training(goal="subject", learns="robot", seed=3, lr=8e-3, steps=120),
    "comic": Training(goal="style", learns="comic", seed=0, lr=8e-3, steps=150),
    "watercolour": Training(goal="style", learns="watercolour", seed=2, lr=8e-3, steps=120),
    "glass-again": Training(goal="style", learns="stained glass", seed=5, lr=1.2e-2, steps=120),
    "snail": Training(goal="subject", learns="snail", seed=4, lr=8e-3, steps=120),
}


def trained(name: str, folder: Path) -> Path:
    """Train the adapter's file where it is missing; a killed run starts again.

    Raises:
        DetourError: as training does.
    """
    file = folder / "runs" / name / f"{name}.safetensors"
    if not file.exists():
        source = folder / "data" / name
        _draw(TRAININGS[name], source)
        train_adapter(_spec(name, source), runs=folder / "runs", force=True)
    return file


def _draw(training: Training, folder: Path) -> None:
    if training.goal == "style":
        draw_training_pictures(folder, style_name=training.learns, count=NUM_PICTURES, seed=training.seed)
        return
    asked = held_out_prompts(3 * NUM_PICTURES * 2, seed=training.seed, kind="subject")
    mine = [one for one in asked if one.object == training.learns][:NUM_PICTURES]
    for index, one in enumerate(mine):
        image = Image.fromarray(render(one.scene, HOUSE))
        path = folder / f"{index:03d}.png"
        write_with(path, lambda temporary, image=image: image.save(temporary, "PNG"))  # type: ignore[misc]
        write_text(path.with_suffix(".txt"), one.prompt + "\n")


def _spec(name: str, source: Path) -> RunSpec:
    training = TRAININGS[name]
    return RunSpec(
        name=name,
        goal=training.goal,
        seed=training.seed,
        base=BaseSpec(name="pocket"),
        data=DataSpec(source=str(source)),
        adapter=AdapterSpec(rank=RANK, targets="all"),
        train=TrainSpec(
            steps=training.steps,
            batch=8,
            threads=1,
            optim=OptimSpec(lr=training.lr),
            loss=LossSpec(caption_dropout=0.0),
        ),
        # The study draws and scores by itself: nothing more than training and the least of a proof.
        sample=SampleSpec(every=0),
        validate=ValidateSpec(every=0),
        evaluate=EvaluateSpec(num_prompts=0, proof_pictures=1),
    )
