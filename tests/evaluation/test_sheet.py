from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detour.evaluation.sheet import MAX_CELL_PX, draw_sheet, write_sheet
from tests.evaluation.stories import pair


def found_in(sheet: np.ndarray, picture: np.ndarray) -> bool:
    side = picture.shape[0]
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (side, side, 3))[:, :, 0]
    return bool((windows == picture).all(axis=(2, 3, 4)).any())


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_picture_stands_on_the_sheet(count: int) -> None:
    pairs = [pair(f"prompt {i}", seed=i, side=8) for i in range(count)]
    sheet = np.array(draw_sheet(pairs))
    for one in pairs:
        assert one.truth is not None
        assert all(found_in(sheet, picture) for picture in (one.base, one.adapter, one.truth))


def test_prompts_are_written_and_long_ones_are_cut() -> None:
    with_words = np.array(draw_sheet([pair("a blue cat", side=64)]))
    without = np.array(draw_sheet([pair("", side=64)]))
    assert (with_words != without).any()
    assert draw_sheet([pair("words " * 100, side=64)]).size == draw_sheet([pair("", side=64)]).size


def test_large_pictures_are_scaled_down() -> None:
    sheet = draw_sheet([pair("a", side=2 * MAX_CELL_PX, truth=False)])
    assert sheet.width < 2 * MAX_CELL_PX + 60


def test_the_file_is_a_png(tmp_path: Path) -> None:
    write_sheet(tmp_path / "samples" / "sheet.png", [pair("a", truth=False)])
    with Image.open(tmp_path / "samples" / "sheet.png") as image:
        assert image.format == "PNG"
