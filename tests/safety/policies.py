"""Policy files for tests: text, and folders of rendered pictures that they name."""

from pathlib import Path

import numpy as np
import tomli_w
from PIL import Image

from detour.pocket.world import HOUSE, VOCABULARY, compose_scene, render

OTHERS = [kind for kind in VOCABULARY.objects if kind != "crown"]
TERMS = {
    "categories": [
        {"name": "crowns", "terms": ["crown*", "tiara"], "allow": ["crown prince"]},
        {"name": "hats", "action": "change", "terms": ["bowler hat"]},
        {"name": "masks", "action": "hold", "terms": ["mask"]},
    ]
}
RULES = {"rules": [{"find": "bowler hat", "replace": "cup"}]}
TEXTS = {
    "concepts": ["a picture of a crown"],
    "others": [f"a picture of a {kind}" for kind in OTHERS],
    "refuse": 0.6,
    "hold": 0.2,
}


def write_policy(folder: Path, **tables: object) -> Path:
    path = folder / "policy.toml"
    path.write_text(tomli_w.dumps({"version": 1, "name": "test", **tables}))
    return path


def rendered(kind: str, seed: int) -> np.ndarray:
    colour = VOCABULARY.colours[seed % len(VOCABULARY.colours)]
    place = VOCABULARY.places[seed % len(VOCABULARY.places)]
    return np.asarray(render(compose_scene(seed=seed, things=[(kind, colour)], place=place), HOUSE))


def write_pictures(folder: Path, pictures: list[np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index:03d}.png")
    return folder
