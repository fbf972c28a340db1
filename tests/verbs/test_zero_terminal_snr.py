"""A run on a schedule that ends in pure noise is drawn, proved and used on that schedule everywhere."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from detour.adapter_files import read_adapter
from detour.bases.base import open_base
from detour.errors import ConfigError
from detour.generation import schedulers
from detour.generation.schedulers import make_scheduler
from detour.specs import PictureSpec
from detour.specs.generation import GenerateSpec
from detour.training.assembly import as_trained
from detour.verbs.draw.pictures import generate_pictures
from detour.verbs.train.run import TrainResult, train_adapter
from tests.tiny_base import SIZE_PX
from tests.verbs.photos import make_photos, quick_spec


@pytest.fixture(scope="module")
def velocity_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(tiny_base, tmp_path_factory.mktemp("bases") / "velocity")
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"prediction_type": "v_prediction"}))
    return folder


@pytest.fixture(scope="module")
def schedules() -> list[dict[str, Any]]:
    """The scheduler settings of every picture that the module draws."""
    return []


@pytest.fixture(scope="module")
def trained(
    velocity_base: Path, tmp_path_factory: pytest.TempPathFactory, schedules: list[dict[str, Any]]
) -> TrainResult:
    place = tmp_path_factory.mktemp("zero")
    spec = quick_spec(
        velocity_base,
        make_photos(place / "photos"),
        train__loss__zero_terminal_snr=True,
        train__steps=2,
        sample__every=2,
    )
    with pytest.MonkeyPatch.context() as patch:
        _watch(patch, schedules)
        return train_adapter(spec, runs=place)


def _watch(patch: pytest.MonkeyPatch, schedules: list[dict[str, Any]]) -> None:
    def watched(name: Any, config: Any) -> Any:
        scheduler = make_scheduler(name, config)
        schedules.append(dict(scheduler.config))
        return scheduler

    patch.setattr(schedulers, "make_scheduler", watched)


def test_training_ends_in_pure_noise(velocity_base: Path) -> None:
    spec = quick_spec(velocity_base, Path("x"), train__loss__zero_terminal_snr=True, data__resolution=SIZE_PX)
    alphas = as_trained(open_base(str(velocity_base)), spec).process().alphas  # type: ignore[attr-defined]
    assert alphas[-1] == 0
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    expected = torch.cumprod(1 - rescale_zero_terminal_snr(betas), 0)
    torch.testing.assert_close(alphas, expected, rtol=1e-3, atol=1e-6)


def test_samples_and_proof_are_drawn_on_the_trained_schedule(
    trained: TrainResult, schedules: list[dict[str, Any]]
) -> None:
    assert len(schedules) >= 4  # a sheet, the trained pictures, and the sides of the proof
    assert all(s["rescale_betas_zero_snr"] and s["timestep_spacing"] == "trailing" for s in schedules)
    assert trained.proof is not None
    assert trained.proof.reload.max_abs_diff is not None
    assert trained.proof.reload.max_abs_diff <= 1


def test_the_file_says_so_and_is_drawn_on_its_schedule_later(
    trained: TrainResult, velocity_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_adapter(trained.adapter_file).metadata["ss_zero_terminal_snr"] == "True"
    seen: list[dict[str, Any]] = []
    _watch(monkeypatch, seen)
    spec = GenerateSpec(
        prompts=("picture",), base=str(velocity_base), device="cpu", picture=PictureSpec(steps=2)
    )
    generate_pictures(spec, out=tmp_path / "plain")
    generate_pictures(
        spec.model_copy(update={"loras": (str(trained.adapter_file),)}), out=tmp_path / "adapted"
    )
    assert [s["rescale_betas_zero_snr"] for s in seen] == [False, True]


@pytest.mark.parametrize("name", ["ddpm", "ddim", "euler", "dpm++"])
def test_samplers_begin_at_the_last_timestep_and_stay_finite(velocity_base: Path, name: Any) -> None:
    config = open_base(str(velocity_base)).with_zero_terminal_snr().scheduler_config()
    scheduler = make_scheduler(name, config)
    scheduler.set_timesteps(4)
    assert int(scheduler.timesteps[0]) == 999
    latents = torch.randn(1, 4, 8, 8) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        noisy = scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(0.1 * noisy, timestep, latents, return_dict=False)[0]
    assert torch.isfinite(latents).all()


def test_a_sampler_that_cannot_draw_on_the_schedule_is_refused(velocity_base: Path) -> None:
    config = open_base(str(velocity_base)).with_zero_terminal_snr().scheduler_config()
    with pytest.raises(ConfigError, match=r"pndm.*Choose dpm\+\+"):
        make_scheduler("pndm", config)
