import pytest
import torch

from detour.errors import ShapeMismatch
from detour.evaluation.distance import (
    cmmd,
    nearer_p_value,
    style_distance,
    two_sample_p_value,
)
from tests.evaluation.looks import looks


def test_equal_sets_are_zero_apart() -> None:
    assert style_distance(looks(8, 0), looks(8, 0)) == pytest.approx(0.0, abs=1e-12)


def test_the_distance_grows_with_the_shift_and_does_not_care_about_order() -> None:
    x, near, far = looks(24, 0), looks(24, 1, shift=1.0), looks(24, 1, shift=4.0)
    assert style_distance(x, near) < style_distance(x, far)
    assert style_distance(x, far) == pytest.approx(style_distance(far, x), abs=1e-12)


def test_it_equals_the_definition_written_out_by_hand() -> None:
    x, y = looks(2, 0), looks(3, 1)

    def mean_kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        total = sum(torch.exp(-(p - q).square().sum() / (2 * 0.5**2)).item() for p in a for q in b)
        return total / (len(a) * len(b))

    by_hand = mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)
    assert style_distance(x, y, bandwidth=0.5) == pytest.approx(by_hand, abs=1e-6)


def test_the_biased_estimate_is_never_negative() -> None:
    assert all(style_distance(looks(8, seed), looks(8, 100 + seed)) >= 0 for seed in range(20))


def test_sets_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="pair"):
        nearer_p_value(looks(3, 0), looks(4, 0), looks(3, 2))


def test_empty_or_unlike_sets_are_refused() -> None:
    with pytest.raises(ShapeMismatch):
        style_distance(looks(0, 0), looks(3, 0))
    with pytest.raises(ShapeMismatch):
        style_distance(looks(3, 0), looks(3, 0)[:, :4])


def test_cmmd_is_the_published_formula_and_nearly_ten_times_the_gap_of_the_means() -> None:
    x, y = looks(40, 0), looks(30, 1, shift=1.0)

    # As the authors' code has it: squared norms and dot products, gamma = 1 / (2 · 10²), times 1000.
    def mean_kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        squared = -2 * a @ b.T + (a @ a.T).diag()[:, None] + (b @ b.T).diag()[None]
        return torch.exp(-squared / 200).mean()

    a, b = x.double(), y.double()
    published = 1000 * (mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b))
    assert cmmd(x, y) == pytest.approx(float(published), rel=1e-9)
    assert cmmd(x, y) == pytest.approx(10 * float((a.mean(0) - b.mean(0)).square().sum()), rel=0.02)
    assert cmmd(looks(1, 0), -looks(1, 0)) == pytest.approx(
        2000 * (1 - torch.exp(torch.tensor(-0.02)).item())
    )


def test_a_set_is_told_apart_from_references_of_another_style_and_not_from_its_own() -> None:
    references = looks(24, 9, shift=3.0)
    assert two_sample_p_value(looks(16, 0), references, num_permutations=199) == 0.005
    assert two_sample_p_value(looks(16, 1, shift=3.0), references, num_permutations=199) > 0.05


def test_chance_is_told_apart_as_often_as_the_level_says() -> None:
    below = sum(
        two_sample_p_value(looks(8, 2 * i), looks(10, 2 * i + 1), num_permutations=99) <= 0.1
        for i in range(200)
    )
    assert 8 <= below <= 36  # 20 expected; both ends have a chance below 0.3 %


def test_labels_exchanged_within_prompts_do_not_tell_contents_apart() -> None:
    contents = 4 * torch.eye(16)[:4]
    mine, theirs = [0] * 9 + [1, 2, 3], [0] + [1] * 4 + [2] * 4 + [3] * 3
    x, y = (
        torch.nn.functional.normalize(contents[rows] + looks(12, seed), dim=-1)
        for rows, seed in ((mine, 0), (theirs, 1))
    )
    assert two_sample_p_value(x, y, num_permutations=199) < 0.02
    assert two_sample_p_value(x, y, strata=(mine, theirs), num_permutations=199) > 0.2
    with pytest.raises(ShapeMismatch, match="strata"):
        two_sample_p_value(x, y, strata=(mine, theirs[:-1]))


def test_nearer_is_one_sided() -> None:
    references, base = looks(32, 5, shift=2.0), looks(16, 0)
    towards = torch.nn.functional.normalize(base + torch.eye(16)[0] * 0.8, dim=-1)
    away = torch.nn.functional.normalize(base - torch.eye(16)[0] * 0.8, dim=-1)
    assert nearer_p_value(towards, base, references, num_permutations=199) == 0.005
    assert nearer_p_value(away, base, references, num_permutations=199) == 1.0
    assert nearer_p_value(base, base, references, num_permutations=199) == 1.0


def test_the_gain_of_nearer_is_the_difference_of_the_two_distances() -> None:
    x, y, references = looks(3, 0), looks(3, 1), looks(5, 2)
    gains = []
    for flips in range(8):
        kept = torch.tensor([bool(flips >> i & 1) for i in range(3)])[:, None]
        one, two = torch.where(kept, x, y), torch.where(kept, y, x)
        gains.append(style_distance(two, references) - style_distance(one, references))
    observed = gains[7]
    exact = sum(gain >= observed - 1e-12 for gain in gains) / 8
    assert nearer_p_value(x, y, references, num_permutations=4000) == pytest.approx(exact, abs=0.03)


def test_seeds_of_a_prompt_are_exchanged_together() -> None:
    x, y, references = looks(6, 0, shift=1.5), looks(6, 1), looks(5, 2, shift=4.0)
    gains = []
    for flips in range(8):  # three prompts of two seeds
        kept = torch.tensor([bool(flips >> (i // 2) & 1) for i in range(6)])[:, None]
        one, two = torch.where(kept, x, y), torch.where(kept, y, x)
        gains.append(style_distance(two, references) - style_distance(one, references))
    exact = sum(gain >= gains[7] - 1e-12 for gain in gains) / 8
    together = nearer_p_value(x, y, references, seeds=2, num_permutations=4000)
    assert together == pytest.approx(exact, abs=0.03)
    assert nearer_p_value(x, y, references, num_permutations=4000) < together
    with pytest.raises(ShapeMismatch, match="pair"):
        nearer_p_value(x, y, references, seeds=4)
