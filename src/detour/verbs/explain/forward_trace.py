"""The forward process on one picture: in one jump and step by step, what it does to the variance, and the way back."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from detour.bases.base import Base, open_base
from detour.bases.denoiser import Denoiser
from detour.bases.hardware import pick_device, set_threads
from detour.bases.latents import decode_latents
from detour.bases.text import Conditioning
from detour.diffusion.process import VariancePreserving
from detour.diffusion.randomness import noise_for
from detour.diffusion.schedule import alphas_cumprod
from detour.errors import ConfigError
from detour.scratch import ddim
from detour.scratch.forward_process import betas_of, in_one_jump, joined_noise, step_by_step
from detour.training.assembly import load_denoiser
from detour.verbs.explain import flow_trace as trace_flow
from detour.verbs.explain.example import open_example
from detour.verbs.explain.forward_result import FLOW, ForwardTrace, NoiseLevel
from detour.verbs.explain.slow_step import single_picture_data, single_picture_spec

ScheduleName = Literal["base", "scaled_linear", "linear", "squaredcos_cap_v2"]

RANGES: Mapping[str, tuple[float, float]] = {"scaled_linear": (0.00085, 0.012), "linear": (0.0001, 0.02)}
"""Betas where none are named: those of Stable Diffusion and those of the DDPM paper."""

VARIANCE_NOISES = 64
"""Noises over which the variance at a level is measured: one of a small latent is off by several per cent."""

STEPS_BETWEEN_LEVELS = 4
"""Steps of the way back from one level to the next."""


def trace_forward(
    *,
    picture: Path | None = None,
    caption: str | None = None,
    base: str = "pocket",
    revision: str | None = None,
    schedule: ScheduleName = "base",
    beta_start: float | None = None,
    beta_end: float | None = None,
    zero_terminal_snr: bool = False,
    levels: int = 10,
    seed: int = 0,
    device: str = "auto",
) -> ForwardTrace:
    """Drown one picture in noise twice, compare, and let the base find the way back.

    The walk takes every timestep with noise of its own; the jump takes the one noise that those add up to. Both are
    computed in float64, so what is left between them is rounding. The way back starts from the noisiest level and is
    DDIM without guidance; on a schedule that is not the base's, the UNet is asked at its own timestep of nearest ᾱ.
    A rectified flow walks along its velocity with one noise, and goes back by Euler's steps.

    Args:
        picture: a file; without it the embedded base's world draws one.
        caption: of the picture; without it the ``.txt`` beside it.
        base: whose latents, schedule and UNet are used.
        revision: of a hub id.
        schedule: ``base`` is the base's own.
        beta_start: first β; with ``schedule``'s usual value where it is not named.
        beta_end: last β.
        zero_terminal_snr: rescale the schedule so that it ends in pure noise.
        levels: of noise that are shown, at least two.
        seed: of all noise.
        device: as in training.

    Raises:
        ConfigError: fewer than two levels, or betas that make no schedule.
        BaseError, DataError: the base or the picture cannot be read.
    """
    if levels < 2:
        raise ConfigError(f"{levels} noise levels make no row. Ask for two or more.")
    opened = open_base(base, revision=revision)
    opened.require_weights()
    set_threads("auto")
    if opened.is_flow:
        _refuse_on_flow(opened, schedule, beta_start, beta_end, zero_terminal_snr=zero_terminal_snr)
        levels_of_flow = torch.tensor([trace_flow.level_of(step) for step in range(trace_flow.STEPS)])
        alphas, noises = (1 - levels_of_flow).square(), levels_of_flow.square()
        name = FLOW
    else:
        config = schedule_config(
            opened, schedule, beta_start=beta_start, beta_end=beta_end, zero_terminal_snr=zero_terminal_snr
        )
        alphas, name = alphas_cumprod(config), _schedule_name(config)
        noises = 1 - alphas
    spec = single_picture_spec(
        opened, rank=1, targets="attn", lr=1e-3, seed=seed, device=pick_device(device), dtype="fp32"
    )
    example = open_example(picture, caption, size_px=spec.data.resolution, seed=seed)
    data = single_picture_data(opened, example, spec)
    clean = data.latents.moments(0, 0)[0][None].float().cpu()
    stops = torch.linspace(0, len(alphas) - 1, levels).round().long()
    denoiser = load_denoiser(opened, spec)
    text = data.text.conditioning([example.caption])
    if opened.is_flow:
        walked, differences = trace_flow.walk_and_jump(clean, stops, seed)
        back = trace_flow.way_back(denoiser, walked, text, stops)
    else:
        walked, differences = _walk_and_jump(clean, alphas, stops, seed)
        back = way_back(denoiser, walked, text, alphas, stops)
    measured = [_level(clean, alphas, noises, int(stop), seed) for stop in stops]
    vae = opened.load_vae(torch.float32, denoiser.device)
    shown = {"picture": example.picture, "forward": decode_latents(vae, torch.cat(walked))}
    shown |= {f"back_{index}": decode_latents(vae, latents)[0] for index, latents in back.items()}
    rows = tuple(
        NoiseLevel(
            timestep=int(stop) + opened.is_flow,
            alpha_cumprod=float(alphas[stop]),
            snr=float(alphas[stop] / noises[stop]),
            variance=variance,
            variance_expected=expected,
            largest_difference=difference,
            way_back=index in back,
        )
        for index, (stop, (variance, expected), difference) in enumerate(
            zip(stops, measured, differences, strict=True)
        )
    )
    return ForwardTrace(
        base=opened.identity,
        picture=example.name,
        caption=example.caption,
        schedule=name,
        is_flow=opened.is_flow,
        num_timesteps=len(alphas),
        clean_variance=_variance(clean),
        largest_difference=max(differences),
        largest_variance_error=max(abs(one.variance / one.variance_expected - 1) for one in rows),
        levels=rows,
        alphas=tuple(alphas.tolist()),
        noises=tuple(noises.tolist()),
        pictures=shown,
    )


def _refuse_on_flow(
    base: Base,
    schedule: ScheduleName,
    beta_start: float | None,
    beta_end: float | None,
    *,
    zero_terminal_snr: bool,
) -> None:
    if schedule != "base" or beta_start is not None or beta_end is not None or zero_terminal_snr:
        raise ConfigError(
            f"base '{base.name}' is a rectified flow: a straight line from picture to noise, which has no betas and "
            "ends in pure noise. Leave --schedule, the betas and --zero-terminal-snr out."
        )


def schedule_config(
    base: Base,
    schedule: ScheduleName,
    *,
    beta_start: float | None = None,
    beta_end: float | None = None,
    zero_terminal_snr: bool = False,
) -> dict[str, Any]:
    """The base's scheduler settings, with another schedule in place of its own where one is named.

    Raises:
        ConfigError: betas that are not 0 < start ≤ end < 1, or that this schedule does not have.
    """
    config = base.scheduler_config()
    if schedule != "base":
        config |= {"beta_schedule": schedule, "trained_betas": None, "rescale_betas_zero_snr": False}
        if schedule in RANGES:  # the cosine one has none
            config |= dict(zip(("beta_start", "beta_end"), RANGES[schedule], strict=True))
    given = {"beta_start": beta_start, "beta_end": beta_end}
    config |= {name: value for name, value in given.items() if value is not None}
    if config["beta_schedule"] == "squaredcos_cap_v2":
        if beta_start is not None or beta_end is not None:
            raise ConfigError(
                "the cosine schedule has no betas to set. Leave --beta-start and --beta-end out."
            )
    elif not 0 < config["beta_start"] <= config["beta_end"] < 1:
        raise ConfigError(
            f"betas from {config['beta_start']:g} to {config['beta_end']:g}: need 0 < start <= end < 1."
        )
    return config | ({"rescale_betas_zero_snr": True} if zero_terminal_snr else {})


def _schedule_name(config: Mapping[str, Any]) -> str:
    kind = str(config.get("beta_schedule", "linear"))
    betas = "" if kind == "squaredcos_cap_v2" else f" {config['beta_start']:g} to {config['beta_end']:g}"
    return kind + betas + (", zero terminal SNR" if config.get("rescale_betas_zero_snr") else "")


def _walk_and_jump(
    clean: Tensor, alphas: Tensor, stops: Tensor, seed: int
) -> tuple[list[Tensor], list[float]]:
    """Latents (1, C, h, w) fp32 after each stop, walked, and how far the jumps land from them."""
    wide, kept = alphas.double(), {int(stop) for stop in stops}
    noises = [
        noise_for(seed, step, 0, clean.shape, purpose="forward").double() for step in range(len(alphas))
    ]
    walked, differences = [], []
    for step, now in enumerate(step_by_step(clean.double(), noises, betas_of(wide))):
        if step in kept:
            jumped = in_one_jump(clean.double(), joined_noise(noises[: step + 1], wide), wide[step])
            walked.append(now.float())
            differences.append(float((now - jumped).abs().max()))
    return walked, differences


def _level(clean: Tensor, alphas: Tensor, noises: Tensor, stop: int, seed: int) -> tuple[float, float]:
    """(measured, expected) variance of the noisy latents."""
    many = clean.expand(VARIANCE_NOISES, *clean.shape[1:])
    noise = torch.stack(
        [noise_for(seed, stop, sample, clean.shape[1:], purpose="variance") for sample in range(len(many))]
    )
    noisy = alphas[stop].sqrt() * many + noises[stop].sqrt() * noise
    return _variance(noisy), float(alphas[stop]) * _variance(clean) + float(noises[stop])


def _variance(values: Tensor) -> float:
    return float(values.double().var(correction=0))


@torch.no_grad()
def way_back(
    denoiser: Denoiser, walked: list[Tensor], text: Conditioning, alphas: Tensor, stops: Tensor
) -> dict[int, Tensor]:
    """Index of a level → latents (1, C, h, w) there, on the way from the noisiest one that the base knows.

    Args:
        denoiser: the plain base.
        walked: latents of each level.
        text: of the caption.
        alphas: (T,) of the schedule that is shown.
        stops: (levels,) its timesteps that are shown, rising.
    """
    process = denoiser.process
    assert isinstance(process, VariancePreserving)
    known = process.alphas.float().cpu()
    shown = [index for index, stop in enumerate(stops) if alphas[stop] >= known.min() * (1 - 1e-4)]
    if not shown:
        return {}
    noisy = walked[shown[-1]].to(denoiser.device)
    reached = {shown[-1]: noisy}
    for index in reversed(shown[:-1]):
        between = torch.linspace(float(stops[index + 1]), float(stops[index]), STEPS_BETWEEN_LEVELS + 1)
        path = alphas[between.round().long()]
        for alpha, alpha_next in itertools.pairwise(path):
            at = (known - alpha).abs().argmin().view(1).to(denoiser.device)
            prediction = denoiser.predict(noisy, at, text).float()
            guess = process.clean(prediction, noisy, at)
            noise = (noisy - alpha.sqrt() * guess) / (1 - alpha).sqrt()
            noisy = ddim.step(noisy, noise, alpha, alpha_next)
        reached[index] = noisy
    return reached
