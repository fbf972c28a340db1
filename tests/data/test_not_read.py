"""Nothing in a data folder vanishes: it is read, or it is said what was left out, where, and how to read it."""

import json
import os
import sys
from pathlib import Path

import pytest

from detour.data.folder import Dataset, read_dataset
from detour.errors import ConfigError, DataError
from detour.specs import DataSpec, FolderSpec
from detour.specs.sources import parse
from tests.data.test_folder import picture


def read(folder: Path, **settings: object) -> Dataset:
    return read_dataset(DataSpec(source=str(folder), **settings))  # type: ignore[arg-type]


def not_read(data: Dataset) -> list[str]:
    return [finding.cause for finding in data.findings if finding.kind == "not read"]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Six pictures: two here, one in a folder, two below that one, one in a hidden folder."""
    for name in ("a.png", "b.png", "more/c.png", "more/deep/d.png", "more/deep/e.png", ".git/f.png"):
        picture(tmp_path / name, f"caption {name}")
    return tmp_path


def test_pictures_in_folders_below_are_named_and_read_when_asked(mixed: Path) -> None:
    data = read(mixed)
    assert [e.name for e in data.examples] == ["a.png", "b.png"]
    assert not_read(data) == ["3 pictures are not read: 1 in more/, 2 in more/deep/"]
    assert "--recursive" in next(f.fix for f in data.findings if f.kind == "not read")
    whole = read(mixed, recursive=True)
    assert [(e.name, e.caption) for e in whole.examples] == [
        (name, f"caption {name}")
        for name in ("a.png", "b.png", "more/c.png", "more/deep/d.png", "more/deep/e.png")
    ]
    assert not_read(whole) == []
    assert whole.found == ("5 pictures: pictures in 3 folders, each with its own captions",)


@pytest.fixture
def kohya(tmp_path: Path) -> Path:
    """Twelve pictures, of which kohya's own trainer reads six, three of them class pictures."""
    names = ["img/10_sks dog/{}.png", "img/other/{}.png", "img/10_sks dog/deep/{}.png", "reg/1_dog/{}.png"]
    for name in names:
        for number in range(3):
            picture(tmp_path / name.format(number), seed=hash(name) % 1000 + number)
    return tmp_path


def test_kohyas_layout_names_what_it_does_not_read(kohya: Path) -> None:
    data = read(kohya)
    assert (len(data), len(data.class_examples)) == (3, 3)
    assert not_read(data) == ["6 pictures are not read: 3 in img/other/, 3 in img/10_sks dog/deep/"]


def test_reading_every_folder_keeps_kohyas_repeats_words_and_roles(kohya: Path) -> None:
    data = read(kohya, recursive=True, caption="x")
    assert {(e.name.rsplit("/", 1)[0], e.caption, e.repeats) for e in data.examples} == {
        ("img/10_sks dog", "sks dog", 10),
        ("img/10_sks dog/deep", "sks dog", 10),
        ("img/other", "x", 1),
    }
    assert {e.caption for e in data.class_examples} == {"dog"}
    assert not_read(data) == []


def test_a_folder_can_be_read_whole_beside_others_that_are_not(mixed: Path, tmp_path: Path) -> None:
    picture(tmp_path / "flat" / "a.png", "x")
    picture(tmp_path / "flat" / "b" / "c.png", "x")
    folders = (
        FolderSpec(source=str(mixed / "more"), recursive=True),
        FolderSpec(source=str(tmp_path / "flat")),
    )
    data = read_dataset(DataSpec(folders=folders))
    assert [e.name for e in data.examples] == [
        "flat/a.png",
        "more/c.png",
        "more/deep/d.png",
        "more/deep/e.png",
    ]
    assert not_read(data) == ["flat/1 picture is not read: 1 in b/"]


def test_each_folder_below_may_have_a_table_of_its_own(mixed: Path) -> None:
    (mixed / "more" / "metadata.jsonl").write_text('{"file_name": "c.png", "text": "from the table"}\n')
    captions = {e.name: e.caption for e in read(mixed, recursive=True).examples}
    assert captions["more/c.png"] == "from the table"
    assert captions["more/deep/d.png"] == "caption more/deep/d.png"


def test_links_in_circles_end(mixed: Path) -> None:
    (mixed / "more" / "back").symlink_to(mixed)
    assert len(read(mixed, recursive=True)) == 5
    assert not_read(read(mixed)) == ["3 pictures are not read: 1 in more/, 2 in more/deep/"]


def test_pictures_that_are_read_through_a_link_are_not_missed_where_they_stand(tmp_path: Path) -> None:
    picture(tmp_path / "a store" / "0.png")
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "2_cup").symlink_to(tmp_path / "a store")
    data = read(tmp_path)
    assert [e.name for e in data.examples] == ["img/2_cup/0.png"]
    assert not_read(data) == []


def test_masks_are_neither_read_nor_missed(mixed: Path) -> None:
    picture(mixed / "mask" / "a.png")
    picture(mixed / "more" / "mask" / "c.png")
    assert len(read(mixed, recursive=True)) == 5
    assert not_read(read(mixed)) == ["3 pictures are not read: 1 in more/, 2 in more/deep/"]


@pytest.mark.parametrize("name", ["0.TXT", "0.Txt", "0.png.txt", "0.PNG.TXT", "0.caption", "0.png.caption"])
@pytest.mark.parametrize("caption", [None, "for all"])
def test_a_caption_is_found_however_it_is_called(tmp_path: Path, name: str, caption: str | None) -> None:
    picture(tmp_path / "0.png")
    (tmp_path / name).write_text("its own", encoding="utf-8")
    data = read(tmp_path, caption=caption)
    assert data.examples[0].caption == "its own"
    assert data.findings == ()


def test_two_pictures_of_one_name_can_have_captions_of_their_own(tmp_path: Path) -> None:
    for suffix in ("png", "jpg"):
        picture(tmp_path / f"0.{suffix}")
        (tmp_path / f"0.{suffix}.txt").write_text(f"the {suffix}")
    assert [e.caption for e in read(tmp_path).examples] == ["the jpg", "the png"]


def test_a_caption_file_without_a_picture_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "photo-1.png")
    (tmp_path / "photo_1.txt").write_text("lost")
    [finding] = read(tmp_path, caption="x").findings
    assert (finding.severity, finding.pictures) == ("warning", ("photo_1.txt",))
    assert "1 caption file" in finding.cause


@pytest.mark.parametrize("name", ["a.mask.PNG", "A.Mask.png", "mask/A.PNG", "Mask/a.png"])
def test_a_mask_is_found_however_it_is_called(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "a.png", "x")
    picture(tmp_path / name, seed=3)
    [example] = read(tmp_path, mask="file").examples
    assert example.mask == tmp_path / name


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_separators_inside_a_row_do_not_end_it(tmp_path: Path, separator: str) -> None:
    """JSON allows U+2028, U+2029 and U+0085 raw in a string; the others it wants escaped."""
    picture(tmp_path / "a.png")
    row = json.dumps({"file_name": "a.png", "text": f"red{separator}round"}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_text(row + "\n\n", encoding="utf-8")
    assert read(tmp_path).examples[0].caption == "red round"


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path, kind: str) -> None:
    picture(tmp_path / "a.png")
    files = {
        "txt": ("a.txt", "a thing"),
        "jsonl": ("metadata.jsonl", '{"file_name": "a.png", "text": "a thing"}'),
        "csv": ("metadata.csv", "file_name,text\na.png,a thing"),
    }
    name, text = files[kind]
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert read(tmp_path).examples[0].caption == "a thing"


def test_half_a_surrogate_pair_in_a_table_is_refused_with_its_row(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "smile \\ud83d"}')
    with pytest.raises(DataError, match="row 1: half of a surrogate pair"):
        read(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf8_is_refused_or_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", "x")
    data = (tmp_path / "a.png").read_bytes()
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))).write_bytes(data)
    with pytest.raises(DataError, match=r"caf\\udce9.png: its name is not UTF-8. Rename it"):
        read(tmp_path, caption="x")
    found = read(tmp_path, caption="x", skip_bad_images=True)
    assert [e.name for e in found.examples] == ["a.png"]
    assert len(found.fingerprint) == 64
    for finding in found.findings:
        finding.line.encode()
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9"))
    folder.mkdir()
    (folder / "a.png").write_bytes(data)
    with pytest.raises(DataError, match="the folder's name is not UTF-8"):
        read(folder, caption="x")
    assert not_read(read(tmp_path, caption="x", skip_bad_images=True)) == [
        "1 picture is not read: 1 in \\udce9/"
    ]
    with pytest.raises(ConfigError, match=r"source = .*\\udce9': not UTF-8"):
        parse(DataSpec, {"source": str(folder)})


def test_a_data_set_is_no_whole_disk(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detour.data.listing.MAX_FOLDERS", 2)
    with pytest.raises(DataError, match="more than 2 folders below it"):
        read(mixed, recursive=True)
    assert not_read(read(mixed)) == ["1 picture is not read: 1 in more/"]


def test_a_file_that_changes_after_it_was_checked_is_not_taken_for_what_it_was(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", "x", seed=1)
    picture(tmp_path / "a.mask.png", seed=2)
    [example] = read(tmp_path, mask="file").examples
    assert example.open().size == (8, 6)
    picture(tmp_path / "a.mask.png", seed=3)
    with pytest.raises(DataError, match=r"a.mask.png: changed since"):
        example.open_mask(alpha=False)
    picture(tmp_path / "a.png", seed=4)
    with pytest.raises(DataError, match=r"a.png: changed since the pictures were checked"):
        example.open()
    with pytest.raises(DataError, match=r"a.png: changed since"):
        example.open_mask(alpha=True)
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"a.png: no such picture"):
        example.open()
