"""The endless order of pictures: every picture as often as it should be, whatever the sizes."""

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detour.diffusion.randomness import order_for_epoch
from detour.training.order import ShowOrder, group_places

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def order_of(sizes: list[int], per_step: int, seed: int = 0) -> ShowOrder:
    bounds = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    buckets = tuple(tuple(range(a, b)) for a, b in itertools.pairwise(bounds))
    return ShowOrder(seed, buckets, per_step)


def test_one_size_is_a_walk_through_permuted_epochs() -> None:
    order = order_of([5], per_step=3, seed=4)
    shown = [order.at(step, sample) for step in range(10) for sample in range(3)]
    expected = [int(place) for epoch in range(6) for place in order_for_epoch(4, epoch, 5)]
    assert [s.place for s in shown] == expected
    assert [s.epoch for s in shown] == [i // 5 for i in range(30)]


@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, per_step=st.integers(1, 7))
def test_after_a_cycle_every_picture_was_shown_equally_often(sizes: list[int], per_step: int) -> None:
    order = order_of(sizes, per_step)
    steps = sum(sizes)  # a multiple of the cycle
    shown = Counter(order.at(step, sample).place for step in range(steps) for sample in range(per_step))
    assert shown == Counter(dict.fromkeys(range(sum(sizes)), per_step))


@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, per_step=st.integers(1, 7), seed=st.integers(0, 3))
def test_a_step_has_one_bucket_and_buckets_keep_to_their_share(
    sizes: list[int], per_step: int, seed: int
) -> None:
    order = order_of(sizes, per_step, seed)
    turns: Counter[int] = Counter()
    for step in range(3 * sum(sizes)):
        bucket, before = order.visit(step)
        assert before == turns[bucket]
        assert {order.at(step, sample).place in order.buckets[bucket] for sample in range(per_step)} == {True}
        turns[bucket] += 1
        for index, size in enumerate(sizes):
            assert abs(turns[index] - size / sum(sizes) * (step + 1)) < 2


def test_each_bucket_shows_all_of_its_pictures_before_one_comes_again() -> None:
    order = order_of([6, 2, 1], per_step=4)
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for step in range(18):
        bucket, _ = order.visit(step)
        seen[bucket] += [order.at(step, sample).place for sample in range(4)]
    for bucket, places in seen.items():
        size = len(order.buckets[bucket])
        for start in range(0, len(places) - size + 1, size):
            assert sorted(places[start : start + size]) == sorted(order.buckets[bucket])


def test_the_order_depends_on_the_seed() -> None:
    first, second = (order_of([4, 4, 4], 2, seed=seed) for seed in (0, 1))
    assert [first.visit(s)[0] for s in range(12)] != [second.visit(s)[0] for s in range(12)]


def test_buckets_of_equal_length_are_each_in_an_order_of_their_own() -> None:
    order = order_of([8, 8], per_step=8)
    shown: dict[int, list[int]] = {0: [], 1: []}
    for step in range(200):
        bucket, _ = order.visit(step)
        shown[bucket] += [order.at(step, sample).place - 8 * bucket for sample in range(8)]
    length = min(map(len, shown.values()))
    same = sum(a == b for a, b in zip(shown[0][:length], shown[1][:length], strict=True))
    assert same / length == pytest.approx(1 / 8, abs=0.05)


@pytest.mark.parametrize("sizes", [[5], [3, 4]])
def test_another_seed_is_another_order(sizes: list[int]) -> None:
    """Within each bucket, not only in which bucket comes when."""
    shown: list[list[int]] = []
    for seed in (0, 1):
        order = order_of(sizes, per_step=max(sizes), seed=seed)
        steps = {order.visit(step)[0]: step for step in reversed(range(20))}  # the first of each bucket
        shown.append(
            [order.at(steps[bucket], i).place for bucket in sorted(steps) for i in range(max(sizes))]
        )
    assert len(shown[0]) == len(sizes) * max(sizes)
    for start in range(0, len(shown[0]), max(sizes)):
        window = slice(start, start + max(sizes))
        assert shown[0][window] != shown[1][window]


@pytest.mark.parametrize(
    ("sizes", "groups"), [([(1,), (2,), (1,)], ((0, 2), (1,))), ([(3,), (3,)], ((0, 1),)), ([], ())]
)
def test_places_of_equal_size_are_grouped(sizes: list[tuple[int]], groups: tuple[tuple[int]]) -> None:
    assert group_places(sizes) == groups
