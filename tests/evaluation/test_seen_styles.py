"""Reading, competence, relations and way: each against what can be worked out by hand."""

import numpy as np
import pytest

from detour.errors import ShapeMismatch
from detour.evaluation.competence import competence_of_captions
from detour.evaluation.reading import advantages, caption_margins, centred, in_sets_of, unit, word_margins
from detour.evaluation.relations import relate
from detour.evaluation.way import BANDWIDTH, measure_way
from tests.evaluation.planted_features import SCALE, World

RNG = np.random.default_rng(0)


def test_what_all_pictures_have_in_common_is_taken_off() -> None:
    rows = RNG.normal(size=(9, 12))
    assert centred(rows + RNG.normal(size=12)) == pytest.approx(centred(rows))
    assert not centred(rows[:1]).any()


def test_a_margin_is_the_log_odds_against_the_mean_of_the_others() -> None:
    pictures, captions = unit(RNG.normal(size=(5, 8))), unit(RNG.normal(size=(5, 8)))
    margins = caption_margins(pictures, captions, scale=10.0)
    odds = np.exp(10.0 * pictures @ captions.T)
    assert margins[1, 2] == pytest.approx(np.log(odds[1, 2] / np.delete(odds[1], 2).mean()))


def test_a_caption_is_no_alternative_to_itself() -> None:
    captions = unit(RNG.normal(size=(4, 8)))
    twice = np.concatenate([captions, captions])
    pictures = unit(RNG.normal(size=(8, 8)))
    margins = caption_margins(pictures, twice, scale=10.0)
    odds = np.exp(10.0 * pictures @ twice.T)
    assert margins[0, 0] == pytest.approx(np.log(odds[0, 0] / np.delete(odds[0], (0, 4)).mean()))
    assert not caption_margins(pictures, np.repeat(captions[:1], 8, axis=0), scale=10.0).any()


def test_pictures_that_show_nothing_have_no_advantage() -> None:
    pictures, phrases = unit(RNG.normal(size=(4000, 16))), unit(RNG.normal(size=(4000, 6, 16)))
    margins = word_margins(pictures, phrases, scale=5.0)
    scores = advantages(margins, RNG.integers(0, 6, 4000))
    assert abs(scores.mean()) < 4 * scores.std() / 4000**0.5


def test_sets_of_one_size_read_alike_whatever_the_number_of_pictures() -> None:
    world = World()
    scores = {}
    for count in (12, 60):
        words = world.words(count, seed=count)
        pictures, texts = world.pictures(words, style=1), world.text(words)

        def score(rows: np.ndarray, pictures: np.ndarray = pictures, texts: np.ndarray = texts) -> np.ndarray:
            margins = caption_margins(centred(pictures[rows]), centred(texts[rows]), scale=SCALE)
            return advantages(margins, np.arange(len(rows)))

        scores[count] = in_sets_of(12, count, score), in_sets_of(count, count, score)
    apart, together = (abs(scores[12][i].mean() - scores[60][i].mean()) for i in (0, 1))
    assert apart < 0.12 * scores[12][0].mean()
    assert apart < together


@pytest.mark.parametrize(("count", "tested"), [(7, False), (8, True)])
def test_competence_takes_eight_pictures(count: int, tested: bool) -> None:
    world = World()
    words = world.words(count, seed=5)
    margins = caption_margins(centred(world.pictures(words)), centred(world.text(words)), scale=SCALE)
    found = competence_of_captions(margins)
    assert (found.p_value is not None) == tested
    assert found.shown == tested


def test_shuffled_captions_show_no_competence_beyond_its_level() -> None:
    world = World()
    shown = 0
    for seed in range(60):
        words = world.words(12, seed=seed)
        wrong = np.random.default_rng(seed).permutation(12)
        texts = world.text([words[i] for i in wrong])
        margins = caption_margins(centred(world.pictures(words, seed=seed)), centred(texts), scale=SCALE)
        shown += competence_of_captions(margins).shown
    assert shown <= 4


def test_captions_that_are_all_alike_cannot_be_tested() -> None:
    world = World()
    words = world.words(12, seed=1)
    texts = world.text([words[0]] * 12)
    margins = caption_margins(centred(world.pictures(words)), centred(texts), scale=SCALE)
    assert competence_of_captions(margins).p_value is None


def test_relations_hold_within_pairs_and_not_after_shuffling() -> None:
    world = World()
    words = world.words(16, seed=1)
    base, styled = world.pictures(words, seed=1), world.pictures(words, style=4, seed=2)
    assert relate(base, base).nearest == 1.0
    assert relate(styled, base).shown
    assert relate(styled, base).agreement > 0.2
    assert not relate(np.roll(styled, 5, axis=0), base).shown
    with pytest.raises(ShapeMismatch):
        relate(base[:3], base)


def test_the_way_is_one_for_true_pictures_and_zero_for_the_base_on_average() -> None:
    world = World()
    shares = {"true": [], "base": []}  # type: ignore[var-annotated]
    for seed in range(12):
        asked, shown = world.words(16, seed=seed), world.words(9, seed=seed + 50)
        base = world.pictures(asked, seed=1)
        references = world.pictures(shown, style=2, seed=3)
        for name, side in (
            ("true", world.pictures(asked, style=2, seed=4)),
            ("base", world.pictures(asked, seed=5)),
        ):
            shares[name].append(measure_way(side, base, references).share)
    for name, expected in (("true", 1.0), ("base", 0.0)):
        found = np.array(shares[name])
        assert abs(found.mean() - expected) < 3 * found.std(ddof=1) / len(found) ** 0.5 + 0.02, name


def test_the_room_is_the_unbiased_discrepancy_written_out() -> None:
    world = World()
    base, references = world.pictures(world.words(5, seed=1)), world.pictures(world.words(4, seed=2), style=3)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a - b) ** 2).sum() / (2 * BANDWIDTH**2)))

    def within(rows: np.ndarray) -> float:
        return float(
            np.mean([kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j])
        )

    across = float(np.mean([kernel(a, b) for a in base for b in references]))
    expected = within(base) + within(references) - 2 * across
    assert measure_way(base[::-1], base, references).room == pytest.approx(expected)
