"""Makes the material of ``benchmarks.copies``: sets of training pictures, adapters trained on them, and new pictures.

Every step is kept in a folder and left alone when it is there, so a stopped call goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.bare_run import train_bare
from benchmarks.subject import SUBJECTS, draw_photos
from detour.adapter_files import read_adapter
from detour.adapters.attach import attach_adapter
from detour.bases.base import open_base
from detour.bases.latents import decode_latents, encode_pictures, to_pixels
from detour.evaluation.pixels import Pictures
from detour.generation.engine import PictureEngine, PictureRequest
from detour.pocket.world import (
    HOUSE,
    NAMED_STYLES,
    VOCABULARY,
    compose_scene,
    held_out_prompts,
    render,
    training_example,
)
from detour.specs import PictureSpec
from detour.verbs.train.demo import draw_training_pictures

NEW_PICTURES = 64
"""Kinds of new pictures: true renders, and pictures of an adapter and of the base for new prompts."""
FEW = 24
"""Number of new pictures of an adapter that memorised its training pictures."""


@dataclass(frozen=True)
class Set:
    """Training pictures of one kind, and the run on them.

    Attributes:
        style: of the world; ``None`` is the purple octopus in the house style.
        count: pictures.
        seed: of the scenes.
        settings: of the run; ``None``: no adapter is trained on them.
        memorised: trained to give its pictures back.
    """

    style: str | None
    count: int
    seed: int
    settings: dict[str, Any] | None = field(default_factory=dict)
    memorised: bool = False


BY_HEART: dict[str, Any] = {
    "adapter.rank": 32,
    "adapter.targets": "linear",
    "train.steps": 300,
    "train.batch": 4,
    "train.optim.lr": 2e-3,
    "data.flip": False,
}
SETS = {
    "stained glass": Set("stained glass", 24, 0),
    "4 of comic": Set("comic", 4, 3, BY_HEART, memorised=True),
    "octopus": Set(None, 12, 0, settings=None),
    "watercolour": Set("watercolour", 24, 1, settings=None),
    "neon": Set("neon", 24, 2, settings=None),
}


@dataclass(frozen=True)
class Material:
    """Pictures of one set, each uint8 (N, 128, 128, 3).

    Attributes:
        training: what the run was shown.
        through_vae: the same through the base's autoencoder.
        twins: true pictures of the same kind that show the same words as the training pictures in other scenes.
        renders: true pictures of the same kind with words of their own.
        base: the base's pictures for new prompts.
        new: the adapter's for the same prompts and seeds; none without an adapter.
        again: the adapter's for its training captions.
    """

    training: Pictures
    through_vae: Pictures
    twins: Pictures
    renders: Pictures
    base: Pictures
    new: Pictures
    again: Pictures


def gather(name: str, work: Path) -> Material:
    """Gather everything of one set; missing parts are drawn and trained."""
    one = SETS[name]
    folder = work / name.replace(" ", "-")
    data = folder / "data"
    _draw_set(one, data)
    training = read_pictures(data)
    adapter = _trained(one.settings, folder, data) if one.settings is not None else None
    none = training[:0]
    prompts = [asked.prompt for asked in held_out_prompts(NEW_PICTURES, seed=7)]
    captions = [path.read_text().strip() for path in sorted(data.glob("*.txt"))]
    each = max(1, 16 // len(captions))
    again = [
        PictureRequest(prompt=c, seed=5000 + 100 * i + k) for i, c in enumerate(captions) for k in range(each)
    ]
    asked = [PictureRequest(prompt=prompt, seed=1000 + i) for i, prompt in enumerate(prompts)]
    base = _kept(work / "base-held-out.npy", lambda: draw(asked, None))
    return Material(
        training=training,
        through_vae=_kept(folder / "vae.npy", lambda: through_vae(training)),
        twins=_kept(folder / "twins.npy", lambda: _twins(one)),
        renders=_kept(folder / "renders.npy", lambda: _renders(one)),
        base=base,
        new=_kept(folder / "new.npy", lambda: draw(asked[: FEW if one.memorised else None], adapter))
        if adapter
        else none,
        again=_kept(folder / "again.npy", lambda: draw(again, adapter)) if adapter else none,
    )


def read_pictures(folder: Path) -> Pictures:
    """All PNG files of a folder, in the order of their names."""
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))])


def draw(requests: Sequence[PictureRequest], adapter: Path | None) -> Pictures:
    """Draw pictures with the base, with or without an adapter."""
    engine = PictureEngine.load(open_base("pocket"), device="cpu", dtype="fp32")
    if adapter is not None:
        attach_adapter({"unet": engine.unet, **engine.text.models}, read_adapter(adapter), 1.0)
    return engine.draw(requests, PictureSpec(steps=20), batch=8).pictures


def through_vae(pictures: Pictures) -> Pictures:
    """Encode and decode pictures with the VAE, which shows what a base can draw of them at best."""
    vae = open_base("pocket").load_vae(torch.float32, "cpu")
    with torch.inference_mode():
        return decode_latents(vae, encode_pictures(vae, to_pixels(pictures))[0])


def _kept(path: Path, make: Any) -> Pictures:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, make())
        print(path, flush=True)
    pictures: Pictures = np.load(path)
    return pictures


def _draw_set(one: Set, data: Path) -> None:
    if len(list(data.glob("*.txt"))) == one.count:
        return
    if one.style is None:
        draw_photos(SUBJECTS["octopus"], data, count=one.count, seed=one.seed)
    else:
        draw_training_pictures(data, style_name=one.style, count=one.count, seed=one.seed)


def _trained(settings: dict[str, Any], folder: Path, data: Path) -> Path:
    file = folder / "run" / "run.safetensors"
    if not file.exists():
        common = {"train.threads": torch.get_num_threads(), "train.loss.caption_dropout": 0.0}
        train_bare("run", data, folder, common | settings)
        print(file, flush=True)
    return file


def _twins(one: Set) -> Pictures:
    """Words of the training pictures in other scenes: the most similar pictures that are no copies."""
    if one.style is None:
        octopus = SUBJECTS["octopus"]
        scenes = [
            compose_scene(
                seed=9000 + i, things=[(octopus.kind, octopus.colour)], place=VOCABULARY.places[i % 3]
            )
            for i in range(48)
        ]
        return np.stack([render(scene, HOUSE) for scene in scenes])
    pictures = []
    for index in range(one.count):
        scene = training_example(one.seed, index).scene
        for again in range(-(-48 // one.count)):
            twin = compose_scene(
                seed=9000 + 100 * index + again,
                things=[(thing.kind, thing.colour) for thing in scene.things],
                place=scene.place,
                sky=scene.sky,
                relation=scene.relation,
            )
            pictures.append(render(twin, NAMED_STYLES[one.style]))
    return np.stack(pictures)


def _renders(one: Set) -> Pictures:
    if one.style is None:
        octopus = SUBJECTS["octopus"]
        scenes = [
            compose_scene(
                seed=8000 + i, things=[(octopus.kind, octopus.colour)], place=VOCABULARY.places[3 + i % 3]
            )
            for i in range(NEW_PICTURES)
        ]
        return np.stack([render(scene, HOUSE) for scene in scenes])
    scenes = [training_example(one.seed + 77, index).scene for index in range(NEW_PICTURES)]
    return np.stack([render(scene, NAMED_STYLES[one.style]) for scene in scenes])
