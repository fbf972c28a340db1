"""Samplers by name, on the noise schedule that the base was trained with."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from detour.bases.quiet import quiet_libraries
from detour.diffusion.process import resolution_shift
from detour.errors import ConfigError
from detour.specs.generation import SchedulerName, Spacing

if TYPE_CHECKING:
    from detour.bases.base import Base

TITLES: Mapping[str, str] = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "pndm": "PLMS",
    "euler": "Euler",
    "euler-a": "Euler a",
    "dpm++": "DPM++ 2M",
    "lcm": "LCM",
    "tcd": "TCD",
}
"""Name → the sampler's name in other tools' metadata."""

FLOW_SAMPLERS: tuple[SchedulerName, ...] = ("euler", "dpm++", "lcm")
"""Samplers that can draw with a rectified flow: one of first and one of second order, and one for distilled files."""

# Latents are not pictures: clipping them to [-1, 1] (the default of DDPM and DDIM in diffusers) ruins them.
UNCLIPPED = {"clip_sample": False, "thresholding": False}

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "ddpm": UNCLIPPED,
    "ddim": UNCLIPPED,
    "pndm": {"skip_prk_steps": True},
    "euler": {"use_karras_sigmas": False},
    "euler-a": {},
    "lcm": UNCLIPPED,
    "tcd": UNCLIPPED,
    "dpm++": {
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
        "thresholding": False,
        "use_karras_sigmas": False,
    },
}


def pick_sampler(name: SchedulerName | Literal["auto"], config: Mapping[str, Any]) -> SchedulerName:
    """The sampler that is meant: ``auto`` is what suits the process of the base.

    Args:
        name: of :data:`TITLES`, or ``auto``.
        config: the base's ``scheduler_config.json``.

    Raises:
        ConfigError: it cannot draw with a rectified flow.
    """
    is_flow = _is_flow(config)
    if name == "auto":
        return "euler" if is_flow else "dpm++"
    if is_flow and name not in FLOW_SAMPLERS:
        raise ConfigError(
            f"scheduler '{name}' is for noise prediction over discrete timesteps and cannot draw with a rectified "
            f"flow. Choose {' or '.join(FLOW_SAMPLERS)}."
        )
    return name


def pick_eta(eta: float | Literal["auto"], sampler: SchedulerName) -> float:
    """The share of noise that is added back; ``auto`` is the sampler's own.

    Raises:
        ConfigError: the sampler has no such setting.
    """
    if eta == "auto":
        return OWN_ETA.get(sampler, 0.0)
    if eta and sampler not in OWN_ETA:
        raise ConfigError(f"eta {eta:g}: scheduler '{sampler}' has none. Choose {' or '.join(OWN_ETA)}.")
    return eta


def check_spacing(spacing: Spacing, sampler: SchedulerName, *, is_flow: bool) -> None:
    """Refuse a spacing of times where there is none to choose.

    Raises:
        ConfigError: says why.
    """
    if spacing != "own" and (is_flow or sampler in OWN_SPACING):
        why = "a rectified flow" if is_flow else f"scheduler '{sampler}'"
        raise ConfigError(f"spacing '{spacing}': {why} has times of its own. Leave it out.")


OWN_ETA: Mapping[str, float] = {"ddim": 0.0, "tcd": 0.3}
"""Samplers with an eta → what it is unless it is said."""

OWN_SPACING = ("lcm", "tcd")
"""Samplers whose times are part of how they were distilled."""


def make_scheduler(name: SchedulerName, config: Mapping[str, Any]) -> Any:
    """A fresh diffusers scheduler; it keeps state, so each batch of pictures has its own.

    Args:
        name: sampler; ``dpm++`` is DPM-Solver++ of second order, multistep.
        config: the base's ``scheduler_config.json``: betas, prediction type, offset; or those of a rectified flow.

    Raises:
        ConfigError: ``pndm`` on a schedule that ends in pure noise; a sampler that cannot draw with a rectified flow.

    Source: DDPM arXiv:2006.11239, DDIM arXiv:2010.02502, PNDM arXiv:2202.09778, Euler as in arXiv:2206.00364,
    DPM-Solver++ arXiv:2211.01095, LCM arXiv:2310.04378, TCD arXiv:2402.19159.
    """
    import diffusers

    name = pick_sampler(name, config)
    if _is_flow(config):
        with quiet_libraries():
            euler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(dict(config))
            if name == "euler":
                return euler
            if name == "lcm":
                return diffusers.FlowMatchLCMScheduler.from_config(dict(config))
            return diffusers.DPMSolverMultistepScheduler(
                num_train_timesteps=euler.config["num_train_timesteps"],
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                **SETTINGS["dpm++"],
            )
    if name == "pndm" and config.get("rescale_betas_zero_snr"):
        # diffusers 0.42's PNDM leaves the rescaling out without a word; its formula divides by ᾱ, which ends at 0.
        raise ConfigError(
            "scheduler 'pndm' cannot draw on a schedule that ends in pure noise (zero terminal SNR). "
            "Choose dpm++, euler or ddim."
        )
    classes = {
        "ddpm": "DDPMScheduler",
        "ddim": "DDIMScheduler",
        "pndm": "PNDMScheduler",
        "euler": "EulerDiscreteScheduler",
        "euler-a": "EulerAncestralDiscreteScheduler",
        "dpm++": "DPMSolverMultistepScheduler",
        "lcm": "LCMScheduler",
        "tcd": "TCDScheduler",
    }
    with quiet_libraries():
        return getattr(diffusers, classes[name]).from_config({**config, **SETTINGS[name]})


def start_sampler(
    name: SchedulerName | Literal["auto"],
    base: "Base",
    *,
    steps: int,
    width_px: int,
    height_px: int,
    spacing: Spacing = "own",
    device: str = "cpu",
) -> Any:
    """A scheduler with its timesteps, as the base's own diffusers pipeline would set them.

    Noise levels of a rectified flow are evenly spread from 1 to 1 / steps and shifted; with Euler on SD 3 they end
    closer to 0, as in its pipeline. Where the base's shift moves with the picture's size, it is that of this size.

    Args:
        name: sampler.
        base: whose process and schedule.
        steps: denoising steps.
        width_px: of the picture.
        height_px: of the picture.
        spacing: of the timesteps; ``own`` is what the base's file says.
        device: of the timesteps.

    Raises:
        ConfigError: a sampler that cannot draw with this base, or a spacing where there is none to choose.

    Source: diffusers 0.42.1, ``StableDiffusion3Pipeline`` and ``FluxPipeline``.
    """
    config = base.scheduler_config()
    if spacing != "own":
        check_spacing(spacing, pick_sampler(name, config), is_flow=base.is_flow)
        config = {**config, "timestep_spacing": spacing}
    scheduler = make_scheduler(pick_sampler(name, config), config)
    if not base.is_flow:
        scheduler.set_timesteps(steps, device=device)
        return scheduler
    is_euler = not hasattr(scheduler, "alphas_cumprod")
    euler = scheduler if is_euler else make_scheduler("euler", config)
    options: dict[str, Any] = {}
    if config.get("use_dynamic_shifting"):
        num_patches = base.num_patches(width_px, height_px)
        options["mu"] = math.log(resolution_shift(config, num_patches))
    if base.family.even_levels or pick_sampler(name, config) != "euler":
        # Two levels close together at the end, as SD 3's Euler has them, would throw a multistep sampler off, and a
        # step of a distilled file would be spent on them.
        options["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    euler.set_timesteps(steps, device=device, **options)
    if not is_euler:
        scheduler.set_timesteps(steps, device=device)
        # Its own levels begin short of pure noise, and diffusers cuts its timesteps to whole numbers.
        scheduler.sigmas, scheduler.timesteps = euler.sigmas.cpu(), euler.timesteps
    return scheduler


def _is_flow(config: Mapping[str, Any]) -> bool:
    return str(config.get("_class_name", "")).startswith("FlowMatch")
