from pathlib import Path

import pytest
import torch

from detour.bases.base import Base, open_base
from detour.generation.schedulers import TITLES, make_scheduler, start_sampler
from detour.specs.generation import SchedulerName
from tests.tiny_flow import make_tiny_sd3

CONFIG = open_base("sd15").scheduler_config()


@pytest.mark.parametrize("name", list(TITLES))
@pytest.mark.parametrize("base", ["pocket", "sd15", "sd21", "sdxl"])
def test_keeps_the_bases_schedule_and_prediction_type(name: str, base: str) -> None:
    config = open_base(base).scheduler_config()
    scheduler = make_scheduler(name, config)
    for key in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "prediction_type"):
        assert scheduler.config[key] == config[key]


@pytest.mark.parametrize("name", list(TITLES))
def test_latents_are_never_clipped_even_where_the_base_does_not_say_so(name: str) -> None:
    config = {key: value for key, value in CONFIG.items() if key != "clip_sample"}
    scheduler = make_scheduler(name, config)
    assert not scheduler.config.get("clip_sample", False)
    assert not scheduler.config.get("thresholding", False)


def test_dpm_plus_plus_is_2m_whatever_the_bases_own_solver_is() -> None:
    scheduler = make_scheduler("dpm++", {**CONFIG, "algorithm_type": "sde-dpmsolver++", "solver_order": 3})
    assert (scheduler.config.algorithm_type, scheduler.config.solver_order) == ("dpmsolver++", 2)


def test_euler_starts_from_noise_of_its_own_scale() -> None:
    euler = make_scheduler("euler", CONFIG)
    euler.set_timesteps(10)
    assert float(euler.init_noise_sigma) == pytest.approx(14.6, abs=0.1)


def test_schedulers_do_not_share_state() -> None:
    assert make_scheduler("dpm++", CONFIG) is not make_scheduler("dpm++", CONFIG)


def flow_of_a_gaussian(name: SchedulerName, steps: int, base: Base, *, std: float = 0.7) -> float:
    """How far a start noise of 1 ends from where it should: data that are a Gaussian of mean 0 end at ``std``."""
    scheduler = start_sampler(name, base, steps=steps, width_px=64, height_px=64)
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for timestep in scheduler.timesteps:
        sigma = float(timestep) / 1000
        var = (1 - sigma) ** 2 * std**2 + sigma**2
        clean, noise = (1 - sigma) * std**2 / var * x, sigma / var * x  # expectations of x0 and ε given x
        x = scheduler.step(noise - clean, timestep, x, return_dict=False)[0].double()
    return abs(float(x) - std)


def test_the_second_order_sampler_of_a_flow_comes_nearer_in_as_many_steps(tmp_path: Path) -> None:
    """Probability flow of a Gaussian: the exact solution scales every point by the standard deviation."""
    base = open_base(str(make_tiny_sd3(tmp_path, t5=False)))
    euler = [flow_of_a_gaussian("euler", steps, base) for steps in (40, 160)]
    second = [flow_of_a_gaussian("dpm++", steps, base) for steps in (40, 160)]
    assert second[0] < euler[0] / 4
    assert 3 < euler[0] / euler[1] < 4.5  # first order: the error falls as the step
    assert second[0] / second[1] > 5  # second order: faster, 16 in the limit


@pytest.mark.parametrize(("side_px", "shift"), [(512, 1.88), (768, 2.33), (1024, 3.16)])
def test_flux_dev_shifts_with_the_size_as_published(side_px: int, shift: float) -> None:
    base = open_base("flux-dev")
    scheduler = start_sampler("euler", base, steps=4, width_px=side_px, height_px=side_px)
    for even, level in zip((1, 0.75, 0.5, 0.25), scheduler.sigmas.tolist(), strict=False):
        assert level == pytest.approx(shift * even / (1 + (shift - 1) * even), abs=2e-3)
    assert base.process(side_px).at(0.5) == pytest.approx(shift / (1 + shift), abs=2e-3)
    schnell = start_sampler("euler", open_base("flux-schnell"), steps=4, width_px=side_px, height_px=side_px)
    assert schnell.sigmas.tolist() == [1, 0.75, 0.5, 0.25, 0]
