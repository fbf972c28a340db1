"""Makes copies of pictures on purpose, to measure how many copies are found."""

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from detour.evaluation.pixels import Pictures

Change = Callable[[Image.Image, np.random.Generator], Image.Image]

SIDE_PX = 256
"""Side in pixels to which larger pictures are reduced first."""
JPEG_QUALITY = 40


def planted_copies(pictures: Pictures, *, seed: int = 0) -> dict[str, Pictures]:
    """Kind of change → a changed copy of each picture.

    Args:
        pictures: uint8 (N, H, W, 3).
        seed: draws where crops, shifts and overlays lie.

    Returns:
        uint8 (N, h, w, 3) each, in the order of the pictures; the longer of h and w at most 256.
    """
    images = [_bounded(Image.fromarray(picture)) for picture in pictures]
    return {
        kind: np.stack(
            [
                np.asarray(change(image, np.random.default_rng([seed, index, place])), dtype=np.uint8)
                for index, image in enumerate(images)
            ]
        )
        for place, (kind, change) in enumerate(CHANGES.items())
    }


def _bounded(image: Image.Image) -> Image.Image:
    smaller = image.copy()
    smaller.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    return smaller


def _jpeg(image: Image.Image, _: np.random.Generator) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY)
    return Image.open(io.BytesIO(stream.getvalue())).convert("RGB")


def _brighter(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1.2)


def _darker(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.8)


def _paler(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return ImageEnhance.Color(image).enhance(0.6)


def _blurred(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(max(image.size) / 100))


def _mirrored(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _cropped(share: float) -> Change:
    """Crop ``share`` off each side in total, unevenly, and enlarge the rest."""

    def change(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        x, y = rng.random(2) * share
        width, height = image.size
        box = (x * width, y * height, (x + 1 - share) * width, (y + 1 - share) * height)
        return image.resize(image.size, Image.Resampling.BICUBIC, box=box)

    return change


def _shifted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Shift by up to a twentieth, with the edge repeated."""
    pixels = np.asarray(image)
    reach = max(1, max(image.size) // 20)
    down, right = (int(move) for move in rng.integers(-reach, reach + 1, 2))
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    top, left = reach - down, reach - right
    return Image.fromarray(padded[top : top + pixels.shape[0], left : left + pixels.shape[1]])


def _overlaid(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Put a label of one colour over a twentieth of the picture, near a corner."""
    pixels = np.array(image)
    height, width = pixels.shape[:2]
    tall, wide = round(0.13 * height), round(0.38 * width)
    top = round(0.04 * height) if rng.random() < 0.5 else round(0.83 * height)
    left = round(0.04 * width) if rng.random() < 0.5 else round(0.58 * width)
    pixels[top : top + tall, left : left + wide] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def _several(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _cropped(0.1)(_jpeg(_mirrored(_brighter(image, rng), rng), rng), rng)


CHANGES: Mapping[str, Change] = {
    "JPEG at quality 40": _jpeg,
    "20 % brighter": _brighter,
    "20 % darker": _darker,
    "paler": _paler,
    "blurred": _blurred,
    "mirrored": _mirrored,
    "cropped by 8 %": _cropped(0.08),
    "cropped by 15 %": _cropped(0.15),
    "shifted by up to 5 %": _shifted,
    "a label over it": _overlaid,
    "brighter, mirrored, JPEG, cropped by 10 %": _several,
}
