"""The training set's pictures on disk: rendered in pieces, by several processes, once."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from detour.pocket.pretrain.parts import SIZE_PX
from detour.pocket.world import render, training_example

PIECE = 512


def piece_path(work: Path, number: int) -> Path:
    """Where piece ``number`` stands: pictures ``number × PIECE`` and on."""
    return work / "pictures" / f"{number:04d}.npy"


def render_piece(work: Path, seed: int, number: int) -> None:
    """Draws one piece, unless it is there; it appears under its name when it is whole."""
    path = piece_path(work, number)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.empty((PIECE, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    for position in range(PIECE):
        example = training_example(seed, number * PIECE + position)
        drawn[position] = render(example.scene, example.style, size_px=SIZE_PX)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with temporary.open("wb") as file:
        np.save(file, drawn)
    temporary.replace(path)


def render_pictures(work: Path, *, seed: int, count: int, workers: int) -> None:
    """Draws the first ``count`` pictures (rounded up to whole pieces) that are not there yet."""
    numbers = [n for n in range(-(-count // PIECE)) if not piece_path(work, n).exists()]
    if workers == 1:
        for number in numbers:
            render_piece(work, seed, number)
        return
    with ProcessPoolExecutor(workers) as pool:
        for task in [pool.submit(render_piece, work, seed, number) for number in numbers]:
            task.result()


def count_ready(work: Path) -> int:
    """Number of pictures that stand on disk without a gap from the first on."""
    number = 0
    while piece_path(work, number).exists():
        number += 1
    return number * PIECE


def read_pictures(work: Path, *, count: int) -> NDArray[np.uint8]:
    """(count or fewer, 128, 128, 3): the pictures that are ready, copied into memory.

    Raises:
        FileNotFoundError: none is ready.
    """
    ready = min(count, count_ready(work))
    if ready == 0:
        raise FileNotFoundError(f"{work / 'pictures'}: no pictures yet. Run the stage 'pictures' first.")
    pictures = np.empty((ready, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    for start in range(0, ready, PIECE):
        piece = np.load(piece_path(work, start // PIECE), mmap_mode="r")
        pictures[start : start + PIECE] = piece[: ready - start]
    return pictures


def new_array(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:  # type: ignore[type-arg]
    """An array on disk, made if missing or of another shape, else opened for writing."""
    if path.exists():
        array: NDArray = np.load(path, mmap_mode="r+")  # type: ignore[type-arg]
        if array.shape == shape and array.dtype == dtype:
            return array
    return open_memmap(path, mode="w+", dtype=dtype, shape=shape)
