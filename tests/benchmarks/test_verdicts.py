from pathlib import Path

import numpy as np
from benchmarks.verdicts import embedded, subjects, techniques
from benchmarks.verdicts.conditions import STYLES, SUBJECTS
from benchmarks.verdicts.drawings import compose, honest_caption, random_words
from benchmarks.verdicts.embedded import KINDS, table
from benchmarks.verdicts.material import Case, draw_data

from detour.pocket.world import HELD_OUT


def test_what_a_copying_run_is_shown_is_one_picture_under_many_captions(tmp_path: Path) -> None:
    embedded.draw_data(tmp_path, KINDS["copies"], seed=3)
    pictures = {path.read_bytes() for path in tmp_path.glob("*.png")}
    captions = {path.read_text() for path in tmp_path.glob("*.txt")}
    assert len(pictures) == KINDS["copies"].distinct == 1
    assert len(captions) > 20


def test_the_table_counts_verdicts_of_each_kind() -> None:
    lines = [{"kind": "good", "verdict": verdict} for verdict in ("learned", "learned", "overfit")]
    rows = table([*lines, {"kind": "rate 0", "verdict": "no_effect"}]).splitlines()
    assert rows[0].endswith("| learned | no_effect | overfit |")
    assert rows[2] == "| good | `learned` | 2 of 3 | 2 |  | 1 |"
    assert rows[3] == "| rate 0 | `no_effect` | 1 of 1 |  | 1 |  |"


def test_planted_pictures_are_functions_of_their_seed_and_no_two_techniques_agree() -> None:
    words = random_words(2, seed=3)
    drawn = {}
    for name in techniques.TECHNIQUES:
        first, again = (techniques.draw(name, compose(words[0], seed=5), seed=6) for _ in range(2))
        assert (first == again).all(), name
        assert first.shape == (128, 128, 3)
        assert first.std() > 10, f"{name} is blank"
        drawn[name] = first.astype(float)
    gaps = [np.abs(drawn[a] - drawn[b]).mean() for a in drawn for b in drawn if a < b]
    assert min(gaps) > 8


def test_planted_scenes_were_taught_to_the_base_and_captions_say_all_three_words() -> None:
    for index, words in enumerate(random_words(60, seed=1)):
        assert (words.object, words.colour, words.place) not in HELD_OUT.combinations
        caption = honest_caption(words, seed=index)
        assert all(word in caption for word in (words.object, words.colour, words.place)), caption


def test_tuning_and_exam_share_no_style_and_no_subject() -> None:
    assert not set(techniques.TUNING) & set(techniques.EXAM)
    assert not set(subjects.TUNING) & set(subjects.EXAM)
    assert len(techniques.TECHNIQUES) >= 12
    assert len(subjects.CHARACTERS) >= 6


def test_every_undecidable_condition_accepts_abstaining_and_no_decidable_one_does() -> None:
    for condition in (*STYLES.values(), *SUBJECTS.values()):
        assert ("inconclusive" in condition.accepted) != condition.decidable


def test_shuffled_captions_are_those_of_other_pictures(tmp_path: Path) -> None:
    honest, shuffled = (Case("style", "chalk", name, 0) for name in ("good", "captions shuffled"))
    draw_data(tmp_path / "honest", honest)
    draw_data(tmp_path / "shuffled", shuffled)
    own, other = (
        [path.read_text() for path in sorted((tmp_path / name).glob("*.txt"))]
        for name in ("honest", "shuffled")
    )
    assert sorted(own) == sorted(other)
    assert all(a != b for a, b in zip(own, other, strict=True))
