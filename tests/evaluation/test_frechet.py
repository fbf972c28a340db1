import math

import pytest
import torch

from detour.errors import ShapeMismatch
from detour.evaluation.frechet import PICTURES_A_WIDTH, frechet_distance, why_no_frechet
from tests.evaluation.looks import looks


def with_moments(mean: list[float], deviations: list[float]) -> torch.Tensor:
    """Points whose sample mean and sample covariance (diagonal) are exactly these: ± one axis at a time."""
    width = len(mean)
    reach = torch.diag(torch.tensor(deviations)) * math.sqrt((2 * width - 1) / 2)
    return torch.tensor(mean) + torch.cat([reach, -reach])


def test_it_is_the_closed_form_for_gaussians_of_diagonal_covariance() -> None:
    x, y = with_moments([0.0, 1.0, 2.0], [1.0, 2.0, 0.5]), with_moments([1.0, 1.0, 0.0], [3.0, 1.0, 0.5])
    by_hand = (1 + 0 + 4) + (1 - 3) ** 2 + (2 - 1) ** 2 + 0
    assert frechet_distance(x, y) == pytest.approx(by_hand, rel=1e-6)


def test_it_does_not_care_about_order_or_rotation_and_is_zero_for_equal_sets() -> None:
    x, y = looks(40, 0, width=6), looks(50, 1, shift=1.0, width=6)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double())
    distance = frechet_distance(x, y)
    assert frechet_distance(y, x) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(x.double() @ turn, y.double() @ turn) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_covariances_that_do_not_commute_agree_with_the_roots_of_their_product() -> None:
    x, y = looks(40, 0, width=5).double(), looks(40, 1, shift=2.0, width=5).double()
    product = torch.cov(x.T) @ torch.cov(y.T)
    trace = (
        torch.linalg.eigvals(product).sqrt().sum().real
    )  # the trace of a root is the sum of its eigenvalues
    expected = (
        (x.mean(0) - y.mean(0)).square().sum() + torch.cov(x.T).trace() + torch.cov(y.T).trace() - 2 * trace
    )
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-9)


def test_too_few_pictures_are_a_reason_with_both_numbers() -> None:
    width = 4
    enough, few = (
        looks(PICTURES_A_WIDTH * width, 0, width=width),
        looks(PICTURES_A_WIDTH * width - 1, 1, width=width),
    )
    assert why_no_frechet(enough, enough) is None
    said = why_no_frechet(enough, few)
    assert said is not None
    assert "need 8 pictures" in said
    assert "has 7" in said
    with pytest.raises(ShapeMismatch):
        frechet_distance(enough, few[:1])
