import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detour.data import pictures
from detour.data.pictures import BYTES_A_PIXEL, open_picture
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


MEASURE = """
import sys
from detour.data.pictures import read_picture

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

data = open(sys.argv[1], "rb").read()
before = peak()
read_picture(data, max_megapixels=100.0)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_large_grey_picture_of_sixteen_bits_is_decoded_within_the_limit(tmp_path: Path) -> None:
    """It took 24 bytes a pixel, 2.4 GB at 99 megapixels."""
    width, height = 6000, 4000
    row = np.arange(width, dtype=np.uint16)
    Image.fromarray(np.tile(row, (height, 1))).save(tmp_path / "a.png", compress_level=1)
    run = [sys.executable, "-c", MEASURE, str(tmp_path / "a.png")]
    taken = int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert taken < BYTES_A_PIXEL * width * height


def test_the_limit_in_bytes_is_told_from_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WebP takes 16 bytes a pixel, a PNG of the same size 4."""
    small = encoded(Image.new("RGB", (1000, 900)), "PNG")
    assert open_picture(small, max_megapixels=1.0).size == (1000, 900)
    data = encoded(Image.new("RGB", (1000, 900)), "WEBP")
    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "load", lambda self: pytest.fail("was decoded"))
        with pytest.raises(
            DataError, match=r"big.webp: 1000 × 900 px take 0.0 GB to decode.*Make it smaller"
        ):
            open_picture(data, max_megapixels=1.0, name="big.webp")
    assert open_picture(data, max_megapixels=2.0).size == (1000, 900)


def test_strips_make_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (57, 31, 4), dtype=np.uint8)
    file = encoded(Image.fromarray(pixels), "PNG")
    whole = np.asarray(open_picture(file, max_megapixels=1.0))
    monkeypatch.setattr(pictures, "STRIP_PIXELS", 100)
    assert np.array_equal(np.asarray(open_picture(file, max_megapixels=1.0)), whole)
    white = Image.new("RGBA", (31, 57), (255, 255, 255, 255))
    expected = Image.alpha_composite(white, Image.fromarray(pixels)).convert("RGB")
    assert np.array_equal(whole, np.asarray(expected))
