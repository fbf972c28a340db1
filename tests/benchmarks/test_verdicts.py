import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.verdicts import embedded, record, subjects, techniques
from benchmarks.verdicts.conditions import STYLES, SUBJECTS
from benchmarks.verdicts.drawings import compose, honest_caption, random_words
from benchmarks.verdicts.embedded import KINDS, table
from benchmarks.verdicts.material import Case, changes_nothing, draw_data, scrambled
from benchmarks.verdicts.record import Examined, changes, read_record, rules_digest, write_record
from benchmarks.verdicts.scoring import clopper_pearson, summary, words_in

from detour.adapters.adapter import Adapter
from detour.adapters.layers import LoraLayer
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


def test_the_tuning_and_the_test_half_share_no_style_and_no_subject() -> None:
    assert not set(techniques.TUNING) & set(techniques.TEST)
    assert not set(subjects.TUNING) & set(subjects.TEST)
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


def test_limits_of_a_share_are_those_of_clopper_and_pearson() -> None:
    assert clopper_pearson(0, 20) == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))
    assert clopper_pearson(20, 20) == pytest.approx((0.025 ** (1 / 20), 1.0))
    low, high = clopper_pearson(3, 16)
    assert sum(math.comb(16, k) * low**k * (1 - low) ** (16 - k) for k in range(3, 17)) == pytest.approx(
        0.025
    )
    assert sum(math.comb(16, k) * high**k * (1 - high) ** (16 - k) for k in range(4)) == pytest.approx(0.025)


def test_a_caption_gives_back_the_words_that_it_was_made_of() -> None:
    for index, words in enumerate(random_words(30, seed=2)):
        assert words_in(honest_caption(words, seed=index)) == (words.object, words.colour, words.place)
    assert words_in("a picture") is None


def test_scrambling_keeps_every_number_and_moves_the_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = LoraLayer(
        down=torch.randn(2, 8, generator=generator), up=torch.randn(6, 2, generator=generator), alpha=2.0
    )
    adapter = Adapter({"unet.a": layer})
    moved = scrambled(adapter, seed=1).layers["unet.a"]
    assert isinstance(moved, LoraLayer)
    assert not torch.equal(moved.up @ moved.down, layer.up @ layer.down)
    assert torch.equal(
        (moved.up @ moved.down).flatten().sort().values, (layer.up @ layer.down).flatten().sort().values
    )
    assert not changes_nothing(adapter)
    assert changes_nothing(Adapter({"unet.a": replace(layer, up=torch.zeros(6, 2))}))


RUN = Examined("style", "stamp", "good", 1, "learned", "learned", 0.9, "abc", "2026-12-01")


def test_the_record_gives_back_its_runs_and_says_what_changed(tmp_path: Path) -> None:
    path = tmp_path / "exam.jsonl"
    assert read_record(path) == {}
    before = {RUN.case.name: RUN}
    write_record(path, before)
    assert read_record(path) == before
    other = replace(RUN, look="impasto", verdict="inconclusive")
    after = {RUN.case.name: replace(RUN, with_words="forgot_prompts"), other.case.name: other}
    assert list(changes(before, after)) == [
        "1 runs are new",
        "style-stamp-good-1, with the base's words: learned became forgot_prompts",
    ]
    lines = [row.line(vocabulary=False) for row in after.values()]
    assert summary(lines)[0].startswith("confident and wrong: 0 of 2 runs")
    assert summary(lines)[2].startswith("abstained on good runs: 1 of 2 runs")
    assert summary([row.line(vocabulary=True) for row in after.values()])[0].startswith(
        "confident and wrong: 1 of 2"
    )


def test_the_digest_of_the_rules_changes_with_their_code_and_not_with_their_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in record.EVALUATION.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    whole = rules_digest()
    monkeypatch.setattr(record, "EVALUATION", tmp_path)
    assert rules_digest() == whole

    def changed(name: str, old: str, new: str) -> str:
        text = (tmp_path / name).read_text()
        assert old in text
        (tmp_path / name).write_text(text.replace(old, new))
        return rules_digest()

    assert changed("judgement.py", "Derives one verdict", "Gives one verdict") == whole
    assert changed("limits.py", "WAY_MIN = 0.65", "WAY_MIN = 0.6") != whole
