import pytest

from detour.bases.base import open_base
from detour.generation.schedulers import TITLES, make_scheduler

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
