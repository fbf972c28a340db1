from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import detour.verbs.train.run as train_recipe
from detour.bases.embedded import EMBEDDED
from detour.data.folder import read_dataset
from detour.errors import BaseError, ConfigError, DetourError
from detour.evaluation.proof import write_proof
from detour.pocket.world import HELD_OUT, NAMED_STYLES, PALETTES, VOCABULARY, random_style, style_words
from detour.pocket.world.vocabulary import DAY
from detour.specs import DataSpec, RunSpec
from detour.verbs.judge.held_out_material import read_world_style
from detour.verbs.train.demo import DEMOS, NUM_PICTURES, RANK, draw_training_pictures, run_demo
from tests.evaluation.figures import learned_proof

STYLE = DEMOS["pocket"].style


def test_the_style_is_one_that_the_base_never_saw() -> None:
    assert DEMOS["pocket-flow"].style in HELD_OUT.styles
    style, rng = PALETTES[STYLE], np.random.default_rng(0)
    seen = [random_style(rng) for _ in range(2000)]
    assert style.saturation < min(one.saturation for one in seen)
    assert style.lightness < min(one.lightness for one in seen)


def test_pictures_show_the_style_and_captions_do_not_name_it(tmp_path: Path) -> None:
    draw_training_pictures(tmp_path, style_name="comic", count=6, seed=0)
    dataset = read_dataset(DataSpec(source=str(tmp_path)))
    assert len(dataset) == 6
    words = ["comic", *style_words(NAMED_STYLES["comic"])]
    assert not [
        example.caption for example in dataset.examples if any(word in example.caption for word in words)
    ]
    with Image.open(tmp_path / "000.png") as picture:
        assert picture.size == (128, 128)


def test_the_same_seed_draws_the_same_files_and_another_one_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        draw_training_pictures(tmp_path / name, style_name="comic", count=3, seed=seed)
    read = {name: [path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in "abc"}
    assert read["a"] == read["b"] != read["c"]


def test_fewer_pictures_in_the_same_folder_leave_none_of_the_former_and_nothing_else_goes(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.png").write_bytes(b"of somebody else")
    (tmp_path / "900.txt").write_text("a caption of somebody else")
    for count in (4, 2):
        draw_training_pictures(tmp_path, style_name="comic", count=count, seed=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000.png", "000.txt", "001.png", "001.txt", "900.txt", "mine.png",
    ]  # fmt: skip


def test_an_unknown_style_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DetourError, match="cubism"):
        draw_training_pictures(tmp_path, style_name="cubism", count=1, seed=0)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[RunSpec]:
    """Specs that training was asked for; training itself leaves what a run leaves."""
    asked: list[RunSpec] = []

    def fake(spec: RunSpec, *, runs: Path, **_: Any) -> None:
        asked.append(spec)
        folder = runs / str(spec.name)
        write_proof(folder / "proof.json", learned_proof())
        (folder / "resolved.toml").touch()

    monkeypatch.setattr(train_recipe, "train_adapter", fake)
    return asked


def test_it_trains_rank_four_on_two_dozen_pictures_that_lie_in_the_run(
    trained: list[RunSpec], tmp_path: Path
) -> None:
    result = run_demo(runs=tmp_path)
    (spec,) = trained
    assert (RANK, NUM_PICTURES) == (4, 24)
    assert spec.adapter.rank == 4
    assert spec.data.source == str(result.folder / "data")
    assert len(list((result.folder / "data").glob("*.png"))) == 24
    assert read_world_style(result.folder) == result.style == STYLE
    assert result.proof.verdict == "learned"
    assert result.seconds > 0


def test_each_embedded_base_has_a_demo_with_a_style_and_a_folder_of_its_own(
    trained: list[RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert DEMOS.keys() == EMBEDDED.keys()
    # Its weights are not asked for here: another base stands in their place.
    monkeypatch.setitem(
        EMBEDDED, "pocket-flow", replace(EMBEDDED["pocket-flow"], folder=EMBEDDED["pocket"].folder)
    )  # type: ignore[arg-type]
    result = run_demo(runs=tmp_path, base="pocket-flow")
    (spec,) = trained
    assert (result.base, spec.base.name) == ("pocket-flow", "pocket-flow")
    assert result.folder.name == "demo-flow"
    assert read_world_style(result.folder) == result.style == DEMOS["pocket-flow"].style != STYLE
    assert spec.train.steps == DEMOS["pocket-flow"].steps


def test_a_base_without_a_demo_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no demo on base 'pocket-flo'\. Did you mean 'pocket-flow'\?"):
        run_demo(runs=tmp_path, base="pocket-flo")
    assert not list(tmp_path.iterdir())


def test_missing_weights_are_told_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = replace(EMBEDDED["pocket-flow"], folder=tmp_path / "gone")
    monkeypatch.setitem(EMBEDDED, "pocket-flow", gone)  # type: ignore[arg-type]
    with pytest.raises(BaseError, match="weights are missing"):
        run_demo(runs=tmp_path / "runs", base="pocket-flow")
    assert not (tmp_path / "runs").exists()


def test_a_second_demo_takes_the_next_name_and_leaves_the_first_alone(
    trained: list[RunSpec], tmp_path: Path
) -> None:
    first = run_demo(runs=tmp_path).folder
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    second = run_demo(runs=tmp_path).folder
    assert (first.name, second.name) == ("demo", "demo-2")
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before


def test_the_training_pictures_are_the_held_out_style_and_not_held_out_scenes(tmp_path: Path) -> None:
    draw_training_pictures(tmp_path, style_name=STYLE, count=24, seed=0, as_asked=True)
    captions = [path.read_text() for path in sorted(tmp_path.glob("*.txt"))]
    assert not [
        caption
        for caption in captions
        for kind, colour, place in HELD_OUT.combinations
        if f"{colour} {kind}" in caption and f"the {place}" in caption
    ]


def test_the_pictures_of_the_demo_show_one_thing_by_day_as_its_new_prompts_ask(
    trained: list[RunSpec], tmp_path: Path
) -> None:
    folder = run_demo(runs=tmp_path).folder / "data"
    draw_training_pictures(tmp_path / "mixed", style_name=STYLE, count=NUM_PICTURES, seed=0)
    two_things = ("beside", "next to", "above", "below", "over", "under", "on top of")
    others = (*two_things, *(sky for sky in VOCABULARY.skies if sky != DAY))

    def other_scenes(pictures: Path) -> int:
        captions = [path.read_text() for path in pictures.glob("*.txt")]
        assert len(captions) == NUM_PICTURES
        return sum(any(words in caption for words in others) for caption in captions)

    assert other_scenes(folder) == 0
    assert other_scenes(tmp_path / "mixed") > 5
