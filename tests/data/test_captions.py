from pathlib import Path

import pytest

from detour.data.captions import read_sidecar, tag_table, with_trigger
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
