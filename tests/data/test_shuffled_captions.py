"""Captions exchanged among the pictures."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detour.data.folder import Dataset, Example
from detour.data.shuffled_captions import with_shuffled_captions
from detour.errors import DataError


def dataset(captions: list[str]) -> Dataset:
    return Dataset(
        tuple(Example(f"{i:03d}.png", None, caption, "") for i, caption in enumerate(captions)),
        class_examples=(Example("class.png", None, "a dog", ""),),
    )


def captions_of(data: Dataset) -> list[str]:
    return [example.caption for example in data.examples]


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=24), st.integers(0, 5))
def test_no_picture_keeps_its_caption_unless_one_caption_is_on_more_than_half(
    captions: list[str], seed: int
) -> None:
    counts = Counter(captions)
    if len(counts) < 2:
        return
    mixed = captions_of(with_shuffled_captions(dataset(captions), seed))
    kept = sum(before == after for before, after in zip(captions, mixed, strict=True))
    assert Counter(mixed) == counts
    # By the pigeonhole principle the most frequent one has to stand on this many of its own pictures.
    assert kept == max(0, 2 * max(counts.values()) - len(captions))


def test_pictures_that_share_a_caption_all_get_another_one() -> None:
    before = list("aaabbbcc")
    after = captions_of(with_shuffled_captions(dataset(before), seed=0))
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_pictures_their_order_and_class_pictures_stay() -> None:
    before = dataset(list("abcd"))
    after = with_shuffled_captions(before, 0)
    assert [e.name for e in after.examples] == [e.name for e in before.examples]
    assert after.class_examples == before.class_examples


def test_another_seed_exchanges_in_another_way_and_the_same_seed_alike() -> None:
    before = dataset([str(i) for i in range(20)])
    first, again, other = (captions_of(with_shuffled_captions(before, seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_captions_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(DataError, match="same caption"):
        with_shuffled_captions(dataset(["a dog", "a dog"]), 0)
