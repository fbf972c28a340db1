"""``python -m benchmarks.verdicts.oracle``: what a reader that the product never sees finds in the pictures of runs.

The reader is trained on true renders of all planted styles and of the embedded world's own, and tested on renders that
it was not trained on. Then it reads the base's pictures, the adapter's and true ones of every trained case of a style.
``--sheet`` draws sixty pictures of good runs with what was read in them, to be looked at.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks.small_reader import SmallReader
from benchmarks.verdicts import techniques
from benchmarks.verdicts.__main__ import PLANTED
from benchmarks.verdicts.drawings import Words, compose
from benchmarks.verdicts.material import all_cases, ask, read_case
from benchmarks.verdicts.scoring import WORDS
from detour.pocket.world import HOUSE, VOCABULARY, compose_scene, render

RENDERS_OF_STYLE = 240
RENDERS_OF_WORLD = 1200
HELD_OUT_SHARE = 0.1
EPOCHS = 40
ACCURACY_MIN = 0.95
"""Share of the held-out renders of a style whose word has to be read rightly before the reader decides there."""


def random_scene(rng: np.random.Generator) -> Words:
    """A thing in a colour in a place, all combinations alike."""
    choices = (VOCABULARY.objects, VOCABULARY.colours, VOCABULARY.places)
    return Words(*(str(words[int(rng.integers(len(words)))]) for words in choices))


def renders(look: str, count: int) -> tuple[np.ndarray, list[Words]]:
    """True renders of a style, or of the embedded world for the look ``house``; seeds that no case uses."""
    rng = np.random.default_rng([len(look), sum(map(ord, look)), 0x0AC1E])
    scenes = [random_scene(rng) for _ in range(count)]
    seeds = [2_000_000 + int(rng.integers(1_000_000)) for _ in scenes]
    if look == "house":
        pictures = [
            render(compose_scene(seed=seed, things=[(one.object, one.colour)], place=one.place), HOUSE)
            for one, seed in zip(scenes, seeds, strict=True)
        ]
    else:
        pictures = [
            techniques.draw(look, compose(one, seed=seed), seed=seed)
            for one, seed in zip(scenes, seeds, strict=True)
        ]
    return np.stack(pictures), scenes


def as_facts(words: Sequence[Words]) -> list[dict[str, str]]:
    """The words of scenes by the heads of the reader."""
    return [{"object": one.object, "colour": one.colour, "place": one.place} for one in words]


def trained_reader(work: Path) -> tuple[SmallReader, dict[str, dict[str, float]]]:
    """The reader and its accuracy on held-out renders, look by look; both are kept in the work folder."""
    reader = SmallReader({name: list(words) for name, words in WORDS.items()})
    file, noted = work / "oracle.pt", work / "oracle.json"
    if file.is_file() and noted.is_file():
        reader.load(file)
        accuracy: dict[str, dict[str, float]] = json.loads(noted.read_text())
        return reader, accuracy
    looks = ["house", *techniques.TUNING, *techniques.TEST]
    seen: dict[str, tuple[np.ndarray, list[Words]]] = {}
    for look in looks:
        seen[look] = renders(look, RENDERS_OF_WORLD if look == "house" else RENDERS_OF_STYLE)
        print(f"drawn: {look}", flush=True)
    held = {look: max(1, int(HELD_OUT_SHARE * len(words))) for look, (_, words) in seen.items()}
    pictures = np.concatenate([rows[held[look] :] for look, (rows, _) in seen.items()])
    words = [one for look, (_, each) in seen.items() for one in each[held[look] :]]
    reader.fit(pictures, as_facts(words), epochs=EPOCHS)
    accuracy = {
        look: shares(reader, rows[: held[look]], words[: held[look]]) for look, (rows, words) in seen.items()
    }
    reader.save(file)
    noted.write_text(json.dumps(accuracy, indent=1))
    return reader, accuracy


def shares(reader: SmallReader, pictures: np.ndarray, words: Sequence[Words]) -> dict[str, float]:
    """Share of the pictures in which each word is read rightly."""
    read, facts = reader.read(pictures), as_facts(words)
    return {
        name: float(np.mean([said == fact[name] for said, fact in zip(read[name], facts, strict=True)]))
        for name in WORDS
    }


def case_lines(work: Path, reader: SmallReader) -> list[str]:
    """A table of what is read on each side of the trained cases of styles that are there."""
    lines = ["| run | side | object | colour | place |", "|---|---|---|---|---|"]
    for case in (*all_cases(tuning=True, seeds=[0]), *all_cases(tuning=False, seeds=[0])):
        file = work / "cases" / f"{case.name}.npz"
        if case.goal != "style" or not file.is_file():
            continue
        arrays, _ = read_case(file)
        words = ask(case).words
        for side in ("base_new", "adapter_new", "true"):
            read = shares(reader, arrays[side], words)
            lines.append(f"| {case.name} | {side} | " + " | ".join(f"{read[n]:.0%}" for n in WORDS) + " |")
    return lines


def draw_sheet(work: Path, reader: SmallReader, out: Path, *, count: int = 60) -> None:
    """Pictures of good runs with what was asked above and what was read below; what was read wrongly is red."""
    tiles = []
    for case in (*all_cases(tuning=False, seeds=[0]), *all_cases(tuning=True, seeds=[0])):
        file = work / "cases" / f"{case.name}.npz"
        if case.goal != "style" or case.condition != "good" or not file.is_file():
            continue
        arrays, _ = read_case(file)
        words, read = ask(case).words, reader.read(arrays["adapter_new"])
        tiles += [
            (picture, one, {name: read[name][i] for name in WORDS})
            for i, (picture, one) in enumerate(zip(arrays["adapter_new"], words, strict=True))
        ]
    chosen = [tiles[i] for i in np.linspace(0, len(tiles) - 1, min(count, len(tiles))).astype(int)]
    across, width, height = 10, 136, 166
    sheet = Image.new("RGB", (across * width, -(-len(chosen) // across) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (picture, one, found) in enumerate(chosen):
        x, y = i % across * width, i // across * height
        sheet.paste(Image.fromarray(picture), (x + 4, y + 16))
        pen.text((x + 4, y + 2), f"{one.colour} {one.object} {one.place}", fill="black")
        right = found == {"object": one.object, "colour": one.colour, "place": one.place}
        pen.text((x + 4, y + 148), " ".join((found["colour"], found["object"], found["place"])),
                 fill="black" if right else "red")  # fmt: skip
    sheet.save(out)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts.oracle", description=__doc__)
    parser.add_argument("--work", type=Path, default=PLANTED)
    parser.add_argument("--sheet", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    reader, accuracy = trained_reader(asked.work)
    print("\n| style | object | colour | place |\n|---|---|---|---|")
    for look, found in accuracy.items():
        said = " | ".join(f"{found[n]:.0%}" + ("" if found[n] >= ACCURACY_MIN else " *") for n in WORDS)
        print(f"| {look} | {said} |")
    print("\n* too little to decide there\n")
    print("\n".join(case_lines(asked.work, reader)))
    if asked.sheet:
        draw_sheet(asked.work, reader, asked.sheet)


if __name__ == "__main__":
    main()
