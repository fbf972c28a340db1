"""The pictures of a style that the world does not draw: what was kept out and what was trained on, in two sets."""

import numpy as np
import pytest

from detour.verbs.judge.held_out_material import TrainingPictures, style_of_training


def numbered(first: int, count: int) -> np.ndarray:
    return (
        np.zeros((count, 4, 4, 3), np.uint8)
        + np.arange(first, first + count, dtype=np.uint8)[:, None, None, None]
    )


@pytest.mark.parametrize(("kept_out", "trained"), [(2, 6), (0, 5), (3, 200)])
def test_the_two_sets_share_no_picture_and_those_kept_out_come_first(kept_out: int, trained: int) -> None:
    pictures = TrainingPictures(
        train=numbered(0, trained), held_out=numbered(250, kept_out), train_captions=()
    )
    style = style_of_training(pictures)
    assert style is not None
    references, others = ({int(one[0, 0, 0]) for one in half} for half in (style.references, style.others))
    assert not references & others
    assert len(references) + len(others) == min(128, kept_out + trained)
    assert {250 + i for i in range(kept_out)} <= references | others
    assert abs(len(references) - len(others)) <= 1
    assert style_of_training(None) is None
