from pathlib import Path

import pytest

from detour.data.captions import completed, one_line, read_sidecar, tag_orders, tag_table, with_trigger
from detour.errors import DataError


def test_caption_is_one_stripped_line_without_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeff  a red\tcar \r\n on the beach\n".encode())
    assert read_sidecar(tmp_path / "a.png") == "a red car on the beach"


def test_empty_or_absent_caption_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n")
    assert read_sidecar(tmp_path / "a.png") is None
    assert read_sidecar(tmp_path / "b.png") is None


def test_caption_file_of_kohya_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.caption").write_text("a dog")
    assert read_sidecar(tmp_path / "a.png") == "a dog"


def test_caption_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("ein Bär".encode("latin-1"))
    with pytest.raises(DataError, match=r"a.txt: not UTF-8 text \(byte 5\)"):
        read_sidecar(tmp_path / "a.png")


def test_enormous_caption_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 70_000)
    with pytest.raises(DataError, match="larger than 64 KiB"):
        read_sidecar(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("caption", "trigger", "result"),
    [
        ("a dog", "sks", "sks, a dog"),
        ("a photo of SKS, sleeping", "sks", "a photo of SKS, sleeping"),
        ("a masks shop", "sks", "sks, a masks shop"),
        ("a dog", "", "a dog"),
        ("", "sks", "sks"),
        ("in the style of X, a cat", "style of x", "in the style of X, a cat"),
    ],
)
def test_trigger_is_put_in_front_once(caption: str, trigger: str, result: str) -> None:
    assert with_trigger(caption, trigger) == result


def test_tags_are_counted_most_frequent_first() -> None:
    assert tag_table(["dog, red", "dog,blue, ", "a red car"]) == {
        "dog": 2,
        "a red car": 1,
        "blue": 1,
        "red": 1,
    }
    assert list(tag_table(["b, a", "b"])) == ["b", "a"]


@pytest.mark.parametrize(
    ("caption", "trigger", "template", "expected"),
    [
        ("sitting", "sks", "a photo of {trigger}, {caption}", "a photo of sks, sitting"),
        ("", "sks", "a photo of {trigger}, {caption}", "a photo of sks"),
        ("a  dog", "", "{trigger}, {caption} in ink", "a dog in ink"),
        ("a dog", "sks", "a painting of {caption}", "sks, a painting of a dog"),
        ("a {dog}", "sks", "{trigger}: {caption}", "sks: a {dog}"),
        ("a dog", "sks", "", "sks, a dog"),
    ],
)
def test_template_is_filled_without_empty_places(
    caption: str, trigger: str, template: str, expected: str
) -> None:
    assert completed(one_line(caption), trigger=trigger, template=template) == expected


@pytest.mark.parametrize("template", ["{subject}", "{", "{0}", "{caption.x}"])
def test_a_template_that_names_something_else_says_what_it_may_name(template: str) -> None:
    with pytest.raises(DataError, match=r"not a template .*\{trigger\} and \{caption\}"):
        completed("a", trigger="b", template=template)


def test_tag_orders_are_different_keep_the_first_and_lose_nothing() -> None:
    caption = "one, two, a, b, c, d, e"
    orders = tag_orders(caption, keep=2, count=20)
    assert len(set(orders)) == 20
    assert all(order.startswith("one, two, ") for order in orders)
    assert {tuple(sorted(order.split(", "))) for order in orders} == {tuple(sorted(caption.split(", ")))}
    assert orders == tag_orders(caption, keep=2, count=20)
    assert orders[:5] == tag_orders(caption, keep=2, count=5)
    assert len({order.split(", ")[2] for order in orders}) == 5


def test_few_tags_give_all_of_their_orders_and_one_tag_gives_itself() -> None:
    assert sorted(tag_orders("a, b, c", keep=0, count=6)) == sorted(
        {"a, b, c", "a, c, b", "b, a, c", "b, c, a", "c, a, b", "c, b, a"}
    )
    assert tag_orders("a dog", keep=0, count=8) == ("a dog",)
    assert tag_orders("a, b", keep=1, count=8) == ("a, b",)
