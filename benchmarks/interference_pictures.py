"""Pictures of the interference study and what they show: each adapter alone, and each pair together."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.interference_adapters import trained
from detour.adapter_files.reading import read_adapter
from detour.adapters.attach import attach_adapter
from detour.bases.base import open_base
from detour.evaluation.pixels import Pictures
from detour.files import write_with
from detour.generation.engine import PictureEngine, PictureRequest
from detour.pocket.world import PromptedScene, held_out_prompts
from detour.specs.generation import PictureSpec

PAIRS: tuple[tuple[str, str], ...] = (
    ("glass", "robot"),
    ("glass", "watercolour"),
    ("glass", "glass-again"),
    ("robot", "snail"),
    ("comic", "watercolour"),
    ("comic", "robot"),
    ("glass", "comic"),
)
WEIGHTS: tuple[tuple[float, float], ...] = ((1.0, 1.0), (0.5, 0.5), (1.0, 0.5))
NUM_PROMPTS = 16
STEPS = 12
SEED = 41
FIRST_PICTURE_SEED = 3000


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Adapters with their weights; an empty mix is the base."""

    parts: tuple[tuple[str, float], ...]

    @property
    def name(self) -> str:
        """Name of the mix for a file."""
        return "+".join(f"{name}@{weight:g}" for name, weight in self.parts) or "base"


def mixes() -> list[Mix]:
    """The base, every adapter alone at every weight that a pair uses, and the pairs."""
    singles = {
        (name, weight)
        for pair in PAIRS
        for weights in WEIGHTS
        for name, weight in zip(pair, weights, strict=True)
    }
    alone = [Mix(parts=(one,)) for one in sorted(singles)]
    pairs = [Mix(parts=tuple(zip(pair, weights, strict=True))) for pair in PAIRS for weights in WEIGHTS]
    return [Mix(parts=()), *alone, *pairs]


def asked_scenes() -> list[PromptedScene]:
    """Things that the base knows, in combinations that it has never seen."""
    return held_out_prompts(NUM_PROMPTS, seed=SEED)


def pictures_of(mix: Mix, folder: Path) -> Pictures:
    """Read the pictures of a mix that were drawn before.

    Raises:
        FileNotFoundError: not drawn yet.
    """
    loaded: Pictures = np.load(_place(mix, folder))["pictures"]
    return loaded


def _place(mix: Mix, folder: Path) -> Path:
    return folder / "pictures" / f"{mix.name}.npz"


def draw_missing(folder: Path) -> Iterator[str]:
    """Draw the missing pictures, and yield the name of each file."""
    missing = [mix for mix in mixes() if not _place(mix, folder).exists()]
    if not missing:
        return
    engine = PictureEngine.load(open_base("pocket"), device="cpu", dtype="fp32")
    models = {"unet": engine.unet, **engine.text.models}
    for mix in missing:
        attached = [
            attach_adapter(models, read_adapter(trained(name, folder)), weight, name=f"lora_{index}")
            for index, (name, weight) in enumerate(mix.parts)
        ]
        requests = [
            PictureRequest(prompt=one.prompt, seed=FIRST_PICTURE_SEED + index)
            for index, one in enumerate(asked_scenes())
        ]
        drawn = engine.draw(requests, PictureSpec(steps=STEPS), batch=8).pictures
        for one in reversed(attached):
            one.detach()
        place = _place(mix, folder)
        write_with(place, lambda temporary, drawn=drawn: _save(temporary, drawn))  # type: ignore[misc]
        yield place.name


def _save(path: Path, pictures: Pictures) -> None:
    with path.open("wb") as stream:
        np.savez_compressed(stream, pictures=pictures)
