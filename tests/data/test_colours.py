"""Colours come out as the profile means them, checked against closed forms, or the picture is named."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from detour.data.folder import read_dataset
from detour.data.pictures import open_alpha, open_picture, read_picture
from detour.specs import DataSpec
from tests.data.profiles import ADOBE_RGB, SRGB, cmyk_profile, encoded, grey_profile, linear, rgb_profile
from tests.data.test_pictures import encoded as as_file

COLOURS = np.array(
    [[150, 60, 60], [40, 120, 200], [250, 250, 20], [7, 7, 7], [255, 255, 255]], dtype=np.uint8
)


def strip(colours: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(colours[None]))


def in_srgb(colours: np.ndarray) -> np.ndarray:
    """Adobe's primaries to sRGB's: the closed form."""
    to_srgb = np.linalg.inv(np.array(SRGB).T) @ np.array(ADOBE_RGB).T
    return 255 * encoded(linear(colours / 255) @ to_srgb.T)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_profile_with_other_primaries_is_converted(kind: str) -> None:
    wide = np.repeat(np.repeat(COLOURS[:1, None], 16, axis=0), 16, axis=1)
    settings = {"PNG": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 100}}[kind]
    file = as_file(Image.fromarray(wide), kind, icc_profile=rgb_profile(ADOBE_RGB), **settings)
    found = np.asarray(open_picture(file, max_megapixels=1.0))[8, 8]
    assert np.abs(found - in_srgb(COLOURS[:1])[0]).max() <= 2, found
    assert found[0] == pytest.approx(171, abs=2)


def test_every_colour_follows_the_closed_form_and_alpha_is_kept() -> None:
    file = as_file(strip(COLOURS), "PNG", icc_profile=rgb_profile(ADOBE_RGB))
    assert np.abs(np.asarray(open_picture(file, max_megapixels=1.0))[0] - in_srgb(COLOURS)).max() <= 1.5
    clear = strip(COLOURS).convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 0))
    file = as_file(clear, "PNG", icc_profile=rgb_profile(ADOBE_RGB))
    assert (np.asarray(open_picture(file, max_megapixels=1.0)) == 255).all()


@pytest.mark.parametrize("whose", ["ours", "littlecms"])
def test_pixels_with_a_profile_of_srgb_are_left_to_the_bit(whose: str) -> None:
    profile = (
        rgb_profile(SRGB)
        if whose == "ours"
        else ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    found = read_picture(as_file(noise, "PNG", icc_profile=profile), max_megapixels=1.0)
    assert np.array_equal(np.asarray(found.image), np.asarray(noise))
    assert found.remarks == ()


def test_grey_with_a_profile_is_converted() -> None:
    file = as_file(Image.new("L", (4, 4), 128), "PNG", icc_profile=grey_profile(1.0))
    expected = 255 * float(encoded(np.array(128 / 255)))
    assert np.asarray(open_picture(file, max_megapixels=1.0))[0, 0] == pytest.approx([expected] * 3, abs=1.5)


def test_cmyk_is_converted_by_its_profile_and_named_without_one() -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    found = read_picture(as_file(cyan, "JPEG", quality=100, icc_profile=cmyk_profile()), max_megapixels=1.0)
    light = ((50 + 16) / 116) ** 3  # CIE L* 50
    assert np.asarray(found.image)[8, 8] == pytest.approx([255 * float(encoded(np.array(light)))] * 3, abs=3)
    assert found.remarks == ()
    bare = read_picture(as_file(cyan, "JPEG", quality=100), max_megapixels=1.0)
    assert bare.remarks == ("CMYK without a colour profile, its colours are a guess",)


def test_profiles_that_cannot_be_used_are_named() -> None:
    noise = strip(COLOURS)
    broken = read_picture(as_file(noise, "PNG", icc_profile=b"no profile"), max_megapixels=1.0)
    assert "cannot be read" in broken.remarks[0]
    foreign = read_picture(as_file(noise, "PNG", icc_profile=cmyk_profile()), max_megapixels=1.0)
    assert "one for other pixels" in foreign.remarks[0]
    for found in (broken, foreign):
        assert np.array_equal(np.asarray(found.image)[0], COLOURS)


def test_a_camera_that_says_adobe_rgb_without_a_profile_is_named() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    found = read_picture(as_file(strip(COLOURS), "JPEG", exif=exif), max_megapixels=1.0)
    assert [remark for remark in found.remarks if "Adobe RGB" in remark]


def png(width: int, depth: int, colour_type: int, row: bytes, transparent: bytes) -> bytes:
    """A PNG of one row, chunk by chunk."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, 1, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", head), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(
    ("file", "alpha", "shown"),
    [
        (png(2, 16, 0, struct.pack(">HH", 0x1234, 0x8000), b"\x12\x34"), [0, 255], [255, 128]),
        (png(2, 16, 0, struct.pack(">HH", 0x1235, 0x8000), b"\x12\x34"), [255, 255], [0x12, 128]),
        (png(2, 8, 0, bytes([10, 200]), b"\0\x0a"), [0, 255], [255, 200]),
        (png(2, 4, 0, b"\x3c", b"\0\x03"), [0, 255], [255, 12 * 17]),
        (png(4, 2, 0, bytes([0b00011011]), b"\0\x01"), [255, 0, 255, 255], [0, 255, 170, 255]),
        (png(8, 1, 0, b"\xf0", b"\0\x00"), [255] * 4 + [0] * 4, [255] * 8),
        (
            png(
                2,
                16,
                2,
                struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x8000, 0, 0),
                b"\x12\x34\x56\x78\x9a\xbc",
            ),
            [0, 255],
            [255, 128],
        ),
    ],
    ids=["grey16", "grey16 near", "grey8", "grey4", "grey2", "grey1", "rgb16"],
)
def test_a_transparent_colour_is_transparent_at_every_depth(
    file: bytes, alpha: list[int], shown: list[int]
) -> None:
    channel = open_alpha(file)
    assert channel is not None
    assert np.asarray(channel)[0].tolist() == alpha
    assert np.asarray(open_picture(file, max_megapixels=1.0))[0, :, 0].tolist() == shown


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_show_their_first_picture_and_are_named(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    stream = io.BytesIO()
    settings = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:], duration=100, **settings)
    (tmp_path / f"a.{kind.lower()}").write_bytes(stream.getvalue())
    (tmp_path / "b.png").write_bytes(as_file(strip(COLOURS), "PNG"))
    data = read_dataset(DataSpec(source=str(tmp_path), caption="x"))
    assert data.examples[0].open().getpixel((4, 4)) == (200, 0, 0)
    [finding] = data.findings
    assert (finding.kind, finding.pictures) == ("colours", (f"a.{kind.lower()}",))
    assert "an animation of 3 pictures" in finding.cause


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


SRGB_PLACES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
P3_PLACES = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


@pytest.mark.parametrize(
    ("chunks", "named"),
    [
        ({b"gAMA": struct.pack(">I", 45455), b"cHRM": struct.pack(">8I", *SRGB_PLACES)}, ""),
        ({b"cICP": bytes((1, 13, 0, 1))}, ""),
        ({b"gAMA": struct.pack(">I", 100000)}, "gAMA chunk"),
        ({b"gAMA": struct.pack(">I", 100000), b"sRGB": b"\0"}, ""),
        ({b"cHRM": struct.pack(">8I", *P3_PLACES)}, "cHRM chunk"),
        ({b"cICP": bytes((12, 13, 0, 1))}, "cICP chunk"),  # Display P3
        ({b"cICP": bytes((9, 16, 0, 1)), b"sRGB": b"\0"}, "cICP chunk"),  # BT.2100 with PQ
    ],
)
def test_a_png_whose_chunks_say_other_colours_is_named(chunks: dict[bytes, bytes], named: str) -> None:
    """Chunks stand behind the signature and the header, 8 and 25 bytes."""
    plain = as_file(strip(COLOURS), "PNG")
    file = plain[:33] + b"".join(chunk(name, data) for name, data in chunks.items()) + plain[33:]
    found = read_picture(file, max_megapixels=1.0)
    assert np.array_equal(np.asarray(found.image)[0], COLOURS)
    assert found.remarks == (
        (f"its {named} says other colours than sRGB's, and they are taken as sRGB",) if named else ()
    )
