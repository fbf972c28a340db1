"""Every figure and every picture of a proof, on pictures of which all is known before they are drawn."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from detour.adapters.adapter import Adapter
from detour.evaluation.pixels import Pictures
from detour.evaluation.proof import Proof
from detour.evaluation.verdict import BLACK
from detour.files import write_json, write_text
from detour.specs import load_run_spec, to_toml
from detour.specs.sources import with_changes
from detour.verbs.judge.held_out_material import read_training_pictures
from detour.verbs.judge.proof_of_run import prove_run
from tests.evaluation.flat_pictures import (
    ADAPTER_COLOUR,
    BASE_COLOUR,
    FlatPainter,
    Looks,
    SeeingJudge,
    flat,
    painted_colour,
    squared_mmd,
)
from tests.evaluation.pages import bars_of, pictures_of, place_of, words_of
from tests.verbs.embedded import embedded_base
from tests.verbs.flat_runs import (
    NUM_PROMPTS,
    PROMPTS,
    RIGHT,
    flat_run,
    judge_of,
    painted_weight,
    truths,
)
from tests.verbs.test_prove_run import scaled, trained_adapter

GIVEN = ("one", "two", "three", "four")
"""New prompts of the user's, for a base without a judge."""

MOVED = float(np.abs(ADAPTER_COLOUR - BASE_COLOUR).mean())
"""Mean change that the adapter paints, steps of 255."""


@pytest.fixture(scope="module")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        yield embedded_base(tiny_base, tmp_path_factory.mktemp("bases"), patch)


@pytest.fixture(scope="module")
def adapter(base: Path) -> Adapter:
    return trained_adapter(base)


@pytest.fixture(scope="module")
def weight(base: Path, adapter: Adapter) -> Tensor:
    return painted_weight(base, adapter)


@pytest.fixture
def painter(adapter: Adapter, weight: Tensor, monkeypatch: pytest.MonkeyPatch) -> FlatPainter:
    found = FlatPainter(adapter=adapter, weight=weight)
    found.install(monkeypatch)
    return found


@pytest.fixture(scope="module")
def proved(
    base: Path, adapter: Adapter, weight: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Proof, SeeingJudge]]:
    """The trained model's pictures two steps from the file's, the noise floor 1, the merged ones one step off."""
    with pytest.MonkeyPatch.context() as patch:
        painter = FlatPainter(adapter=adapter, weight=weight, off_shift=3, merged_shift=1)
        painter.install(patch)
        judge = judge_of(painter)
        judge.install(patch)
        run = flat_run(tmp_path_factory.mktemp("runs") / "tiny", base, adapter)
        yield run, prove_run(run), judge


def test_effect_and_noise_floor_are_those_of_the_painted_colours(
    proved: tuple[Path, Proof, SeeingJudge],
) -> None:
    _, proof, _ = proved
    assert proof.pixels.mean_abs_diff == pytest.approx(MOVED, rel=1e-3)
    assert proof.pixels.noise_floor == pytest.approx(1.0, rel=1e-3)  # three steps of red
    assert proof.pixels.pictures == 2
    assert (proof.reload.max_abs_diff, proof.merge.max_abs_diff) == (0, 1)
    # The painted colours go 60 % of the way, and 65 % would be called learned.
    assert proof.verdict == "inconclusive"
    assert proof.reasons[0].startswith("The pictures went 60% of the way")
    assert proof.unknown == ()


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
        strength: {
            (one.prompt, one.seed) for one in judge.painter.painted.values() if one.strength == strength
        }
        for strength in (0.0, 1.0)
    }
    assert asked[0.0] == asked[1.0]
    assert {(prompt, 1000 + i) for i, prompt in enumerate(PROMPTS)} <= asked[0.0]
    assert {("a red cat", 100), ("a dog", 101)} <= asked[0.0]


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
    for i, (truth, prompt) in enumerate(zip(truths(), PROMPTS, strict=True)):
        places = [
            place_of(sheet, picture)
            for picture in (
                flat(BASE_COLOUR, 1000 + i, prompt),
                flat(ADAPTER_COLOUR, 1000 + i, prompt),
                truth,
            )
        ]
        assert len({top for top, _ in places}) == 1
        lefts = [left for _, left in places]
        assert lefts == sorted(lefts)
        assert lefts[2] - lefts[0] < 3 * 64


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


@pytest.fixture(scope="module")
def plain(
    tiny_base: Path, adapter: Adapter, weight: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run on a base without a judge, four prompts of the user's; copy it to change it."""
    with pytest.MonkeyPatch.context() as patch:
        FlatPainter(adapter=adapter, weight=weight).install(patch)
        folder = tmp_path_factory.mktemp("runs") / "tiny"
        return flat_run(folder, tiny_base, adapter, style=None, prompts=GIVEN)


@pytest.fixture
def run(plain: Path, painter: FlatPainter, tmp_path: Path) -> Path:
    """A copy of the plain run, to be changed, with everything painted."""
    folder = tmp_path / "tiny"
    shutil.copytree(plain, folder)
    change(folder, **{"data.source": str(folder / "data")})
    return folder


def change(run: Path, **settings: object) -> None:
    """Write other settings into ``resolved.toml``."""
    place = run / "resolved.toml"
    write_text(place, to_toml(with_changes(load_run_spec(config=place), settings)))


@pytest.mark.parametrize(("factor", "off", "verdict"), [(1.005, 1, "learned"), (1.03, 5, "inconclusive")])
def test_a_file_that_is_not_quite_what_was_trained_is_off_by_as_much(
    factor: float,
    off: int,
    verdict: str,
    tiny_base: Path,
    painter: FlatPainter,
    adapter: Adapter,
    tmp_path: Path,
) -> None:
    trained = scaled(adapter, factor)
    proof = prove_run(
        flat_run(tmp_path / "tiny", tiny_base, adapter, in_memory=trained, style=None, prompts=("one",))
    )
    assert proof.reload.max_abs_diff == off
    assert proof.merge.max_abs_diff == 0
    assert proof.verdict == verdict
    assert (f"by {off} of 255" in proof.reasons[0]) == (verdict == "inconclusive")


@pytest.mark.parametrize(("shift", "verdict"), [(1, "learned"), (3, "inconclusive")])
def test_a_merged_base_that_paints_otherwise_is_off_by_as_much(
    run: Path, painter: FlatPainter, shift: int, verdict: str
) -> None:
    painter.merged_shift = shift
    proof = prove_run(run)
    assert (proof.reload.max_abs_diff, proof.merge.max_abs_diff) == (0, shift)
    assert proof.verdict == verdict
    assert proof.reasons[0].startswith("The merged base's") == (verdict == "inconclusive")


def test_below_fp32_one_pixel_of_a_merge_is_rounding_and_the_whole_picture_is_not(
    run: Path, painter: FlatPainter
) -> None:
    change(run, **{"evaluate.dtype": "bf16"})
    painter.merged_shift = 40
    proof = prove_run(run)
    assert proof.merge.max_abs_diff == 40
    assert proof.verdict == "learned"
    painter.merged_pixels = None
    proof = prove_run(run)
    assert proof.verdict == "inconclusive"
    assert "39.98 of 255 on average" in proof.reasons[0]
    assert proof.pixels.mean_abs_diff == pytest.approx(
        MOVED, rel=1e-2
    )  # of the adapter, not of the merged base


def test_a_noise_floor_of_a_third_of_the_change_takes_the_effect_away(
    run: Path, painter: FlatPainter
) -> None:
    painter.off_shift = 55  # a mean of 18.3 where the adapter moves the pictures by 93.3
    assert prove_run(run).pixels.noise_floor == pytest.approx(55 / 3, rel=1e-3)
    painter.off_shift = 40
    found = prove_run(run, weight=0.4)  # 37.3, less than three times 13.3
    assert found.pixels.mean_abs_diff == pytest.approx(0.4 * MOVED, abs=0.5)
    assert found.verdict == "no_effect"


def test_shares_of_copies_are_those_of_the_adapter_and_of_the_base(run: Path, painter: FlatPainter) -> None:
    pictures = read_training_pictures(load_run_spec(config=run / "resolved.toml"), size_px=64)
    assert len(pictures.train) == 6
    for number in range(3):
        painter.copies[True, GIVEN[number], 1000 + number] = pictures.train[number]
    painter.copies[True, GIVEN[3], 1003] = pictures.held_out[0]  # training never saw it, so it is no copy
    painter.copies[False, GIVEN[3], 1003] = pictures.train[5]
    proof = prove_run(run)
    assert proof.verdict == "copies"
    assert proof.reasons[0].startswith("75% of the pictures for new prompts are copies")
    assert "of the base's 25%" in proof.reasons[0]


def alike(number: int) -> Pictures:
    """Photographs of one thing on one table: most of each is in all of them."""
    common = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    own = np.random.default_rng(100 + number).integers(0, 256, (64, 64, 3))
    mixed: Pictures = (ALIKE * common + (1 - ALIKE) * own).round().astype(np.uint8)
    return mixed


ALIKE = 0.6


def test_a_new_picture_as_near_as_the_originals_are_to_each_other_is_no_copy(
    run: Path, painter: FlatPainter
) -> None:
    for number in range(8):
        Image.fromarray(alike(number)).save(run / "data" / f"{number}.png")
    painter.copies = {(True, prompt, 1000 + i): alike(20 + i) for i, prompt in enumerate(GIVEN)}
    proof = prove_run(run)
    assert proof.verdict == "learned"
    assert not any("copies of training" in reason for reason in proof.reasons)
    painter.copies = {(True, prompt, 1000 + i): alike(i) for i, prompt in enumerate(GIVEN)}
    assert prove_run(run).verdict == "copies"


@pytest.mark.parametrize(("best", "verdict", "fall"), [(None, "overfit", "20.0%"), (2, "learned", "40.0%")])
def test_the_loss_counts_up_to_the_weights_that_are_shipped(
    run: Path, best: int | None, verdict: str, fall: str
) -> None:
    losses = {0: 0.5, 2: 0.3, 4: 0.4}
    lines = [json.dumps({"step": step, "val_loss": loss}) for step, loss in losses.items()]
    write_text(run / "metrics.jsonl", "\n".join(lines) + "\n")
    write_json(
        run / "run.json", {"schema": 1, "state": "finished"} | ({} if best is None else {"best_step": best})
    )
    proof = prove_run(run)
    assert proof.verdict == verdict
    assert any(f"fell by {fall}" in reason for reason in proof.reasons)


def test_weights_from_before_the_first_step_are_named_as_the_cause(
    run: Path, painter: FlatPainter, adapter: Adapter
) -> None:
    write_json(run / "run.json", {"schema": 1, "state": "finished", "best_step": 0})
    painter.adapter = replace(
        adapter, layers={k: replace(v, up=1e6 * v.up) for k, v in adapter.layers.items()}
    )
    proof = prove_run(run)
    assert proof.verdict == "no_effect"
    assert proof.reasons[1].startswith("No step lowered the validation loss")


def test_one_picture_for_every_new_prompt_is_collapsed(run: Path, painter: FlatPainter) -> None:
    painter.one_picture = True
    proof = prove_run(run)
    assert proof.verdict == "collapsed"
    assert "they differ by 0% of what they should" in proof.reasons[0]


def test_one_black_picture_of_the_adapter_is_a_collapse_where_the_base_s_is_none(
    run: Path, painter: FlatPainter
) -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    painter.copies[True, GIVEN[1], 1001] = black
    proof = prove_run(run)
    assert (proof.verdict, proof.headline) == ("collapsed", BLACK)
    assert proof.reasons[0].startswith("1 of the pictures are black")
    painter.copies[False, GIVEN[1], 1001] = black
    assert prove_run(run).headline != BLACK


def test_a_base_that_changed_while_training_is_never_learned(run: Path) -> None:
    figures = json.loads((run / "gradients.json").read_text())
    write_json(run / "gradients.json", figures | {"base_unchanged": False})
    proof = prove_run(run)
    assert proof.gradients is not None
    assert not proof.gradients.base_unchanged
    assert proof.verdict == "inconclusive"
    assert re.search(r"base the same after training</th><td>no<", (run / "report.html").read_text())


def test_without_a_style_of_the_world_kept_out_and_trained_pictures_are_shared_between_both_sets(
    base: Path, painter: FlatPainter, adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = flat_run(tmp_path / "tiny", base, adapter, style=None)
    pictures = read_training_pictures(load_run_spec(config=run / "resolved.toml"), size_px=64)
    assert (len(pictures.held_out), len(pictures.train)) == (2, 6)
    kinds: dict[bytes, tuple[Looks, str]] = {one.tobytes(): ("kept out", "") for one in pictures.held_out}
    kinds |= {one.tobytes(): ("trained", "") for one in pictures.train}
    judge = judge_of(painter, kinds)
    judge.install(monkeypatch)
    found = prove_run(run).held_out.style_distance
    assert found is not None
    one_of_each_four = [judge.feature(looks) for looks in ("kept out", "trained", "trained", "trained")]
    for value, side in ((found.base, "base"), (found.adapter, "adapter")):
        drawn = [judge.feature(side, prompt) for prompt in PROMPTS]  # type: ignore[arg-type]
        assert value == pytest.approx(squared_mmd(drawn, one_of_each_four), rel=1e-5)
    assert found.ceiling == pytest.approx(0.0, abs=1e-9)  # the same mixture, so the judge sees no difference
