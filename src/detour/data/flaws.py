"""What makes a picture a poor example, as figures: blur, and marks that stand in the same place of many pictures."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detour.data.likeness import mirrored_hash, perceptual_hash

BLUR_WINDOW = 11
LONG_SIDE_PX = 512
LOOK_PX = 1024
THUMB = 96
COHERENCE = 0.7
"""Share of the mean edge strength that is left when the edges of all pictures are added with their direction."""
MIN_EDGE = 3.0
"""Mean edge strength, in steps of 255, below which a place says nothing."""
MIN_MARK_PX = 12
"""Places of a 96 × 96 picture that a mark covers at least."""
MIN_DENSITY = 0.3
"""Share of the places around one that agree as well, inside a mark."""
MAX_MARK_SHARE = 0.2
"""Largest share of the picture's area that counts as a mark on it."""
MAX_ELSEWHERE = 0.25
"""Agreeing places outside the mark, as a share of those inside."""
MIN_PICTURES = 8
"""Number of pictures below which chance alone leaves too many edges in the same place."""


def blur(image: Image.Image) -> float:
    """How little a picture changes when it is blurred, 0 (sharp) to 1; above 0.6 looks blurred to most people.

    Source: Crété-Roffet et al. 2007, "The blur effect: perception and estimation with a new no-reference perceptual
    blur metric".
    """
    small = image.convert("L")
    small.thumbnail((LONG_SIDE_PX, LONG_SIDE_PX), Image.Resampling.LANCZOS)
    grey = np.asarray(small, dtype=np.float64)
    return max(_blur_along(grey), _blur_along(grey.T))


def _blur_along(grey: NDArray[np.float64]) -> float:
    if grey.shape[0] <= BLUR_WINDOW:
        return 0.0
    sums = np.cumsum(np.pad(grey, ((1, 0), (0, 0))), axis=0)
    smooth = (sums[BLUR_WINDOW:] - sums[:-BLUR_WINDOW]) / BLUR_WINDOW
    inner = grey[BLUR_WINDOW // 2 : grey.shape[0] - BLUR_WINDOW // 2]
    sharp_steps, smooth_steps = np.abs(np.diff(inner, axis=0)), np.abs(np.diff(smooth, axis=0))
    total = float(sharp_steps.sum())
    lost = float(np.maximum(0.0, sharp_steps - smooth_steps).sum())
    return 1.0 - lost / total if total > 0 else 0.0


@dataclass(frozen=True)
class Mark:
    """Something that stands in the same place of many pictures, such as a watermark.

    Attributes:
        left, top, right, bottom: its box as shares of the picture's sides.
        strength: 0 to 1; 1 is the same in every picture.
    """

    left: float
    top: float
    right: float
    bottom: float
    strength: float

    @property
    def where(self) -> str:
        """Say the place in words: ``bottom right``."""
        x, y = (self.left + self.right) / 2, (self.top + self.bottom) / 2
        row = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else "middle"
        column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else "centre"
        return f"{row} {column}"


def thumbnail(image: Image.Image) -> NDArray[np.float32]:
    """What :func:`common_mark` compares: the picture squeezed to 96 × 96, grey, float32 in [0, 255]."""
    grey = image.convert("L").resize((THUMB, THUMB), Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.float32)


def common_mark(thumbs: NDArray[np.float32], control: NDArray[np.float32] | None = None) -> Mark | None:
    """A mark in most of the pictures, or ``None``.

    Edges of different pictures point anywhere, so their sum is about √n of n; edges of a mark add up. Finds what is
    compact and stands in three pictures of four and more. Says nothing where edges agree all over: that is a style
    with a fixed texture, or a layout that repeats.

    Args:
        thumbs: float32 (N, 96, 96), from :func:`thumbnail`.
        control: float32 (M, 96, 96), pictures of the same things that cannot have the mark. What repeats in them as
            well, such as a sun that always stands in a corner, is taken off, and much fainter marks are left.
    """
    if len(thumbs) < MIN_PICTURES or (control is not None and len(control) < MIN_PICTURES):
        return None
    down, right, strength = _edge_field(thumbs)
    together = np.hypot(down, right)
    agreeing = (together > COHERENCE * strength) & (strength > MIN_EDGE)
    if control is not None:
        control_down, control_right, control_strength = _edge_field(control)
        beyond = np.hypot(down - control_down, right - control_right)
        agreeing &= beyond > COHERENCE * np.maximum(strength, control_strength)
    dense = _density(agreeing) > MIN_DENSITY
    if agreeing.sum() < MIN_MARK_PX or not dense.any():
        return None
    patch = dense if control is None else _largest_patch(dense)
    rows, columns = np.nonzero(patch)
    top, bottom, left, right_end = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    inside = agreeing[top:bottom, left:right_end]
    # With a control, single places far from each other are chance; without one they hint at a layout.
    all_agreeing = agreeing.sum() if control is None else (agreeing & dense).sum()
    if (
        inside.sum() < MIN_MARK_PX
        or inside.size > MAX_MARK_SHARE * agreeing.size
        or all_agreeing - inside.sum() > MAX_ELSEWHERE * inside.sum()
    ):
        return None
    share = together[top:bottom, left:right_end][inside] / strength[top:bottom, left:right_end][inside]
    x0, y0, x1, y1 = (float(side) / THUMB for side in (left, top, right_end, bottom))
    return Mark(x0, y0, x1, y1, strength=float(share.mean()))


def _edge_field(
    thumbs: NDArray[np.float32],
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Mean gradient downwards and to the right, and mean edge strength: three of (96, 96)."""
    down, right = np.gradient(thumbs, axis=(1, 2))
    return down.mean(axis=0), right.mean(axis=0), np.hypot(down, right).mean(axis=0)


def _largest_patch(places: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest of the patches that hang together, gaps of two places bridged."""
    reach = 2
    padded = np.pad(places, reach)
    near = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1)).any(axis=(2, 3))
    left, best = near.copy(), np.zeros_like(places)
    while left.any():
        patch = np.zeros_like(places)
        patch[tuple(np.argwhere(left)[0])] = True
        grown = 0
        while patch.sum() > grown:
            grown = int(patch.sum())
            for axis in (0, 1):
                for step in (-1, 1):
                    moved = np.roll(patch, step, axis=axis)
                    edge = 0 if step == 1 else -1
                    moved[(edge, slice(None)) if axis == 0 else (slice(None), edge)] = False
                    patch |= moved & near
        left &= ~patch
        if (patch & places).sum() > best.sum():
            best = patch & places
    return best


def _density(places: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Share of the places in the 7 × 7 window around each."""
    padded = np.pad(places.astype(np.float64), 3)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7))
    return np.asarray(windows.mean(axis=(2, 3)))


def border_px(image: Image.Image) -> int:
    """Width of a frame of one colour around the picture, pixels; 0 without one.

    Two opposite sides count (bars), when they have the same colour; a picture of one colour has no frame.
    """
    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return max(_bars(pixels), _bars(pixels.transpose(1, 0, 2)))


def _bars(pixels: NDArray[np.uint8]) -> int:
    """Rows of one colour at both ends; 0 where all rows are."""
    colour = pixels[0, 0].astype(np.int16)

    def is_flat(row: NDArray[np.uint8]) -> bool:
        return bool((np.abs(row - colour) <= 6).all())

    first = next((number for number, row in enumerate(pixels) if not is_flat(row)), None)
    if first is None:
        return 0
    last = next(number for number, row in enumerate(pixels[::-1]) if not is_flat(row))
    return min(first, last) if min(first, last) >= 2 else 0


@dataclass(frozen=True)
class PictureFacts:
    """What is kept of a picture that was looked at, to find flaws of the whole set.

    Attributes:
        blur: see :func:`blur`.
        border: width of its frame as a share of its shorter side.
        hash: bool (63,), see :func:`detour.data.likeness.perceptual_hash`.
        mirrored: bool (63,) of the mirrored picture.
        thumb: uint8 (96, 96), what :func:`common_mark` compares.
        remarks: on what could not be taken over from its file.
    """

    blur: float
    border: float
    hash: NDArray[np.bool_]
    mirrored: NDArray[np.bool_]
    thumb: NDArray[np.uint8]
    remarks: tuple[str, ...] = ()


def look_at(image: Image.Image, remarks: tuple[str, ...] = ()) -> PictureFacts:
    """Everything about one RGB picture that flaws are found by.

    All but the frame are measured on a picture whose longer side is 1,024 to 2,047 px where the original is larger:
    nothing that is measured is finer, and photographs take half the time.
    """
    grey = image.convert("L")
    if (factor := max(grey.size) // LOOK_PX) > 1:
        grey = grey.reduce(factor)
    return PictureFacts(
        blur=blur(grey),
        border=border_px(image) / min(image.size),
        hash=perceptual_hash(grey),
        mirrored=mirrored_hash(grey),
        thumb=thumbnail(grey).astype(np.uint8),
        remarks=remarks,
    )
