"""Safe Latent Diffusion against diffusers' own formulas, and the same guidance in every parametrisation."""

import pytest
import torch
from torch import Tensor

from detour.diffusion.guidance import guided
from detour.diffusion.process import RectifiedFlow, VariancePreserving
from detour.diffusion.safe_latent import STRENGTHS, SafeLatent, SafeLatentSettings, safe_guidance
from detour.errors import ConfigError

SHAPE = (3, 4, 6, 6)
GUIDANCE = 6.0


def noises(num: int, spread: float = 0.02) -> list[Tensor]:
    """Predictions of noise whose three rows are near each other, so that every branch of the formula is taken."""
    generator = torch.Generator().manual_seed(3)
    common = torch.randn((num, 1, *SHAPE[1:]), generator=generator)
    return list(common + spread * torch.randn((num, *SHAPE), generator=generator))


@pytest.mark.parametrize("strength", list(STRENGTHS))
def test_equals_the_formulas_of_diffusers(strength: str) -> None:
    from diffusers.pipelines.deprecated.stable_diffusion_safe.pipeline_stable_diffusion_safe import (
        StableDiffusionPipelineSafe,
    )

    told = STRENGTHS[strength]
    ours = SafeLatent(GUIDANCE, told)
    momentum = None
    for step, (uncond, prompt, concept) in enumerate(noises(14)):
        # diffusers 0.42.1 reads row 0 as the prompt's here, and hands in the unconditional one: its rows are swapped.
        away, momentum = StableDiffusionPipelineSafe.perform_safety_guidance(
            None,
            True,
            momentum,
            prompt - uncond,
            (prompt, uncond, concept),
            step,
            told.scale,
            told.warmup_steps,
            told.threshold,
            told.momentum,
            told.decay,
        )
        theirs = uncond + GUIDANCE * away
        found = ours.combine(torch.stack([uncond, prompt, concept]))
        torch.testing.assert_close(found, theirs, rtol=0, atol=2e-6)
        changed = not torch.allclose(found, guided(prompt, uncond, GUIDANCE))
        assert changed == (step >= told.warmup_steps)


def processes() -> list[object]:
    alphas = torch.linspace(0.999, 0.005, 1000).double().cumprod(0).sqrt().float().clamp(1e-4, 0.9999)
    return [
        *(VariancePreserving(predicts=kind, alphas=alphas) for kind in ("velocity", "clean", "score")),  # type: ignore[arg-type]
        RectifiedFlow(),
    ]


@pytest.mark.parametrize("process", processes(), ids=["v", "clean", "score", "flow"])
def test_every_kind_of_prediction_is_steered_as_its_noise_is(process: VariancePreserving) -> None:
    settings = SafeLatentSettings(scale=40.0, threshold=0.02, warmup_steps=1, momentum=0.5, decay=0.6)
    plain, other = SafeLatent(GUIDANCE, settings), SafeLatent(GUIDANCE, settings)
    noisy = torch.randn(1, *SHAPE[1:], generator=torch.Generator().manual_seed(8))
    for step, rows in enumerate(noises(5)):
        time = process.at(0.8 - 0.15 * step)
        times = process.times([time] * 3)
        asked = process.convert(rows, noisy.expand(SHAPE), times, source="noise", wanted=process.predicts)
        found = other.combine(asked, process.noise_scale(time))[None]
        as_noise = process.convert(found, noisy, times[:1], source=process.predicts, wanted="noise")[0]
        torch.testing.assert_close(as_noise, plain.combine(rows), rtol=0, atol=2e-4)


def test_pure_noise_divides_by_nothing() -> None:
    flow = RectifiedFlow()
    guidance = SafeLatent(GUIDANCE, STRENGTHS["strong"].model_copy(update={"warmup_steps": 0}))
    for rows in noises(3):
        assert torch.isfinite(guidance.combine(rows, flow.noise_scale(1.0))).all()


def test_a_guidance_scale_of_one_still_steers_away() -> None:
    uncond, prompt, concept = noises(1)[0]
    settings = STRENGTHS["medium"].model_copy(update={"warmup_steps": 0, "scale": 1e6, "threshold": 1e6})
    found = SafeLatent(0.0, settings).combine(torch.stack([uncond, prompt, concept]))
    torch.testing.assert_close(found, prompt - (concept - uncond))


def test_an_unknown_strength_is_refused() -> None:
    with pytest.raises(ConfigError, match="medium or strong"):
        safe_guidance("weak")
