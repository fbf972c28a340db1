import pytest
import torch

from detour.errors import ShapeMismatch
from detour.evaluation.distance import permutation_p_value, style_distance


def features(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    drawn = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
    drawn[:, 0] += shift
    return torch.nn.functional.normalize(drawn, dim=-1)


def test_equal_sets_are_zero_apart() -> None:
    assert style_distance(features(8, 0), features(8, 0)) == pytest.approx(0.0, abs=1e-12)


def test_the_distance_grows_with_the_shift_and_does_not_care_about_order() -> None:
    x, near, far = features(24, 0), features(24, 1, 1.0), features(24, 1, 4.0)
    assert style_distance(x, near) < style_distance(x, far)
    assert style_distance(x, far) == pytest.approx(style_distance(far, x), abs=1e-12)


def test_it_equals_the_definition_written_out_by_hand() -> None:
    x, y = features(2, 0), features(3, 1)

    def mean_kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        total = sum(torch.exp(-(p - q).square().sum() / (2 * 0.5**2)).item() for p in a for q in b)
        return total / (len(a) * len(b))

    by_hand = mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)
    assert style_distance(x, y, bandwidth=0.5) == pytest.approx(by_hand, abs=1e-6)


def test_the_biased_estimate_is_never_negative() -> None:
    assert all(style_distance(features(8, seed), features(8, 100 + seed)) >= 0 for seed in range(20))


def test_permutation_tells_two_styles_apart_and_leaves_one_style_alone() -> None:
    assert permutation_p_value(features(16, 0), features(16, 1, 4.0), num_permutations=199) == 0.005
    assert permutation_p_value(features(16, 0), features(16, 1), num_permutations=199) > 0.05


def test_a_small_shift_of_very_different_prompts_is_found_because_pairs_are_kept_together() -> None:
    contents = torch.nn.functional.normalize(torch.eye(16), dim=-1)
    style = torch.nn.functional.normalize(contents + 0.3 * torch.ones(16) / 4, dim=-1)
    assert permutation_p_value(contents, style, num_permutations=199) <= 0.01


def test_sets_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="pair"):
        permutation_p_value(features(3, 0), features(4, 0))


def test_empty_or_unlike_sets_are_refused() -> None:
    with pytest.raises(ShapeMismatch):
        style_distance(features(0, 0), features(3, 0))
    with pytest.raises(ShapeMismatch):
        style_distance(features(3, 0), features(3, 0)[:, :4])
