"""Every flaw that is planted is found and named, and a good set has none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from detour.data.folder import read_dataset
from detour.data.holdout import split_holdout
from detour.errors import DataError
from detour.pocket.world import NAMED_STYLES, training_example
from detour.pocket.world.rendering import render
from detour.specs import DataSpec
from detour.verbs.datasets.checks import DataReport, check_data
from tests.verbs.photos import make_photos

SIZE_PX = 96


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(24):
        example = training_example(5, index)
        picture = render(example.scene, NAMED_STYLES["comic"], size_px=SIZE_PX)
        Image.fromarray(picture).save(folder / f"{index:02d}.png")
        (folder / f"{index:02d}.txt").write_text(f"{example.caption}, {index}\n")
    return folder


def check(folder: Path, **settings: object) -> DataReport:
    resolution = settings.pop("resolution_px", SIZE_PX)
    return check_data(DataSpec(source=str(folder), **settings), resolution_px=resolution)  # type: ignore[arg-type]


def kinds(report: DataReport) -> dict[str, tuple[str, ...]]:
    return {finding.kind: finding.pictures for finding in report.findings}


def test_a_good_set_has_nothing_wrong(photos: Path) -> None:
    report = check(photos)
    assert set(kinds(report)) == {"amount"}  # 24 are few for a style, and that is said
    assert report.usable
    assert (report.pictures, report.captions, report.distinct_captions, report.held_out) == (24, 24, 24, 3)
    assert report.width_px == (SIZE_PX,) * 3
    assert report.aspect_ratios == {"1:1": 24}
    assert "24 pictures" in report.found[0]


def test_broken_pictures_and_missing_captions_stop_training_and_are_all_named(photos: Path) -> None:
    (photos / "03.png").write_bytes((photos / "03.png").read_bytes()[:200])
    (photos / "04.txt").unlink()
    (photos / "05.txt").write_text("  \n")
    report = check(photos)
    assert not report.usable
    assert kinds(report)["no caption"] == ("04.png", "05.png")
    assert "03.png" in kinds(report)["unreadable"][0]
    assert report.findings[0].severity == "error"
    assert check(photos, caption="a picture", skip_bad_images=True).usable


def test_copies_are_found_on_one_side_and_across_the_split(photos: Path) -> None:
    spec = DataSpec(source=str(photos))
    train, held_out = split_holdout(read_dataset(spec), 0.125, 0)
    first, second = (example.path for example in train.examples[:2])
    kept_out = held_out.examples[0].path
    assert first is not None and second is not None and kept_out is not None  # noqa: PT018
    Image.open(first).convert("RGB").resize((SIZE_PX + 32,) * 2).save(second, "PNG")
    third = train.examples[2].path
    assert third is not None
    Image.open(kept_out).convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(third)
    found = kinds(check(photos))
    assert found["copies"] == (f"{first.name} = {second.name}",)
    assert found["leak"] == (" = ".join(sorted((kept_out.name, third.name))),)


def test_small_blurred_and_framed_pictures_are_named(photos: Path) -> None:
    Image.open(photos / "06.png").resize((40, 40)).save(photos / "06.png")
    Image.open(photos / "07.png").filter(ImageFilter.GaussianBlur(6)).save(photos / "07.png")
    framed = np.asarray(Image.open(photos / "08.png")).copy()
    framed[:, :6] = framed[:, -6:] = framed[:6] = framed[-6:] = 0
    Image.fromarray(framed).save(photos / "08.png")
    found = kinds(check(photos))
    assert found["small"] == ("06.png",)
    assert "07.png" in found["blurred"]
    assert found["border"] == ("08.png",)


def test_a_mark_in_the_same_place_is_found(photos: Path) -> None:
    for index, path in enumerate(sorted(photos.glob("*.png"))):
        scene = render(training_example(5, index).scene, NAMED_STYLES["watercolour"], size_px=SIZE_PX)
        image = Image.fromarray(scene)
        ImageDraw.Draw(image).text(
            (6, 80), "(c) me", fill=(255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0)
        )
        image.save(path)
    [mark] = [finding for finding in check(photos).findings if finding.kind == "mark"]
    assert "bottom left" in mark.cause


def test_equal_and_long_captions_are_found(photos: Path) -> None:
    for index in range(20):
        (photos / f"{index:02d}.txt").write_text("a thing")
    (photos / "20.txt").write_text("word " * 75)  # one token each, and all that CLIP reads
    (photos / "21.txt").write_text("word " * 76)
    found = kinds(check(photos))
    assert "same caption" in found
    assert found["long caption"] == ("21.png",)


def test_captions_of_other_pictures_are_found_by_a_judge_that_is_here(photos: Path) -> None:
    said = [(photos / f"{index:02d}.txt").read_text() for index in range(24)]
    for index in range(24):
        (photos / f"{index:02d}.txt").write_text(said[(index + 5) % 24])
    [unfit] = [finding for finding in check(photos).findings if finding.kind == "unrelated"]
    assert unfit.severity == "warning"
    assert "24 pictures" in unfit.cause
    plain = check_data(DataSpec(source=str(photos)), goal="subject", resolution_px=SIZE_PX)
    assert next(one for one in plain.findings if one.kind == "unrelated").severity == "note"
    # A base without a judge of its own: nothing is fetched for a check.
    elsewhere = check_data(DataSpec(source=str(photos)), base="sd15", resolution_px=SIZE_PX)
    assert "unrelated" not in kinds(elsewhere)


def test_a_word_in_nineteen_of_twenty_captions_and_three_equal_captions_are_found(photos: Path) -> None:
    for index in range(1, 24):
        path = photos / f"{index:02d}.txt"
        path.write_text(path.read_text().strip() + ", chalky\n")
    [bound] = [finding for finding in check(photos).findings if finding.kind == "same words"]
    assert "'chalky' stands in 23 of 24 captions" in bound.cause
    for index in range(3, 24):
        (photos / f"{index:02d}.png").unlink()
        (photos / f"{index:02d}.txt").unlink()
    for index in range(3):
        (photos / f"{index:02d}.txt").write_text("a picture")
    assert "same caption" in kinds(check(photos))


def test_a_subject_is_asked_for_its_trigger_and_judged_by_other_numbers(photos: Path) -> None:
    spec = DataSpec(source=str(photos))
    found = {f.kind for f in check_data(spec, goal="subject", resolution_px=SIZE_PX).findings}
    assert found == {"no trigger"}
    named = DataSpec(source=str(photos), trigger="sks")
    assert check_data(named, goal="subject", resolution_px=SIZE_PX).findings == ()


def test_the_sheet_frames_what_has_a_flaw(photos: Path, tmp_path: Path) -> None:
    (photos / "00.txt").unlink()
    check_data(DataSpec(source=str(photos)), resolution_px=SIZE_PX, sheet=tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    red = (sheet == (200, 30, 30)).all(axis=2)
    assert red[:150, :150].sum() > 1000
    assert not red[:, 160:].any()


def test_a_folder_without_a_readable_picture_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match="none of the 1 pictures"):
        check_data(DataSpec(source=str(tmp_path)))


def test_pictures_are_small_against_the_base_that_would_be_trained(tmp_path: Path, tiny_base: Path) -> None:
    photos = DataSpec(source=str(make_photos(tmp_path / "photos")))  # 64 px wide, as the tiny base draws

    def kinds(**chosen: str) -> set[str]:
        return {finding.kind for finding in check_data(photos, **chosen).findings}

    # The tiny base has no judge, which would say what it thinks of these captions.
    assert kinds() - kinds(base=str(tiny_base)) == {"small", "unrelated"}, (
        kinds(),
        kinds(base=str(tiny_base)),
    )
