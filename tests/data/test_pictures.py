import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detour.data.pictures import open_picture
from detour.errors import DataError


def encoded(image: Image.Image, kind: str, **settings) -> bytes:  # type: ignore[no-untyped-def]
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def noise(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_three_formats_open_as_rgb(kind: str) -> None:
    image = open_picture(encoded(noise(), kind), max_megapixels=1.0)
    assert (image.mode, image.size) == ("RGB", (40, 30))


def test_lossless_pixels_come_through_unchanged(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    assert np.array_equal(
        np.asarray(open_picture(tmp_path / "a.png", max_megapixels=1.0)), np.asarray(noise())
    )


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    image = open_picture(encoded(noise(), "PNG", exif=exif), max_megapixels=1.0)
    assert image.size == (30, 40)
    assert np.array_equal(np.asarray(image), np.rot90(np.asarray(noise()), k=-1))


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert open_picture(encoded(clear, "PNG"), max_megapixels=1.0).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    grey = Image.fromarray(np.full((2, 2), 0x8000, dtype=np.uint16))
    assert open_picture(encoded(grey, "PNG"), max_megapixels=1.0).getpixel((0, 0)) == (128, 128, 128)


def test_truncated_picture_says_after_how_many_bytes(tmp_path: Path) -> None:
    data = encoded(noise(), "JPEG")
    path = tmp_path / "dog.jpg"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(
        DataError, match=rf"dog.jpg: not readable .*truncated after {len(data) // 2:,} bytes.*--skip"
    ):
        open_picture(path, max_megapixels=1.0)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused_whatever_they_are_called(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "fake.png"
    path.write_bytes(encoded(noise(), kind))
    with pytest.raises(DataError, match="not readable as PNG, JPEG or WEBP"):
        open_picture(path, max_megapixels=1.0)


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"not a picture", b"\xff\xd8\xff\xe0junk"])
def test_rubbish_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(DataError, match="not readable"):
        open_picture(data, max_megapixels=1.0, name="rubbish.png")


def test_gigantic_picture_is_refused_from_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("L", (2000, 1000)), "PNG")
    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "load", lambda self: pytest.fail("was decoded"))
        with pytest.raises(DataError, match=r"big.png: 2000 × 1000 px, 2 megapixels, the limit is 1\."):
            open_picture(data, max_megapixels=1.0, name="big.png")


def test_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: no such picture"):
        open_picture(tmp_path / "gone.png", max_megapixels=1.0)
