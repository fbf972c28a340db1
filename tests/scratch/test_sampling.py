"""The forward process and the samplers against diffusers' own, over whole walks."""

from typing import Any

import pytest
import torch
from torch import Tensor

from detour.diffusion.schedule import alphas_cumprod
from detour.scratch import ddim, ddpm
from detour.scratch.forward_process import betas_of, in_one_jump, joined_noise, shares, step_by_step
from detour.scratch.spacing import Spacing, timesteps
from tests.tiny_base import SCHEDULER

CLOSE = {"rtol": 0.0, "atol": 1e-5}
SHAPE = (2, 4, 8, 8)
SCHEDULES = [
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    {"beta_schedule": "squaredcos_cap_v2"},
]
ALPHAS = alphas_cumprod(SCHEDULER)


def noises(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator) for _ in range(count)]


def denoiser(noisy: Tensor, timestep: Tensor) -> Tensor:
    """Nearly the best guess for pictures of plain noise, so that walks stay of size one as true ones do."""
    return (1 - ALPHAS[timestep]).sqrt() * noisy + 0.1 * torch.tanh(3 * noisy)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s["beta_schedule"])
def test_jump_is_diffusers_add_noise(schedule: dict[str, Any]) -> None:
    from diffusers import DDPMScheduler

    clean, noise = noises(2)
    theirs = DDPMScheduler(**schedule)
    alphas = alphas_cumprod(schedule)
    assert torch.allclose(betas_of(alphas.double()).float(), theirs.betas, **CLOSE)
    for step in (0, 400, 999):
        expected = theirs.add_noise(clean, noise, torch.tensor([step, step]))
        assert torch.allclose(in_one_jump(clean, noise, alphas[step]), expected, **CLOSE)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s["beta_schedule"])
def test_a_thousand_steps_end_where_one_jump_lands(schedule: dict[str, Any]) -> None:
    alphas = alphas_cumprod(schedule).double()
    clean, *rest = (noise.double()[:, :, :2, :2] for noise in noises(1001))
    walked = list(step_by_step(clean, rest, betas_of(alphas)))
    for step in (1, 300, 1000):
        joined = joined_noise(rest[:step], alphas)
        assert torch.allclose(in_one_jump(clean, joined, alphas[step - 1]), walked[step - 1], **CLOSE)
        assert shares(alphas, step).square().sum().item() == pytest.approx(1 - alphas[step - 1].item())


@pytest.mark.parametrize(
    ("spacing", "offset"), [("leading", 0), ("leading", 1), ("linspace", 0), ("trailing", 0)]
)
@pytest.mark.parametrize("steps", [7, 20, 50])
def test_stops_are_diffusers(spacing: Spacing, offset: int, steps: int) -> None:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
    theirs.set_timesteps(steps)
    assert timesteps(steps, spacing=spacing, offset=offset).tolist() == theirs.timesteps.tolist()


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize(
    ("spacing", "offset"), [("leading", 0), ("leading", 1), ("linspace", 0), ("trailing", 0)]
)
def test_ddpm_walk_is_diffusers(
    variance: ddpm.Variance, spacing: Spacing, offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import DDPMScheduler
    from diffusers.schedulers import scheduling_ddpm

    settings = {**SCHEDULER, "timestep_spacing": spacing, "steps_offset": offset}
    theirs = DDPMScheduler.from_config(settings, variance_type=variance, clip_sample=False)
    theirs.set_timesteps(20)
    start, *fresh = noises(21)
    given = iter(fresh)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: next(given))
    noisy = start
    for stop in theirs.timesteps:
        noisy = theirs.step(denoiser(noisy, stop), stop, noisy).prev_sample
    stops = timesteps(20, spacing=spacing, offset=offset)
    mine = ddpm.sample(denoiser, start, stops, ALPHAS, fresh, variance=variance)
    assert torch.allclose(mine, noisy, **CLOSE)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("spacing", "offset"), [("leading", 0), ("leading", 1), ("trailing", 0)])
@pytest.mark.parametrize("to_one", [True, False])
def test_ddim_walk_is_diffusers(eta: float, spacing: Spacing, offset: int, to_one: bool) -> None:
    from diffusers import DDIMScheduler

    settings = {
        **SCHEDULER, "timestep_spacing": spacing, "steps_offset": offset, "set_alpha_to_one": to_one
    }  # fmt: skip
    theirs = DDIMScheduler.from_config(settings)
    theirs.set_timesteps(20)
    start, *fresh = noises(21)
    noisy = start
    for stop, noise in zip(theirs.timesteps, fresh, strict=True):
        noisy = theirs.step(denoiser(noisy, stop), stop, noisy, eta=eta, variance_noise=noise).prev_sample
    mine = ddim.sample(
        denoiser,
        start,
        timesteps(20, spacing=spacing, offset=offset),
        ALPHAS,
        final=float(theirs.final_alpha_cumprod),
        eta=eta,
        fresh=fresh if eta else (),
    )
    assert torch.allclose(mine, noisy, **CLOSE)


def test_ddim_with_eta_one_stumbles_as_ddpm_does() -> None:
    noisy, prediction, fresh = noises(3)
    alpha, alpha_next = ALPHAS[500], ALPHAS[450]
    assert torch.allclose(
        ddim.step(noisy, prediction, alpha, alpha_next, eta=1.0, fresh=fresh),
        ddpm.step(noisy, prediction, alpha, alpha_next, fresh),
        **CLOSE,
    )
