"""Each finding fires on what it is about and is silent beside it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detour.data.finding import Finding
from detour.data.findings import Goal, find_flaws, ratio_text, word_table, words_of
from detour.data.flaws import look_at
from detour.data.folder import Dataset, Example, read_dataset
from detour.data.framing import Framing
from detour.specs import DataSpec

SQUARES = Framing(resolution_px=64)


def dataset(captions: list[str], sizes: list[tuple[int, int]] | None = None) -> Dataset:
    """Pictures of noise with these captions, 64 px wide where nothing else is said."""
    sizes = sizes or [(64, 64)] * len(captions)
    examples, facts = [], {}
    for number, (caption, (width, height)) in enumerate(zip(captions, sizes, strict=True)):
        name = f"{number:02d}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        examples.append(Example(name, None, caption, name, size_px=(width, height)))
        facts[name] = look_at(Image.fromarray(pixels))
    return Dataset(tuple(examples), facts=facts)


def flaws(data: Dataset, goal: Goal = "style", **settings: Any) -> dict[str, Finding]:
    settings = {"framing": SQUARES, "held_out": ()} | settings
    return {finding.kind: finding for finding in find_flaws(data, goal=goal, **settings)}


def test_words_are_counted_once_a_caption_and_function_words_never() -> None:
    assert words_of("A cat's cat, on the cat's RED mat_2") == ["cat's", "cat", "red", "mat", "2"]
    captions = ["a red cup on the table", "a red, red hat", "the cup", "ein Hut für dich"]
    table = word_table(captions)
    assert list(table.items())[:2] == [("cup", 2), ("red", 2)]
    assert "the" not in table
    assert table["für"] == 1


@pytest.mark.parametrize(
    ("triggers", "known", "expected"),
    [
        ((), (), ("'chalk'", "'drawing'")),
        (("chalk",), (), ("'drawing'",)),
        (("chalk",), ("a drawing of",), None),
    ],
)
def test_a_word_in_every_caption_is_named_unless_it_is_meant(
    triggers: tuple[str, ...], known: tuple[str, ...], expected: tuple[str, ...] | None
) -> None:
    data = dataset([f"a chalk drawing of a {thing}" for thing in ("cup", "hat", "cat", "tree", "house")])
    found = flaws(data, triggers=triggers, known_words=known).get("same words")
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert f"{', '.join(expected)} stand" in found.cause
        assert "--trigger" in found.fix


def test_a_word_that_one_caption_lacks_is_not_bound() -> None:
    data = dataset(["a chalk cup", "a chalk hat", "a chalk cat", "a chalk tree", "a house"])
    assert "same words" not in flaws(data)


def test_captions_that_are_all_alike_are_one_finding_and_ordinary_for_a_subject_with_a_trigger() -> None:
    data = dataset(["sks dog"] * 6)
    assert flaws(data)["same caption"].severity == "warning"
    assert "same words" not in flaws(data)
    subject = flaws(data, goal="subject", triggers=("sks dog",))
    assert subject["same caption"].severity == "note"
    assert "no trigger" not in subject
    assert "no trigger" in flaws(data, goal="subject", known_words=("dog",))


def test_what_is_cut_away_is_measured_and_named_with_true_ratios() -> None:
    sizes = [(1280, 64), (64, 64), (96, 64), (112, 64)]
    found = flaws(dataset(["a", "b", "c", "d"], sizes))["cut away"]
    assert found.pictures == ("00.png", "03.png")  # 3:2 loses 33 %, 7:4 43 %
    assert "2 pictures of which more than 40% is cut away; of 00.png (20:1) 5% is trained on" in found.cause
    assert "--buckets" in found.fix
    buckets = Framing(resolution_px=64, step_px=16)
    kept = flaws(dataset(["a", "b", "c", "d"], sizes), framing=buckets)["cut away"]
    assert kept.pictures == ("00.png",)
    assert "--buckets" not in kept.fix


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((1280, 64), "20:1"), ((64, 1280), "1:20"), ((100, 100), "1:1"), ((101, 100), "1:1"), ((1920, 1080), "16:9"),
        ((1080, 1920), "9:16"), ((300, 200), "3:2"), ((260, 100), "2.6:1"), ((1170, 2532), "1:2.2"),
    ],
)  # fmt: skip
def test_ratios_are_true(size: tuple[int, int], text: str) -> None:
    assert ratio_text(*size) == text


def test_a_picture_smaller_than_every_bucket_is_an_error() -> None:
    data = dataset(["a", "b"], [(8, 64), (64, 64)])
    found = flaws(data, framing=Framing(resolution_px=64, step_px=16))["small"]
    assert (found.severity, found.pictures) == ("error", ("00.png",))


@pytest.mark.parametrize(
    ("num", "goal", "severity"),
    [
        (3, "style", "warning"),
        (30, "style", "note"),
        (50, "style", None),
        (3, "subject", "warning"),
        (5, "subject", None),
    ],
)
def test_fewer_pictures_than_the_goal_wants_are_said(num: int, goal: Goal, severity: str | None) -> None:
    data = dataset([str(number) for number in range(num)])
    found = flaws(data, goal, triggers=("sks",)).get("amount")
    assert (found and found.severity) == severity


def test_copies_across_the_split_are_told_from_others() -> None:
    data = dataset(["a", "b", "c", "d"])
    facts = {**data.facts, "02.png": data.facts["00.png"]}
    data = Dataset(data.examples, facts=facts)
    assert flaws(data)["copies"].pictures == ("00.png = 02.png",)
    assert flaws(data, held_out={"02.png"})["leak"].pictures == ("00.png = 02.png",)
    assert "copies" not in flaws(data, held_out={"02.png"})


def test_findings_come_gravest_first_in_one_line_each_with_cause_and_fix(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    (tmp_path / "notes.md").write_text("x")
    data = read_dataset(DataSpec(source=str(tmp_path)), lenient=True)
    found = find_flaws(data, goal="style", framing=SQUARES, held_out=())
    order = [finding.severity for finding in found]
    assert order == sorted(order, key=["error", "warning", "note"].index)
    assert order[0] == "error"
    assert {"unreadable", "no caption", "left out"} <= {finding.kind for finding in found}
    for finding in found:
        assert "\n" not in finding.line
        assert str(tmp_path) not in finding.line, "a run folder must not hold paths of the machine"
        assert finding.cause in finding.line
        assert finding.line.startswith(f"{finding.severity}: ")
        assert finding.line.endswith(".")


def test_pictures_that_were_not_looked_at_cannot_be_judged(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    data = read_dataset(DataSpec(source=str(tmp_path), caption="x"), decode=False)
    with pytest.raises(ValueError, match="without looking"):
        find_flaws(data, goal="style", framing=SQUARES, held_out=())
