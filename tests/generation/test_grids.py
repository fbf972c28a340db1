import numpy as np
import pytest

from detour.generation.grids import GAP_PX, grid, label_font, wrap


def plain(num: int, height: int = 20, width: int = 30) -> np.ndarray:
    """Pictures of one colour each."""
    values = np.arange(1, num + 1, dtype=np.uint8) * 10
    return np.broadcast_to(values[:, None, None, None], (num, height, width, 3)).copy()


def test_pictures_stand_row_by_row_at_their_own_size() -> None:
    sheet = np.asarray(grid(plain(5), 3))
    assert sheet.shape == (GAP_PX + 2 * (20 + GAP_PX), 2 * GAP_PX + 3 * 30 + 2 * GAP_PX, 3)
    for index in range(5):
        row, column = divmod(index, 3)
        top, left = GAP_PX + row * (20 + GAP_PX), GAP_PX + column * (30 + GAP_PX)
        assert (sheet[top : top + 20, left : left + 30] == 10 * (index + 1)).all()
    assert (sheet[-GAP_PX - 1, -GAP_PX - 1] == 255).all()


def test_labels_take_room_of_their_own_and_cover_no_picture() -> None:
    pictures = plain(4, 64, 64)
    labelled = np.asarray(grid(pictures, 2, row_labels=["one", "two"], column_labels=["left", "right"]))
    assert labelled.shape[0] > np.asarray(grid(pictures, 2)).shape[0] + 30
    for index in range(4):
        assert (labelled == 10 * (index + 1)).all(axis=2).sum() == 64 * 64
    assert (labelled[: GAP_PX + 10] < 100).any()


def test_long_labels_are_wrapped_to_the_width_and_cut_after_three_lines() -> None:
    font = label_font(12)
    lines = wrap("a red house in the desert at night beside a blue cat " * 4, font, 120)
    assert len(lines) == 3
    assert all(font.getlength(line) <= 120 for line in lines)
    assert lines[-1].endswith("…")
    assert wrap("short", font, 120) == ["short"]
    assert font.getlength(wrap("w" * 200, font, 120)[0]) <= 120


def test_the_font_knows_more_than_ascii() -> None:
    missing = label_font(16).getmask(chr(0x10FFFF))
    assert bytes(label_font(16).getmask("Ж")) != bytes(missing)


@pytest.mark.parametrize(
    ("num", "columns", "rows", "heads"),
    [(0, 1, [], []), (2, 0, [], []), (2, 1, ["one"], []), (2, 2, [], ["one"])],
)
def test_labels_that_do_not_fit_are_refused(
    num: int, columns: int, rows: list[str], heads: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"grid|labels"):
        grid(plain(num), columns, row_labels=rows, column_labels=heads)
