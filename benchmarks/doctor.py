"""``python -m benchmarks.doctor ADAPTER [FILE.json]``: how much change the embedded base bears, and which sizes.

Eight held-out prompts at two seeds, DPM++ with 10 steps, scored by the base's judge. The adapter is drawn with at
rising weights, once with all of its layers and once with those of attention alone; then the plain base at other sizes.
A row is written as soon as it is measured, and one that stands in the file is not measured again.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from detour.adapters.adapter import Adapter
from detour.adapters.attach import attach_adapter
from detour.files import write_json
from detour.specs.generation import PictureSpec
from detour.specs.studies import StudySpec
from detour.verbs.doctor.adapter_rules import change_shares
from detour.verbs.studies.studio import Studio

WEIGHTS = (0.0, 0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 3.0)
ATTENTION_WEIGHTS = (1.0, 2.0, 3.0, 4.0, 6.0)
SIZES = ((64, 64), (80, 80), (96, 96), (128, 128), (160, 160), (192, 192), (256, 256), (128, 192), (128, 256))


def main() -> None:
    """Measure what is not in the file yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter")
    parser.add_argument("out", type=Path, nargs="?", default=Path("doctor.json"))
    given = parser.parse_args()
    out: Path = given.out
    studio = Studio.open(StudySpec(lora=given.adapter, picture=PictureSpec(steps=10)))
    rows = json.loads(out.read_text()) if out.exists() else {}

    def measure(name: str, how: PictureSpec, about: dict[str, float]) -> None:
        if name not in rows:
            rows[name] = about | _scores(studio, how)
            write_json(out, rows)
        print(
            f"{name:24s} " + "  ".join(f"{key} {value:.3f}" for key, value in rows[name].items()), flush=True
        )

    assert studio.adapter is not None
    whole = studio.adapter.adapter
    attention = Adapter({key: layer for key, layer in whole.layers.items() if ".attn" in key})
    for title, adapter, weights in (("all", whole, WEIGHTS), ("attention", attention, ATTENTION_WEIGHTS)):
        share = change_shares(adapter, studio.engine.models)["unet"]
        attached = attach_adapter(studio.engine.models, adapter, 0.0, name=title)
        for weight in weights:
            attached.set_weight(weight)
            measure(f"{title} × {weight:g}", PictureSpec(steps=10), {"share": weight * share})
        attached.set_weight(0.0)
    for width, height in SIZES:
        how = PictureSpec(steps=10, width_px=width, height_px=height)
        measure(f"{width} × {height} px", how, {})


def _scores(studio: Studio, how: PictureSpec) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for seed in studio.seeds:
        pictures = studio.engine.draw(studio.requests(seed), how, batch=8).pictures
        for name, values in studio.scores(pictures).items():
            found.setdefault(name, []).extend(values)
    return {name: float(np.mean(values)) for name, values in found.items()}


if __name__ == "__main__":
    main()
