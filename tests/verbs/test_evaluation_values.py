"""Every figure and every picture of an evaluation, on pictures of which all is known before they are drawn."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detour.adapter_files import write_adapter
from detour.bases.base import open_base
from detour.evaluation.compared import Compared
from detour.evaluation.evaluation_page import fidelity_chart, prompts_chart, tables_of
from detour.evaluation.pixels import Pictures
from detour.evaluation.proof import VerdictName, read_proof
from detour.files import write_json
from detour.specs.evaluation import EvaluationSpec
from detour.verbs.judge.checkpoint_scores import evaluate_checkpoints
from detour.verbs.judge.evaluation_run import EvaluationResult, evaluate_adapter
from detour.verbs.judge.finished_run import read_finished_run
from detour.verbs.judge.held_out_material import read_training_pictures
from detour.verbs.judge.material import gather_material
from detour.verbs.judge.presets import thorough_preset
from detour.verbs.judge.proof_of_run import prove_run
from tests.evaluation.flat_pictures import (
    ADAPTER_COLOUR,
    ANGLES,
    BASE_COLOUR,
    PROMPT_SHARE,
    FlatPainter,
    Looks,
    SeeingJudge,
    flat,
    painted_colour,
    squared_mmd,
)
from tests.evaluation.pages import bars_of, pictures_of, place_of, section_of
from tests.evaluation.test_report import Elements
from tests.verbs.embedded import embedded_base
from tests.verbs.flat_runs import (
    ASKED,
    NUM_PROMPTS,
    PROMPTS,
    RIGHT,
    flat_run,
    judge_of,
    painted_weight,
    truths,
)
from tests.verbs.test_prove_run import scaled, trained_adapter

SEEDS = 2
SPEC = EvaluationSpec(num_prompts=NUM_PROMPTS, seeds=SEEDS, drift_prompts=3, controls="base", steps=1)
COPIED = range(1, 7)
"""New prompts whose first picture of the adapter is a training picture: 6 of 16 pictures."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluation, with those who painted and judged it."""

    run: Path
    painter: FlatPainter
    judge: SeeingJudge
    result: EvaluationResult
    trained: Pictures


@pytest.fixture(scope="module")
def found(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluated]:
    """Eight prompts at two seeds; the noise floor is 2, the proof says a reload of 0 and a merge of 1."""
    with pytest.MonkeyPatch.context() as patch:
        base = embedded_base(tiny_base, tmp_path_factory.mktemp("bases"), patch)
        adapter = trained_adapter(base)
        patch.setenv("DETOUR_CACHE", str(tmp_path_factory.mktemp("cache")))
        painter = FlatPainter(
            adapter=adapter, weight=painted_weight(base, adapter), off_shift=6, merged_shift=1
        )
        painter.install(patch)
        run = flat_run(tmp_path_factory.mktemp("runs") / "tiny", base, adapter)
        finished = read_finished_run(run)
        trained = read_training_pictures(finished.spec, size_px=64).train
        material = gather_material(finished, open_base(str(base)), thorough_preset(SPEC), size_px=64)
        assert material.truths is not None
        shown: dict[bytes, tuple[Looks, str]] = {
            picture.tobytes(): ("truth", PROMPTS[i // SEEDS]) for i, picture in enumerate(material.truths)
        }
        judge = judge_of(painter, shown)
        judge.install(patch)
        painter.off_shift = 0
        prove_run(run)
        painter.off_shift = 6
        painter.copies[False, PROMPTS[0], 2000] = np.ascontiguousarray(trained[5][:, ::-1])
        for number in COPIED:
            painter.copies[True, PROMPTS[number], 1000 + number] = trained[number - 1]
        yield Evaluated(
            run=run, painter=painter, judge=judge, result=evaluate_adapter(run, SPEC), trained=trained
        )


def features(judge: SeeingJudge, picture_features: Looks) -> list[np.ndarray]:
    return [judge.feature(picture_features, prompt) for prompt in PROMPTS for _ in range(SEEDS)]


def test_the_first_true_picture_of_a_prompt_shows_the_scene_that_it_came_with(found: Evaluated) -> None:
    finished = read_finished_run(found.run)
    base = open_base(finished.spec.base.name)
    material = gather_material(finished, base, thorough_preset(SPEC), size_px=64)
    assert material.truths is not None
    assert (material.truths[::SEEDS] == np.stack(truths())).all()
    assert len({one.tobytes() for one in material.truths}) == NUM_PROMPTS * SEEDS
    assert [(one.object, one.colour, one.place) for one in material.new_prompts.facts] == [
        (one.object, one.colour, one.place) for one in ASKED
    ]


def test_effect_and_noise_floor_are_those_of_the_painted_colours(found: Evaluated) -> None:
    pixels = found.result.evaluation.pixels
    assert pixels.noise_floor == pytest.approx(2.0, rel=1e-3)  # six steps of red
    assert pixels.pictures == NUM_PROMPTS * SEEDS
    assert pixels.mean_abs_diff > 60


def test_distances_are_those_of_each_side(found: Evaluated) -> None:
    fidelity = found.result.evaluation.fidelity
    assert fidelity is not None
    references = [found.judge.feature("reference")] * 4 * NUM_PROMPTS
    assert fidelity.references == len(references)
    for value, looks in (
        (fidelity.style_distance.base, "base"),
        (fidelity.style_distance.adapter, "adapter"),
        (fidelity.style_distance.ceiling, "truth"),
    ):
        expected = squared_mmd(features(found.judge, looks), references)  # type: ignore[arg-type]
        assert value == pytest.approx(expected, rel=1e-5), looks
    # What is left of a picture's own direction beside its prompt's, towards the references.
    cosine = math.sqrt(1 - PROMPT_SHARE**2) * math.cos(math.radians(ANGLES["adapter"]))
    assert fidelity.similarity.adapter == pytest.approx(cosine, rel=1e-5)


def test_parts_of_the_prompts_are_counted_on_the_pictures_of_their_own_prompt(found: Evaluated) -> None:
    keeping = found.result.evaluation.prompt_keeping
    assert keeping is not None
    assert keeping.parts is not None
    shares = {name: part.share for name, part in keeping.parts.items()}
    for part, share in shares.items():
        told = (share.base, share.adapter, share.ceiling)
        assert told == tuple(RIGHT[side][part] / NUM_PROMPTS for side in ("base", "adapter", "truth")), part
    assert keeping.clip_score.adapter == pytest.approx(100 * PROMPT_SHARE)


def test_every_picture_has_the_seed_of_its_number_on_both_sides(found: Evaluated) -> None:
    told = {(one.prompt, one.seed, one.strength) for one in found.painter.painted.values()}
    for i, prompt in enumerate(PROMPTS):
        for number in range(SEEDS):
            for strength in (0.0, 1.0):
                assert (prompt, 1000 + 1000 * number + i, strength) in told


def test_copies_are_counted_on_their_own_side_and_stand_beside_their_original(found: Evaluated) -> None:
    copies = found.result.evaluation.copies
    assert copies is not None
    assert copies.originals == len(found.trained) == 6
    assert (copies.share.adapter, copies.share.base) == (6 / 16, 1 / 16)
    assert copies.share.ceiling == 0.0
    assert sorted((one.picture, one.original) for one in copies.pairs[:6]) == [
        (SEEDS * number, number - 1) for number in COPIED
    ]
    assert copies.scale.originals_alike is not None
    page = found.result.report.read_text(encoding="utf-8")
    images = [
        attrs for tag, attrs in Elements(section_of(page, "Nearest training pictures")).tags if tag == "img"
    ]
    pairs = list(zip(images[::2], images[1::2], strict=True))[: len(COPIED)]  # the copies come first
    shown = {drawn["alt"]: (drawn["src"], original["src"]) for drawn, original in pairs}
    for number in COPIED:
        drawn, original = shown[f"Drawn: {PROMPTS[number]}"]
        assert drawn == original  # the same picture, so the same bytes


def test_unrelated_prompts_are_judged_by_how_far_they_moved_from_the_base(found: Evaluated) -> None:
    drift = found.result.evaluation.drift
    assert drift is not None
    between = math.radians(ANGLES["base"] - ANGLES["adapter"])
    assert drift.without_trigger.judge.adapter == pytest.approx(1 - math.cos(between), abs=1e-5)
    assert drift.with_trigger is None
    assert drift.without_trigger.pixels.adapter == pytest.approx(
        np.abs(ADAPTER_COLOUR - BASE_COLOUR).mean(), abs=0.1
    )


def test_the_page_shows_each_side_s_colour_under_its_name(found: Evaluated) -> None:
    page = found.result.report.read_text(encoding="utf-8")
    new = pictures_of(section_of(page, "New prompts"))
    row = iter(new)
    for i, prompt in enumerate(PROMPTS):
        for number in range(SEEDS):
            seed = 1000 + 1000 * number + i
            (base_words, base), (words, adapted), (_, true) = next(row), next(row), next(row)
            assert (base_words, words) == (f"Without the adapter: {prompt}", f"With the adapter: {prompt}")
            if (False, prompt, seed) not in found.painter.copies:
                assert base == pytest.approx(painted_colour(BASE_COLOUR, seed), abs=4)
            if (True, prompt, seed) not in found.painter.copies:
                assert adapted == pytest.approx(painted_colour(ADAPTER_COLOUR, seed), abs=4)
            if number == 0:
                assert true == pytest.approx(truths()[i].mean(axis=(0, 1)), abs=4)
    for words, mean in pictures_of(section_of(page, "Unrelated prompts")):
        colour = BASE_COLOUR if words.startswith("Without") else ADAPTER_COLOUR
        assert mean[:2] == pytest.approx(colour[:2], abs=4)


def test_the_sheet_of_an_evaluation_shows_base_then_adapter(found: Evaluated) -> None:
    with Image.open(found.result.sheet) as image:
        sheet = np.asarray(image.convert("RGB"))
    last = NUM_PROMPTS - 1
    base = place_of(sheet, flat(BASE_COLOUR, 1000 + last, PROMPTS[last]))
    adapted = place_of(sheet, flat(ADAPTER_COLOUR, 1000 + last, PROMPTS[last]))
    assert base[0] == adapted[0]
    assert 0 < adapted[1] - base[1] < 2 * 64


SIDES = Compared(adapter=0.1, base=0.2, rate_zero=0.3, shuffled=0.4, ceiling=0.5)
"""No two sides alike."""


def test_charts_and_tables_of_the_page_put_every_side_in_its_place(found: Evaluated) -> None:
    evaluation = found.result.evaluation
    assert evaluation.fidelity is not None
    assert evaluation.prompt_keeping is not None
    assert evaluation.prompt_keeping.parts is not None
    parts = {"colour": evaluation.prompt_keeping.parts["colour"].model_copy(update={"share": SIDES})}
    spread = evaluation.model_copy(
        update={
            "fidelity": evaluation.fidelity.model_copy(update={"style_distance": SIDES}),
            "prompt_keeping": evaluation.prompt_keeping.model_copy(update={"parts": parts}),
        }
    )
    for chart, title in (
        (fidelity_chart(spread), "Distance to the reference pictures"),
        (prompts_chart(spread), "Parts of the prompts that are kept"),
    ):
        bars = bars_of(chart, title)[:5]
        assert [role for role, _ in bars] == ["base", "adapter", "rate-zero", "shuffled", "ceiling"]
        lengths = [length / bars[0][1] for _, length in bars]
        assert lengths == pytest.approx([1, 0.5, 1.5, 2, 2.5], rel=0.01)
    table = next(table for table in tables_of(spread) if table.title == "Fidelity")
    assert table.heads == ("adapter", "base", "rate 0", "shuffled captions", "true pictures")
    assert table.rows[0].cells == ("0.1000", "0.2000", "0.3000", "0.4000", "0.5000")
    kept = next(table for table in tables_of(spread) if table.title == "Prompts kept")
    assert kept.rows[-1].cells == ("10%", "20%", "30%", "40%", "50%")


def test_the_large_figures_of_the_page_are_the_adapter_s_beside_the_base_s(found: Evaluated) -> None:
    page, evaluation = found.result.report.read_text(encoding="utf-8"), found.result.evaluation
    assert evaluation.answers is not None
    assert evaluation.answers.way is not None
    way = evaluation.answers.way
    assert f"<b>{way.share:.0%}</b> <span>of the way from the base&#39;s pictures to yours</span>" in page
    assert "less style distance" not in page  # one meaning of the way
    assert (
        "<b>75%</b> <span>of the pictures keep the object</span> <small>base 88%, true pictures 100%" in page
    )
    assert "<b>38%</b> <span>of the pictures are copies</span> <small>base 6%, of 6 training pictures" in page


@pytest.mark.parametrize(
    ("changes", "verdict", "words"),
    [
        (
            {},
            "copies",
            "38% of the pictures for new prompts are copies of training pictures; of the base's 6%",
        ),
        ({"reload": {"max_abs_diff": 5}}, "inconclusive", "The reloaded file's pictures differ"),
        ({"merge": {"max_abs_diff": 7}}, "inconclusive", "by 7 of 255"),
    ],
)
def test_what_the_proof_says_of_reload_and_merge_counts_in_an_evaluation(
    found: Evaluated, changes: dict[str, object], verdict: VerdictName, words: str
) -> None:
    place = found.run / "proof.json"
    before = place.read_bytes()
    assert read_proof(place).merge.max_abs_diff == 1
    write_json(place, json.loads(before) | changes)
    try:
        evaluation = evaluate_adapter(found.run, SPEC).evaluation
    finally:
        place.write_bytes(before)
    assert evaluation.verdict == verdict
    assert words in evaluation.reasons[0]


def test_checkpoints_are_told_apart_by_their_own_pictures_and_losses(found: Evaluated) -> None:
    base = open_base(read_finished_run(found.run).spec.base.name)
    kept = found.run / "checkpoints" / "adapters"
    kept.mkdir(parents=True, exist_ok=True)
    adapter = replace(found.painter.adapter, metadata={})
    for step, strength in ((2, 0.5), (4, 1.0)):
        write_adapter(kept / f"step-{step:06d}.safetensors", scaled(adapter, strength), family=base.family)
    lines = [json.dumps({"step": step, "val_loss": loss}) for step, loss in ((0, 0.5), (2, 0.4), (4, 0.3))]
    (found.run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    found.painter.copies.clear()  # one copy on two sides could not be told apart
    figures = evaluate_checkpoints(found.run)
    references = [found.judge.feature("reference")] * 4 * NUM_PROMPTS
    picture_features: tuple[Looks, ...] = ("half", "adapter")
    assert [one.step for one in figures.checkpoints] == [2, 4]
    assert [one.held_out_loss for one in figures.checkpoints] == [0.4, 0.3]
    for one, side in zip(figures.checkpoints, picture_features, strict=True):
        distance = one.style_distance
        assert distance is not None
        expected = [
            squared_mmd([found.judge.feature(name, prompt) for prompt in PROMPTS], references)
            for name in (side, "base", "truth")
        ]
        assert [distance.adapter, distance.base, distance.ceiling] == pytest.approx(expected, rel=1e-5)
        assert one.accuracy["colour"].base == RIGHT["base"]["colour"] / NUM_PROMPTS
        assert one.accuracy["colour"].ceiling == RIGHT["truth"]["colour"] / NUM_PROMPTS
    assert figures.checkpoints[1].accuracy["colour"].adapter == RIGHT["adapter"]["colour"] / NUM_PROMPTS
    with Image.open(found.run / "samples" / "checkpoints.png") as image:
        sheet = np.asarray(image.convert("RGB"))
    prompt, seed = PROMPTS[0], 1000  # no copy on any side
    half = BASE_COLOUR + 0.5 * (ADAPTER_COLOUR - BASE_COLOUR)
    lefts = [place_of(sheet, flat(colour, seed, prompt))[1] for colour in (BASE_COLOUR, half, ADAPTER_COLOUR)]
    assert lefts == sorted(lefts)
