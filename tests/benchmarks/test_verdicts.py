import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.verdicts import embedded, subjects, techniques
from benchmarks.verdicts.conditions import STYLES, SUBJECTS
from benchmarks.verdicts.drawings import compose, honest_caption, random_words
from benchmarks.verdicts.embedded import KINDS, table
from benchmarks.verdicts.material import Case, changes_nothing, draw_data, scrambled
from benchmarks.verdicts.scoring import clopper_pearson, words_in

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
