"""The labs: what each is about, and what it asks of a GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from detour.bases.families import FamilyName
from detour.errors import ConfigError

Side = Literal["adapter", "proof", "diffusion", "service"]
Work = Literal["settings", "drawing", "training"]

UNETS: Sequence[FamilyName] = ("sd1", "sd2", "sdxl")
"""Families that most labs are about: a UNet that predicts noise or its velocity, along a schedule of ᾱ."""

FLOWS: Sequence[FamilyName] = ("sd3", "flux")
"""Families of transformers along a rectified flow."""

BOTH: Sequence[FamilyName] = (*UNETS, *FLOWS)
"""Families of the labs that ask the base what it is, and then do it in its terms."""

BY_HAND: Sequence[FamilyName] = ("sd1", "sd2")
"""Families of the labs that call the UNet by hand with text states alone; SDXL's reads sizes and a pooled state too."""

PREDICTING_NOISE: Sequence[FamilyName] = ("sd1",)
"""Families of the labs that take the UNet's answer for noise in a loss or step; many of SD 2.x answer with velocity."""

LESSONS = Path(__file__).parent / "lessons"


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Title, questions and needs of one lab.

    Attributes:
        number: of the lab; not every number is taken.
        title: as its notebook is headed.
        about: one line.
        side: from which side the subject is looked at.
        work: the heaviest thing that it does: reading settings, drawing pictures, or training.
        families: of the bases that it runs on; another base is refused before anything is loaded.
        settings: of its training where they are not the defaults, as for ``--set``; what its memory depends on. Labs
            load fp32, but for what the recipes of training load by themselves.
    """

    number: int
    title: str
    about: str
    side: Side
    work: Work
    families: Sequence[FamilyName] = UNETS
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the lab in file names, such as ``lab09``."""
        return f"lab{self.number:02d}"

    @property
    def source(self) -> Path:
        """Path of the lab's jupytext percent file."""
        return LESSONS / f"{self.name}.py"


LABS: Sequence[Lab] = (
    Lab(
        number=1, title="Where the detours go", side="adapter", work="settings",
        about="Find the layers by name, count what an adapter adds, and see why `to_q` alone matches too much.",
        families=BOTH,
    ),
    Lab(
        number=2, title="One training step by hand", side="adapter", work="training",
        about="Picture, latents, noise, prediction, loss, gradients; why half of the gradients are zero at first.",
        families=(*BY_HAND, *FLOWS),
        settings={"train.batch": 1},
    ),
    Lab(
        number=3, title="Train a style", side="adapter", work="training",
        about="A style set, a loss that means something, held-out prompts, rank 4 against rank 8.",
        families=BOTH,
        settings={"base.dtype": "fp16", "adapter.rank": 8, "train.batch": 2},
    ),
    Lab(
        number=4, title="Compose", side="adapter", work="training",
        about="Train two adapters, put them together at several weights, predict and measure how they get along.",
        settings={"base.dtype": "fp16", "adapter.rank": 4, "train.batch": 2},
    ),
    Lab(
        number=5, title="Baseline", side="proof", work="drawing",
        about="Load a base, look at its parts, draw with a fixed seed, and learn what determinism needs.",
        families=BY_HAND,
    ),
    Lab(
        number=6, title="Attach", side="proof", work="drawing",
        about="Adapters on down, middle and up blocks; trainable share; what rank and alpha do to the scale.",
    ),
    Lab(
        number=7, title="Overfit in thirty seconds", side="proof", work="training",
        about="Ten steps on one picture: mechanics, not quality; why the training prompt proves nothing.",
        families=PREDICTING_NOISE,
        settings={"train.batch": 1},
    ),
    Lab(
        number=8, title="Did it move the pixels?", side="proof", work="training",
        about="Differences above the floor, held-out prompts, collapse; four reasons why an adapter does nothing.",
    ),
    Lab(
        number=9, title="Noise and back", side="diffusion", work="drawing",
        about="The forward process by steps and in one jump, one pixel by hand, variance, and the way back.",
        families=BOTH,
    ),
    Lab(
        number=10, title="Samplers", side="diffusion", work="drawing",
        about="DDPM, DDIM, PNDM, Euler and DPM++ at 5 to 25 steps: time, score, and the sweet spot.",
        families=PREDICTING_NOISE,
    ),
    Lab(
        number=11, title="A correct training loop", side="diffusion", work="training",
        about="A wrong loop with five faults: find each and fix it, graded against the real one.",
        families=PREDICTING_NOISE,
    ),
    Lab(
        number=12, title="Classifier-free guidance", side="diffusion", work="drawing",
        about="Both halves in one batch, equal to the pipeline's; scales from 1 to 20, adherence and artefacts.",
        families=BY_HAND,
    ),
    Lab(
        number=13, title="Reference and subject", side="adapter", work="training",
        about="Show the network a picture beside the prompt; keep a character by seed, reference, adapter or both.",
        settings={"train.batch": 2},
    ),
    Lab(
        number=14, title="Fast drawing", side="diffusion", work="drawing",
        about="What a distilled model learns, at which times it is drawn, and what four steps cost.",
    ),
    Lab(
        number=15, title="Production settings", side="service", work="drawing",
        about="Steps, half precision, sampler, slicing and batching, each measured alone under a latency budget.",
    ),
    Lab(
        number=16, title="Safety in layers", side="service", work="drawing",
        about="Build a layer, count its misses and false alarms, stack two, set two thresholds, work the queue.",
    ),
    Lab(
        number=17, title="Cost", side="service", work="training",
        about="What an accepted picture costs on your machine, and from how many on a training of your own pays.",
        families=BY_HAND,
        settings={"train.batch": 2},
    ),
    Lab(
        number=18, title="The same on a flow model", side="diffusion", work="training",
        about="What SD 3 and Flux do otherwise: mixture, target, shift, step, layers; and the same proofs as ever.",
        families=FLOWS,
        settings={"base.name": "sd35-medium", "base.dtype": "fp16", "train.batch": 3},
    ),
    Lab(
        number=19, title="Where along the schedule", side="adapter", work="training",
        about="How far an adapter moves answers at each noise level, and pictures when on in a third of the steps.",
        settings={"base.dtype": "fp16", "adapter.rank": 4, "train.batch": 3},
    ),
)  # fmt: skip

RAN: Mapping[FamilyName, Sequence[int]] = {
    "sd1": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 19),
    "sd2": (1, 2, 3, 4, 5, 6, 8, 9, 12, 13, 14, 15, 16, 17, 19),
    "sdxl": (1, 3, 4, 6, 8, 9, 13, 14, 15, 16, 19),
    "sd3": (1, 2, 3, 9, 18),
    "flux": (1, 2, 3, 9, 18),
}
"""Family → labs whose solution was seen to pass every check on a random folder of it (tests/labs/test_families.py)."""


def lab_of(number: int) -> Lab:
    """The lab of that number.

    Raises:
        ConfigError: there is none.
    """
    for lab in LABS:
        if lab.number == number:
            return lab
    raise ConfigError(
        f"there is no lab {number}. There are {', '.join(str(lab.number) for lab in LABS)}: see `detour labs list`."
    )
