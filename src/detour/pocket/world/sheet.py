"""Contact sheets of the world: ``python -m detour.pocket.world.sheet OUT.png [--kind styles]``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from PIL import Image, ImageDraw

from detour.pocket.world import (
    HOUSE,
    NAMED_STYLES,
    VOCABULARY,
    Scene,
    Style,
    compose_scene,
    held_out_prompts,
    render,
    training_example,
)

Cell = tuple[Scene, Style, str]


def training_cells(count: int, *, seed: int) -> list[Cell]:
    """The first examples of a training stream."""
    examples = [training_example(seed, i) for i in range(count)]
    return [(example.scene, example.style, example.caption) for example in examples]


def style_cells(*, seed: int) -> list[Cell]:
    """Three scenes in the house style and in every named style, a row for each style."""
    words = [
        ([("cat", "orange")], "city", None, None),
        ([("boat", "red")], "beach", "at sunset", None),
        ([("house", "blue"), ("flower", "pink")], "meadow", None, "beside"),
        ([("robot", "purple")], "forest", "at night", None),
    ]
    scenes = [
        compose_scene(seed=seed + i, things=things, place=place, sky=sky, relation=relation)
        for i, (things, place, sky, relation) in enumerate(words)
    ]
    styles = {"house style": HOUSE, **NAMED_STYLES}
    return [(scene, style, name) for name, style in styles.items() for scene in scenes]


def object_cells(*, seed: int) -> list[Cell]:
    """Every object and held-out subject once, colours and places in turn."""
    cells = []
    for i, kind in enumerate((*VOCABULARY.objects, *VOCABULARY.held_out_subjects)):
        colour = VOCABULARY.colours[(i + seed) % len(VOCABULARY.colours)]
        place = VOCABULARY.places[(i + seed) % len(VOCABULARY.places)]
        scene = compose_scene(seed=seed + i, things=[(kind, colour)], place=place)
        cells.append((scene, HOUSE, f"{colour} {kind}, {place}"))
    return cells


def held_out_cells(count: int, *, seed: int) -> list[Cell]:
    """Held-out combinations in the house style."""
    return [(p.scene, HOUSE, p.prompt) for p in held_out_prompts(count, seed=seed)]


def contact_sheet(cells: list[Cell], *, columns: int, size_px: int = 128) -> Image.Image:
    """The cells drawn row by row, each with its words under it."""
    text_px = 36
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * (size_px + 6), rows * (size_px + text_px)), "white")
    draw = ImageDraw.Draw(sheet)
    per_line = size_px // 6
    for i, (scene, style, words) in enumerate(cells):
        left, top = i % columns * (size_px + 6), i // columns * (size_px + text_px)
        sheet.paste(Image.fromarray(render(scene, style, size_px=size_px)), (left, top))
        lines = [words[k : k + per_line] for k in range(0, len(words), per_line)][:3]
        draw.text((left + 1, top + size_px + 1), "\n".join(lines), fill="black", spacing=0, font_size=10)
    return sheet


def pictures_per_s(cells: list[Cell]) -> float:
    """Rendering speed of this machine, measured over the cells."""
    start = time.perf_counter()
    for scene, style, _ in cells:
        render(scene, style)
    return len(cells) / (time.perf_counter() - start)


def main() -> None:
    """Write one sheet and say how fast this machine draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kind", choices=("training", "styles", "objects", "held-out"), default="training")
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cells = {
        "training": lambda: training_cells(args.count, seed=args.seed),
        "styles": lambda: style_cells(seed=args.seed),
        "objects": lambda: object_cells(seed=args.seed),
        "held-out": lambda: held_out_cells(args.count, seed=args.seed),
    }[args.kind]()
    contact_sheet(cells, columns=8).save(args.out)
    speed = pictures_per_s(training_cells(200, seed=args.seed))
    print(f"{args.out}: {len(cells)} pictures; training stream at {speed:.0f} pictures a second")


if __name__ == "__main__":
    main()
