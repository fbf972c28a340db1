"""Every figure and every picture of a proof, on pictures of which all is known before they are drawn."""

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from detour.adapters.adapter import Adapter, path_of
from detour.bases.base import open_base
from detour.evaluation.pixels import Pictures
from detour.evaluation.proof import Proof
from detour.evaluation.proof_pictures import TRAINED_PICTURES
from detour.files import write_json, write_text
from detour.pocket.world import NAMED_STYLES, held_out_prompts, render
from detour.recipes.held_out_material import write_world_style
from detour.recipes.prove_run import prove_run
from detour.specs import load_run_spec, to_toml
from detour.specs.sources import with_changes
from tests.evaluation.flat_pictures import (
    ADAPTER_COLOUR,
    BASE_COLOUR,
    FlatPainter,
    Looks,
    SeeingJudge,
    blue_of,
    squared_mmd,
)
from tests.evaluation.test_report import Elements
from tests.recipes.test_prove_run import make_run, scaled, trained_adapter

NUM_PROMPTS = 8
STYLE = "comic"
RIGHT = {
    "base": {"object": 7, "colour": 5, "place": 6},
    "adapter": {"object": 6, "colour": 7, "place": 5},
    "truth": {"object": 8, "colour": 6, "place": 7},
}
"""Prompts whose part each side shows, of eight: no two sides alike in any part, and none fallen by chance's limit."""

ASKED = held_out_prompts(NUM_PROMPTS, seed=7)
PROMPTS = tuple(one.prompt for one in ASKED)


@pytest.fixture(scope="module")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base under the name of an embedded one, with a place for its judge."""
    folder = tmp_path_factory.mktemp("bases") / "pocket-tiny"
    shutil.copytree(tiny_base, folder)
    (folder / "judge").mkdir()
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path) -> Adapter:
    return trained_adapter(base)


@pytest.fixture(scope="module")
def weight(base: Path, adapter: Adapter) -> object:
    """Of the layer that the painter looks at."""
    return open_base(str(base)).load_unet().get_submodule(path_of(next(iter(adapter.layers)))).weight.detach()


@pytest.fixture
def painter(adapter: Adapter, weight: object, monkeypatch: pytest.MonkeyPatch) -> FlatPainter:
    found = FlatPainter(adapter=adapter, weight=weight)  # type: ignore[arg-type]
    found.install(monkeypatch)
    return found


def truths() -> list[Pictures]:
    """The scenes that the prompts came with, in the style: one true picture of each prompt."""
    return [render(one.scene, NAMED_STYLES[STYLE], size_px=64) for one in ASKED]


def judge_of(painter: FlatPainter, others: dict[bytes, tuple[Looks, str]] | None = None) -> SeeingJudge:
    known: dict[bytes, tuple[Looks, str]] = {
        picture.tobytes(): ("truth", prompt) for picture, prompt in zip(truths(), PROMPTS, strict=True)
    }
    return SeeingJudge(painter=painter, prompts=PROMPTS, others=known | (others or {}), right=RIGHT)


def flat_run(
    folder: Path, base: Path, adapter: Adapter, *, in_memory: Adapter | None = None, style: str | None = STYLE
) -> Path:
    """A finished run that is asked for eight prompts of the world."""
    run = make_run(folder, base, adapter, in_memory=in_memory, prompts=())
    spec = with_changes(
        load_run_spec(config=run / "resolved.toml"), {"evaluate.num_prompts": NUM_PROMPTS}
    )
    write_text(run / "resolved.toml", to_toml(spec))
    if style:
        write_world_style(run, style)
    return run


@pytest.fixture(scope="module")
def proved(
    base: Path, adapter: Adapter, weight: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Proof, SeeingJudge]]:
    """The trained model's pictures two steps from the file's, the noise floor 1, the merged ones one step off."""
    with pytest.MonkeyPatch.context() as patch:
        painter = FlatPainter(adapter=adapter, weight=weight, off_shift=3, merged_shift=1)  # type: ignore[arg-type]
        painter.install(patch)
        judge = judge_of(painter)
        judge.install(patch)
        run = flat_run(tmp_path_factory.mktemp("runs") / "tiny", base, adapter)
        yield run, prove_run(run), judge


def test_effect_and_noise_floor_are_those_of_the_painted_colours(
    proved: tuple[Path, Proof, SeeingJudge],
) -> None:
    _, proof, _ = proved
    assert proof.pixels.mean_abs_diff == pytest.approx(np.abs(ADAPTER_COLOUR - BASE_COLOUR).mean())
    assert proof.pixels.noise_floor == pytest.approx(1.0)  # three steps of red
    assert proof.pixels.pictures == 2
    assert (proof.reload.max_abs_diff, proof.merge.max_abs_diff) == (0, 1)
    assert proof.verdict == "learned"


def test_the_distances_are_those_of_base_adapter_and_other_true_pictures(
    proved: tuple[Path, Proof, SeeingJudge],
) -> None:
    _, proof, judge = proved
    references = [judge.feature("reference")] * 4 * NUM_PROMPTS
    found = proof.held_out.style_distance
    assert found is not None
    sides: tuple[Looks, ...] = ("base", "adapter", "truth")
    expected = [squared_mmd([judge.feature(side, one) for one in PROMPTS], references) for side in sides]
    assert [found.base, found.adapter, found.ceiling] == pytest.approx(expected, rel=1e-5)


def test_the_accuracies_are_those_of_each_side_and_part(proved: tuple[Path, Proof, SeeingJudge]) -> None:
    _, proof, _ = proved
    found = proof.held_out.prompt_accuracy
    assert found is not None
    assert found.model_dump() == {
        name: {part: count / NUM_PROMPTS for part, count in RIGHT[side].items()}
        for name, side in (("base", "base"), ("adapter", "adapter"), ("ceiling", "truth"))
    }


def test_every_new_prompt_has_a_seed_of_its_own_and_both_sides_share_it(
    proved: tuple[Path, Proof, SeeingJudge],
) -> None:
    _, _, judge = proved
    asked = {
        strength: {(one.prompt, one.seed) for one in judge.painter.painted.values() if one.strength == strength}
        for strength in (0.0, 1.0)
    }
    assert asked[0.0] == asked[1.0]
    assert {(prompt, 1000 + i) for i, prompt in enumerate(PROMPTS)} <= asked[0.0]
    assert {("a red cat", 100), ("a dog", 101)} <= asked[0.0]


def pictures_of(page: str) -> list[tuple[str, np.ndarray]]:
    """(words, mean colour) of every picture of a page, in its order."""
    found = []
    for tag, attrs in Elements(page).tags:
        if tag == "img":
            encoded = (attrs["src"] or "").partition("base64,")[2]
            with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
                pixels = np.asarray(image.convert("RGB"), dtype=float)
            found.append((attrs["alt"] or "", pixels.mean(axis=(0, 1))))
    return found


def painted_colour(colour: np.ndarray, seed: int) -> np.ndarray:
    return np.array([*colour[:2], blue_of(seed)])


def test_the_page_shows_the_base_s_colour_as_base_and_the_adapter_s_as_adapter(
    proved: tuple[Path, Proof, SeeingJudge],
) -> None:
    run, _, _ = proved
    page = (run / "report.html").read_text(encoding="utf-8")
    found = pictures_of(page)
    for start, colour in (("Without the adapter: ", BASE_COLOUR), ("With the adapter: ", ADAPTER_COLOUR)):
        shown = {words.removeprefix(start): mean for words, mean in found if words.startswith(start)}
        for i, prompt in enumerate(PROMPTS):
            assert shown[prompt] == pytest.approx(painted_colour(colour, 1000 + i), abs=4), (start, prompt)
        assert shown["a red cat"] == pytest.approx(painted_colour(colour, 100), abs=4)
    true = {words: mean for words, mean in found if words.startswith("True picture")}
    for picture, prompt in zip(truths(), PROMPTS, strict=True):
        mean = true[f"True picture of the style: {prompt}"]
        assert mean == pytest.approx(picture.mean(axis=(0, 1)), abs=4)
    captions = re.findall(r"<figcaption>(.*?) <small>seed (\d+)</small>", page)
    assert captions[:NUM_PROMPTS] == [(prompt, str(1000 + i)) for i, prompt in enumerate(PROMPTS)]


def test_the_sheet_shows_base_adapter_and_true_picture_from_left_to_right(
    proved: tuple[Path, Proof, SeeingJudge],
) -> None:
    run, _, _ = proved
    with Image.open(run / "samples" / "sheet.png") as image:
        sheet = np.asarray(image.convert("RGB"))
    for i, truth in enumerate(truths()):
        places = [
            place_of(sheet, picture)
            for picture in (flat(BASE_COLOUR, 1000 + i), flat(ADAPTER_COLOUR, 1000 + i), truth)
        ]
        assert len({top for top, _ in places}) == 1
        lefts = [left for _, left in places]
        assert lefts == sorted(lefts)
        assert lefts[2] - lefts[0] < 3 * 64


def flat(colour: np.ndarray, seed: int) -> Pictures:
    picture = np.empty((64, 64, 3), np.uint8)
    picture[:] = painted_colour(colour, seed)
    return picture


def place_of(sheet: np.ndarray, picture: Pictures) -> tuple[int, int]:
    """(top, left) of the one place where the picture stands."""
    height, width = picture.shape[:2]
    first = (sheet[: 1 - height, : 1 - width] == picture[0, 0]).all(-1)
    first &= (sheet[height - 1 :, width - 1 :] == picture[-1, -1]).all(-1)
    found = [
        (int(top), int(left))
        for top, left in np.argwhere(first)
        if (sheet[top : top + height, left : left + width] == picture).all()
    ]
    assert len(found) == 1
    return found[0]


SVG = "{http://www.w3.org/2000/svg}"


def bars_of(page: str, title: str) -> list[tuple[str, float]]:
    """(role, length) of every bar of a chart and then of the marks of its legend, in the order they are drawn."""
    text = next(svg for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if f'aria-label="{title}"' in svg)
    found = []
    for path in ElementTree.fromstring(text).iter(f"{SVG}path"):
        if role := re.search(r"fill: var\(--(base|adapter|ceiling)\)", path.get("style", "")):
            xs = list(map(float, re.findall(r"-?[\d.]+", path.get("d", ""))))[::2]
            found.append((role[1], max(xs) - min(xs)))
    return found


def words_of(page: str, title: str) -> list[str]:
    text = next(svg for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if f'aria-label="{title}"' in svg)
    return [one.text or "" for one in ElementTree.fromstring(text).iter(f"{SVG}text")]


@pytest.mark.parametrize("title", ["Distance to the style", "Prompt accuracy by part of the prompt"])
def test_the_bars_of_a_chart_are_those_of_their_side(
    proved: tuple[Path, Proof, SeeingJudge], title: str
) -> None:
    run, proof, _ = proved
    distance, accuracy = proof.held_out.style_distance, proof.held_out.prompt_accuracy
    assert distance is not None
    assert accuracy is not None
    values = [(side, getattr(distance, side)) for side in ("base", "adapter", "ceiling")]
    if title.startswith("Prompt"):
        values = [
            (side, getattr(getattr(accuracy, side), part))
            for part in ("object", "colour", "place")
            for side in ("base", "adapter", "ceiling")
        ]
    page = (run / "report.html").read_text(encoding="utf-8")
    bars = bars_of(page, title)
    drawn, legend = bars[: len(values)], bars[len(values) :]
    scale = drawn[0][1] / values[0][1]
    assert [role for role, _ in drawn] == [side for side, _ in values]
    assert [length for _, length in drawn] == pytest.approx([scale * value for _, value in values], rel=0.01)
    assert [role for role, _ in legend] == ["base", "adapter", "ceiling"]
    words = words_of(page, title)
    assert words[-3:] == ["base", "adapter", "true pictures"]


@pytest.mark.parametrize(("factor", "off", "verdict"), [(1.005, 1, "learned"), (1.03, 5, "inconclusive")])
def test_a_file_that_is_not_quite_what_was_trained_is_off_by_as_much(
    factor: float,
    off: int,
    verdict: str,
    painter: FlatPainter,
    base: Path,
    adapter: Adapter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge_of(painter).install(monkeypatch)
    proof = prove_run(flat_run(tmp_path / "tiny", base, adapter, in_memory=scaled(adapter, factor)))
    assert proof.reload.max_abs_diff == off
    assert proof.merge.max_abs_diff == 0
    assert proof.verdict == verdict
    if verdict == "inconclusive":
        assert f"by {off} of 255" in proof.reasons[0]
        assert proof.reasons[0].startswith("The reloaded file's")
