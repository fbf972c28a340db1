import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detour.data.folder import Dataset, read_dataset
from detour.data.holdout import split_holdout
from detour.errors import DataError
from detour.specs import DataSpec


def picture(path: Path, caption: str | None = None, *, seed: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.name.encode()) if seed is None else seed
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")


def read(folder: Path, **settings):  # type: ignore[no-untyped-def]
    return read_dataset(DataSpec(source=str(folder), **settings))


def causes(data: Dataset) -> list[str]:
    return [finding.cause for finding in data.findings]


def test_pictures_with_sidecars_come_sorted_with_captions_and_sizes(tmp_path: Path) -> None:
    for name in ("c.png", "a.jpg", "b.WEBP"):
        picture(tmp_path / name, f"caption {name}")
    picture(tmp_path / ".hidden.png")
    (tmp_path / "notes.md").write_text("x")
    data = read(tmp_path)
    assert [(e.name, e.caption, e.size_px) for e in data.examples] == [
        ("a.jpg", "caption a.jpg", (8, 6)),
        ("b.WEBP", "caption b.WEBP", (8, 6)),
        ("c.png", "caption c.png", (8, 6)),
    ]
    assert data.found == ("3 pictures: pictures with .txt captions beside them",)
    assert causes(data) == [f"1 other file in {tmp_path.name}/ left out"]
    assert np.asarray(data.examples[2].open()).shape == (6, 8, 3)


def test_missing_captions_name_the_first_files_and_the_way_out(tmp_path: Path) -> None:
    for index in range(5):
        picture(tmp_path / f"{index}.png", "x" if index == 0 else None)
    with pytest.raises(
        DataError, match=r"4 of 5 pictures have no caption \(1.png, 2.png, 3.png …\).*--caption"
    ):
        read(tmp_path)
    captions = [example.caption for example in read(tmp_path, caption="a dog", trigger="sks").examples]
    assert captions == ["sks, x"] + ["sks, a dog"] * 4


def test_kohya_folders_give_captions_and_proportions(tmp_path: Path) -> None:
    picture(tmp_path / "10_sks dog" / "a.png")
    picture(tmp_path / "10_sks dog" / "b.png", "a sleeping dog")
    picture(tmp_path / "5_cat" / "c.png")
    picture(tmp_path / "beside.png", "x")
    data = read(tmp_path)
    assert [(e.name, e.caption, e.repeats) for e in data.examples] == [
        ("10_sks dog/a.png", "sks dog", 2),
        ("10_sks dog/b.png", "a sleeping dog", 2),
        ("5_cat/c.png", "cat", 1),
    ]
    assert data.epoch == (0, 0, 1, 1, 2)
    assert "kohya folders" in data.found[0]
    assert causes(data) == ["1 picture is not read: 1 in the folder itself"]


def test_metadata_jsonl_is_read_and_its_order_does_not_matter(tmp_path: Path) -> None:
    picture(tmp_path / "b.png", seed=1)
    picture(tmp_path / "sub" / "a.png", seed=2)
    picture(tmp_path / "unnamed.png", seed=3)
    rows = [{"file_name": "sub/a.png", "text": "an a"}, {"file_name": "b.png", "text": "a b"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = read(tmp_path)
    assert [(e.name, e.caption) for e in data.examples] == [("b.png", "a b"), ("sub/a.png", "an a")]
    assert causes(data) == ["1 picture without a row in metadata.jsonl left out"]


def test_metadata_csv_is_read_with_quotes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"red, round"\n')
    assert read(tmp_path).examples[0].caption == "red, round"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("{", "line 1: not valid JSON"),
        ("[1]", "expected an object"),
        ('{"text": "a"}', "no 'file_name'"),
        ('{"file_name": "../a.png", "text": "a"}', "outside of the data folder"),
        ('{"file_name": "gone.png", "text": "a"}', "no such picture"),
        ('{"file_name": "a.png"}\n{"file_name": "a.png"}', "more than one row"),
        ("", "no rows"),
    ],
)
def test_malformed_metadata_is_one_clear_error(tmp_path: Path, lines: str, words: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(lines)
    with pytest.raises(DataError, match=words):
        read(tmp_path)


@pytest.mark.parametrize(
    "name", ["../secret/a.png", "sub/../../secret/a.png", "/etc/a.png", "..\\\\a.png", "C:a.png"]
)
def test_metadata_cannot_name_what_is_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "secret" / "a.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.jsonl").write_text(f'{{"file_name": "{name}", "text": "a"}}')
    with pytest.raises(DataError, match="outside"):
        read(tmp_path / "data")


def test_links_to_pictures_are_read_with_metadata_as_they_are_without(tmp_path: Path) -> None:
    """The layout of a hub snapshot: every file is a link to a blob beside the snapshots."""
    picture(tmp_path / "blobs" / "0a1b.png")
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "a.png").symlink_to("../../blobs/0a1b.png")
    without = read(snapshot, caption="an a")
    (snapshot / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "an a"}')
    assert read(snapshot).fingerprint == without.fingerprint


def test_broken_picture_stops_or_is_left_out_as_asked(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", "x")
    picture(tmp_path / "b.png", "x")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"b.png: not readable"):
        read(tmp_path)
    data = read(tmp_path, skip_bad_images=True)
    assert [example.name for example in data.examples] == ["a.png"]
    [finding] = data.findings
    assert (finding.severity, finding.kind, finding.pictures) == ("warning", "unreadable", ("b.png",))
    assert "1 picture cannot be read and left out; first:" in finding.cause


def test_gigantic_picture_says_what_to_do(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", "x")
    with pytest.raises(DataError, match=r"a.png: 8 × 6 px.*data.max_megapixels"):
        read(tmp_path, max_megapixels=1e-5)


def test_nothing_usable_says_what_was_found_instead(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing found"):
        read(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read(tmp_path / "gone")
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"but a.gif. Convert"):
        read(tmp_path)
    (tmp_path / "a.gif").unlink()
    picture(tmp_path / "sub" / "a.png")
    with pytest.raises(DataError, match=r"but in sub/. Name that folder, or pass --recursive"):
        read(tmp_path)
    with pytest.raises(DataError, match="no data was named"):
        read_dataset(DataSpec())


def test_one_picture_can_be_named_directly(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", "a thing")
    data = read(tmp_path / "a.png")
    assert [(e.name, e.caption) for e in data.examples] == [("a.png", "a thing")]
    assert data.found == ("one picture",)


@pytest.mark.parametrize("change", ["pixels", "caption", "name"])
def test_fingerprint_changes_with_what_is_trained_on_and_with_nothing_else(
    tmp_path: Path, change: str
) -> None:
    picture(tmp_path / "one" / "a.png", "x", seed=1)
    picture(tmp_path / "two" / "a.png", "x", seed=1)
    (tmp_path / "two" / "notes.md").write_text("x")
    assert read(tmp_path / "one").fingerprint == read(tmp_path / "two").fingerprint
    name = "b.png" if change == "name" else "a.png"
    picture(
        tmp_path / "three" / name, "y" if change == "caption" else "x", seed=2 if change == "pixels" else 1
    )
    assert read(tmp_path / "one").fingerprint != read(tmp_path / "three").fingerprint


def many(folder: Path, number: int):  # type: ignore[no-untyped-def]
    for index in range(number):
        picture(folder / f"{index:02d}.png", "x", seed=index)
    return read(folder)


def test_held_out_pictures_depend_on_seed_and_names_alone(tmp_path: Path) -> None:
    data = many(tmp_path, 16)
    train, held_out = split_holdout(data, 0.25, seed=0)
    again = split_holdout(data, 0.25, seed=0)[1]
    other = split_holdout(data, 0.25, seed=1)[1]
    assert (len(train), len(held_out)) == (12, 4)
    assert held_out.examples == again.examples != other.examples
    assert sorted(e.name for e in (*train.examples, *held_out.examples)) == [e.name for e in data.examples]


@pytest.mark.parametrize("seed", range(4))
def test_a_repeated_picture_is_on_one_side_alone(tmp_path: Path, seed: int) -> None:
    for index in range(6):
        picture(tmp_path / "3_dog" / f"{index}.png", "x", seed=index)
        picture(tmp_path / "1_cat" / f"{index}.png", "x", seed=100 + index)
    data = read(tmp_path)
    train, held_out = split_holdout(data, 0.5, seed=seed)
    assert {e.repeats for e in data.examples} == {1, 3}
    assert sorted(e.name for e in (*train.examples, *held_out.examples)) == [e.name for e in data.examples]
    assert not {e.sha256 for e in train.examples} & {e.sha256 for e in held_out.examples}
    assert len(train.epoch) == sum(e.repeats for e in train.examples)


@pytest.mark.parametrize(
    ("number", "share", "expected"), [(5, 0.0, 0), (5, 0.01, 1), (3, 0.99, 2), (1, 0.5, 0)]
)
def test_holdout_leaves_something_on_both_sides(
    tmp_path: Path, number: int, share: float, expected: int
) -> None:
    assert len(split_holdout(many(tmp_path, number), share, seed=0)[1]) == expected


def test_copies_of_a_picture_are_held_out_together(tmp_path: Path) -> None:
    for index in range(12):
        picture(tmp_path / f"{index:02d}.png", "x", seed=index // 2)
    for seed in range(5):
        train, held_out = split_holdout(read(tmp_path), 0.5, seed=seed)
        assert len(held_out) == 6
        assert not {e.sha256 for e in train.examples} & {e.sha256 for e in held_out.examples}
