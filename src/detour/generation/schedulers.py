"""Samplers by name, on the noise schedule that the base was trained with."""

from collections.abc import Mapping
from typing import Any

from detour.bases.quiet import quiet_libraries
from detour.errors import ConfigError
from detour.specs.generation import SchedulerName

TITLES: Mapping[str, str] = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "pndm": "PLMS",
    "euler": "Euler",
    "dpm++": "DPM++ 2M",
}
"""Name → the sampler's name in other tools' metadata."""

# Latents are not pictures: clipping them to [-1, 1] (the default of DDPM and DDIM in diffusers) ruins them.
UNCLIPPED = {"clip_sample": False, "thresholding": False}

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "ddpm": UNCLIPPED,
    "ddim": UNCLIPPED,
    "pndm": {"skip_prk_steps": True},
    "euler": {"use_karras_sigmas": False},
    "dpm++": {
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
        "thresholding": False,
        "use_karras_sigmas": False,
    },
}


def make_scheduler(name: SchedulerName, config: Mapping[str, Any]) -> Any:
    """A fresh diffusers scheduler; it keeps state, so each batch of pictures has its own.

    Args:
        name: sampler; ``dpm++`` is DPM-Solver++ of second order, multistep.
        config: the base's ``scheduler_config.json``: betas, prediction type, offset.

    Raises:
        ConfigError: ``pndm`` on a schedule that ends in pure noise.

    Source: DDPM arXiv:2006.11239, DDIM arXiv:2010.02502, PNDM arXiv:2202.09778, Euler as in arXiv:2206.00364,
    DPM-Solver++ arXiv:2211.01095.
    """
    import diffusers

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
        "dpm++": "DPMSolverMultistepScheduler",
    }
    with quiet_libraries():
        return getattr(diffusers, classes[name]).from_config({**config, **SETTINGS[name]})
