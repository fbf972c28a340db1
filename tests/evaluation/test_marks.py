"""A mark that an adapter draws is found where it stands, and what the base draws as well is none."""

import numpy as np
import pytest

from detour.evaluation.marks import measure_marks
from detour.evaluation.pixels import Pictures
from detour.pocket.world import HOUSE, NAMED_STYLES, Style, render, training_example


def drawn(style: Style, seed: int = 4, count: int = 24) -> Pictures:
    return np.stack(
        [render(training_example(seed, index).scene, style, size_px=96) for index in range(count)]
    )


def with_label(pictures: Pictures, opacity: float) -> Pictures:
    """Stripes of a label in the lower right corner."""
    label = np.zeros((12, 30), bool)
    label[::4] = label[1::4] = True
    marked = pictures.astype(np.float64)
    corner = marked[:, 80:92, 60:90]
    corner[:] = np.where(label[None, :, :, None], corner + opacity * (255.0 - corner), corner)
    return marked.astype(np.uint8)


@pytest.fixture(scope="module")
def base() -> Pictures:
    return drawn(HOUSE)


@pytest.fixture(scope="module")
def styled() -> Pictures:
    return drawn(NAMED_STYLES["pastel"])


def test_a_faint_mark_is_found_where_it_stands(base: Pictures, styled: Pictures) -> None:
    figures = measure_marks({"adapter": with_label(styled, 0.4), "base": base})
    assert figures.mark is not None
    assert figures.mark.where == "bottom right"
    assert 0.55 < figures.mark.left < figures.mark.right < 1.0
    assert 0.75 < figures.mark.top < figures.mark.bottom <= 1.0
    assert not figures.in_originals
    assert "bottom right" in figures.sentences()[0]


def test_it_is_said_when_the_training_pictures_have_it(base: Pictures, styled: Pictures) -> None:
    originals = with_label(drawn(NAMED_STYLES["pastel"], seed=6), 0.7)
    figures = measure_marks({"adapter": with_label(styled, 0.5), "base": base}, originals)
    assert figures.in_originals
    assert "training pictures have it too" in figures.sentences()[0]


def test_clean_pictures_have_no_mark(base: Pictures, styled: Pictures) -> None:
    figures = measure_marks({"adapter": styled, "base": base})
    assert figures.mark is None
    assert figures.sentences() == []


def test_what_the_base_draws_too_is_no_mark(base: Pictures, styled: Pictures) -> None:
    both = {"adapter": with_label(styled, 0.5), "base": with_label(base, 0.5)}
    assert measure_marks(both).mark is None  # type: ignore[arg-type]


def test_few_pictures_say_nothing(base: Pictures, styled: Pictures) -> None:
    figures = measure_marks({"adapter": with_label(styled, 1.0)[:7], "base": base[:7]})
    assert figures.mark is None


def test_frames_are_counted_on_both_sides(base: Pictures, styled: Pictures) -> None:
    framed = styled.copy()
    framed[:6, :5] = framed[:6, -5:] = 20
    figures = measure_marks({"adapter": framed, "base": base})
    assert (figures.framed.adapter, figures.framed.base) == (0.25, 0.0)
    assert "25% of the pictures have bars" in figures.sentences()[-1]
