import numpy as np
import pytest
import torch
from torch import Tensor

from detour.evaluation.checkpoints import Candidate, choose, paired_standard_error
from detour.evaluation.proof import VerdictName


def towards(target: Tensor, share: float, *, seed: int, noise: float = 0.1) -> Tensor:
    """(16, 8) rows of length one around a point between an odd place and ``target``."""
    generator = torch.Generator().manual_seed(seed)
    odd = torch.zeros(8)
    odd[0] = 1.0
    middle = share * target + (1 - share) * odd
    return torch.nn.functional.normalize(middle + noise * torch.randn(16, 8, generator=generator), dim=1)


TARGET = torch.eye(8)[1]
REFERENCES = towards(TARGET, 1.0, seed=99)


def candidate(
    step: int, share: float, verdict: VerdictName = "learned", *, seed: int | None = None
) -> Candidate:
    rows = towards(TARGET, share, seed=step if seed is None else seed)
    return Candidate(step=step, verdict=verdict, held_out_loss=0.2, features=rows)


def test_the_nearest_to_the_style_is_chosen_where_it_is_clearly_nearer() -> None:
    choice = choose([candidate(10, 0.2), candidate(20, 0.9), candidate(30, 0.5)], REFERENCES)
    assert (choice.step, choice.sound) == (20, True)
    assert choice.behind[20].difference == 0.0
    assert choice.behind[10].difference > choice.behind[10].standard_error > 0


def test_of_those_that_noise_alone_tells_apart_the_earliest_is_chosen() -> None:
    close = [candidate(10, 0.2), candidate(20, 0.9, seed=1), candidate(30, 0.9, seed=2)]
    rows = towards(TARGET, 0.9, seed=1)
    close[2] = Candidate(step=30, verdict="learned", features=torch.cat([rows[:15], REFERENCES[:1]]))
    choice = choose(close, REFERENCES)
    assert choice.step == 20
    assert "within one standard error" in choice.reason
    assert "step 30" in choice.reason


def test_a_nearer_one_that_something_speaks_against_is_passed_over() -> None:
    choice = choose([candidate(10, 0.6), candidate(20, 0.95, "copies")], REFERENCES)
    assert choice.step == 10
    assert list(choice.behind) == [10]


def test_a_measured_gain_comes_before_none() -> None:
    assert choose([candidate(10, 0.95, "inconclusive"), candidate(20, 0.6)], REFERENCES).step == 20


def test_where_everything_is_bad_it_says_so_and_names_the_least_bad() -> None:
    choice = choose([candidate(10, 0.3, "forgot_prompts"), candidate(20, 0.9, "overfit")], REFERENCES)
    assert (choice.step, choice.sound) == (20, False)
    assert choice.reason.startswith("None is good")


def test_without_pictures_to_compare_with_the_lowest_loss_decides_and_without_that_the_last() -> None:
    blind = [Candidate(step=s, verdict="learned", held_out_loss=x) for s, x in ((1, 0.3), (2, 0.1), (3, 0.2))]
    assert choose(blind, None).step == 2
    assert choose([Candidate(step=s, verdict="inconclusive") for s in (1, 2, 3)], None).step == 3


def test_the_jackknife_gives_the_standard_error_of_a_mean() -> None:
    """For a statistic that is a mean over prompts it is s / sqrt(n), whatever the seeds."""
    values = np.random.default_rng(0).normal(size=(12, 2))
    x, y = torch.from_numpy(values[:, :1]), torch.from_numpy(values[:, 1:])

    def mean(rows: Tensor, _references: Tensor) -> float:
        return float(rows.mean())

    measured = paired_standard_error(x, y, x, distance=mean)
    difference = values[:, 0] - values[:, 1]
    assert measured == pytest.approx(difference.std(ddof=1) / np.sqrt(12))
    twice = paired_standard_error(
        x.repeat_interleave(3, 0), y.repeat_interleave(3, 0), x, seeds=3, distance=mean
    )
    assert twice == pytest.approx(measured)
    assert paired_standard_error(x[:1], y[:1], x, distance=mean) == 0.0
