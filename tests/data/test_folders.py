"""Several folders, and kohya's layouts with regularisation pictures."""

from pathlib import Path

import pytest

from detour.data.folder import Dataset, read_dataset
from detour.data.holdout import split_holdout
from detour.errors import DataError
from detour.specs import DataSpec, FolderSpec
from tests.data.test_folder import picture


def read(*folders: FolderSpec, **settings: object) -> Dataset:
    return read_dataset(DataSpec(folders=folders, **settings))  # type: ignore[arg-type]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    picture(tmp_path / "dog" / "a.png", "sitting")
    picture(tmp_path / "dog" / "b.png")
    picture(tmp_path / "style" / "a.png", "a house", seed=7)
    picture(tmp_path / "any dogs" / "x.png", seed=8)
    picture(tmp_path / "any dogs" / "y.png", seed=9)
    return tmp_path


def test_each_folder_has_its_own_settings(place: Path) -> None:
    data = read(
        FolderSpec(source=str(place / "dog"), repeats=6, trigger="sks", caption="a dog", weight=0.5),
        FolderSpec(source=str(place / "style"), repeats=2),
        FolderSpec(source=str(place / "any dogs"), role="class", caption="a dog", repeats=5),
        trigger="in ink",
    )
    assert [(e.name, e.caption, e.repeats, e.weight) for e in data.examples] == [
        ("dog/a.png", "sks, sitting", 3, 0.5),
        ("dog/b.png", "sks, a dog", 3, 0.5),
        ("style/a.png", "in ink, a house", 1, 1.0),
    ]
    assert [(e.name, e.caption, e.repeats) for e in data.class_examples] == [
        ("any dogs/x.png", "a dog", 1),
        ("any dogs/y.png", "a dog", 1),
    ]
    assert data.found == (
        "dog: 2 pictures: 1 of them with .txt captions beside them",
        "style: 1 picture: pictures with .txt captions beside them",
        "any dogs: 2 class pictures: 0 of them with .txt captions beside them",
    )
    assert data.tags == {
        "dog": {"sks": 2, "a dog": 1, "sitting": 1},
        "style": {"a house": 1, "in ink": 1},
        "any dogs": {"a dog": 2},
    }


def test_source_is_the_first_of_the_folders_and_equal_names_are_told_apart(place: Path) -> None:
    picture(place / "other" / "dog" / "a.png", "standing", seed=11)
    data = read(FolderSpec(source=str(place / "other" / "dog")), source=str(place / "dog"), caption="x")
    assert [e.name for e in data.examples] == ["dog-2/a.png", "dog/a.png", "dog/b.png"]
    assert data == read(
        FolderSpec(source=str(place / "dog")), FolderSpec(source=str(place / "other" / "dog")), caption="x"
    )
    alone = read(FolderSpec(source=str(place / "style")))
    assert alone == read_dataset(DataSpec(source=str(place / "style")))


def test_class_pictures_take_neither_the_caption_nor_the_trigger_of_the_others(place: Path) -> None:
    with pytest.raises(DataError, match=r"any dogs: 2 of 2 pictures have no caption .*that folder's caption"):
        read(FolderSpec(source=str(place / "any dogs"), role="class"), source=str(place / "dog"), caption="x")
    with pytest.raises(DataError, match="all pictures are class pictures"):
        read(FolderSpec(source=str(place / "any dogs"), role="class", caption="a dog"))
    with pytest.raises(DataError, match="has no 'source'"):
        read(FolderSpec(), source=str(place / "style"))


def test_class_pictures_are_never_held_out(place: Path) -> None:
    reg = FolderSpec(source=str(place / "any dogs"), role="class", caption="a dog")
    train, held_out = split_holdout(read(reg, source=str(place / "dog"), caption="x"), 0.5, seed=0)
    assert (len(train), len(held_out)) == (1, 1)
    assert [e.name for e in train.class_examples] == ["any dogs/x.png", "any dogs/y.png"]
    assert held_out.class_examples == ()


@pytest.mark.parametrize("change", ["role", "weight", "repeats", "content"])
def test_fingerprint_tells_other_folders(place: Path, change: str) -> None:
    def fingerprint(**settings: object) -> str:
        second = FolderSpec(source=str(place / "style"), caption="x", **settings)  # type: ignore[arg-type]
        return read(FolderSpec(source=str(place / "dog"), caption="x"), second).fingerprint

    before = fingerprint()
    if change == "content":
        picture(place / "style" / "a.png", seed=99)
    changed = {"role": {"role": "class"}, "weight": {"weight": 2.0}, "repeats": {"repeats": 3}}
    assert fingerprint(**changed.get(change, {})) != before


@pytest.mark.parametrize("train", ["", "img/"])
def test_kohya_layout_with_regularisation_is_recognised_in_one_line(tmp_path: Path, train: str) -> None:
    picture(tmp_path / f"{train}10_sks dog" / "a.png")
    picture(tmp_path / f"{train}4_sks hat" / "b.png")
    picture(tmp_path / "reg" / "1_dog" / "c.png")
    data = read_dataset(DataSpec(source=str(tmp_path), trigger="sks"))
    assert [(e.name, e.caption, e.repeats) for e in data.examples] == [
        (f"{train}10_sks dog/a.png", "sks dog", 5),
        (f"{train}4_sks hat/b.png", "sks hat", 2),
    ]
    assert [(e.name, e.caption) for e in data.class_examples] == [("reg/1_dog/c.png", "dog")]
    assert data.found == (
        "2 pictures: kohya folders, repeats_name (10_sks dog, 4_sks hat), and 1 class picture in reg/ (1_dog)",
    )
    assert data.tags == {"10_sks dog": {"sks dog": 1}, "4_sks hat": {"sks hat": 1}, "1_dog": {"dog": 1}}


def test_one_kohya_folder_named_itself_gives_its_words_where_nothing_better_is(tmp_path: Path) -> None:
    picture(tmp_path / "10_sks dog" / "a.png")
    picture(tmp_path / "10_sks dog" / "b.png", "a sleeping dog")
    source = str(tmp_path / "10_sks dog")
    data = read_dataset(DataSpec(source=source))
    assert [(e.caption, e.repeats) for e in data.examples] == [("sks dog", 1), ("a sleeping dog", 1)]
    assert data.found == ("2 pictures: one kohya folder, 'sks dog' where a picture has no caption",)
    assert read_dataset(DataSpec(source=source, caption="x")).examples[0].caption == "x"


def test_template_and_shuffling_leave_the_trigger_in_front_and_class_captions_alone(place: Path) -> None:
    picture(place / "dog" / "a.png", "sitting, outdoors, dark")
    data = read(
        FolderSpec(source=str(place / "any dogs"), role="class", caption="a dog"),
        source=str(place / "dog"),
        caption="a dog",
        trigger="sks",
        template="{trigger}, {caption}, in ink",
        shuffle_tags=True,
        keep_tags=1,
    )
    first, second = data.examples
    assert first.caption == "sks, sitting, outdoors, dark, in ink"
    assert set(first.shuffled) == {first.caption, "sks, sitting, dark, outdoors, in ink"}
    assert (second.caption, second.shuffled) == ("sks, a dog, in ink", ("sks, a dog, in ink",))
    assert [e.caption for e in data.class_examples] == ["a dog", "a dog"]
