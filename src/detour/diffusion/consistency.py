"""Latent consistency distillation: a network learns to say from any time where the guided base would end.

A solver's step of the guided base goes from ``x_t`` to ``x_s``; the student's answers at both ends are to be equal, and
at the clean end its answer is ``x`` itself. So the answers become the end of the whole way, step by step, and a picture
takes as many passes as one likes.

Source: Luo et al. 2023, arXiv:2310.04378 and arXiv:2311.05556.
"""

from torch import Tensor

from detour.diffusion.guidance import guided
from detour.diffusion.process import Process


def consistent_answer(process: Process, prediction: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
    """The consistency function ``f(x_t, t) = c_skip x_t + c_out x₀``, (N, C, h, w) float32.

    Args:
        process: of the base.
        prediction: (N, C, h, w), the network's answer, any float dtype.
        noisy: (N, C, h, w) float32, what it was asked about.
        times: (N,) in the units of the process.
    """
    skip, out = process.consistency_shares(times, noisy)
    return skip * noisy + out * process.clean(prediction.float(), noisy, times)


def guided_solver_step(
    process: Process,
    with_text: Tensor,
    without: Tensor,
    noisy: Tensor,
    times: Tensor,
    ends: Tensor,
    *,
    scale: float,
) -> Tensor:
    """Latents after one step of the guided base: DDIM of a variance-preserving process, Euler of a flow.

    Clean latents and noise are affine in the prediction, so that guiding the prediction guides both. Mixed again at
    the cleaner time they are DDIM's step with eta 0; on a straight line, ``x + (σ_s − σ_t) v``.

    Args:
        process: of the base.
        with_text: (N, C, h, w), the base's prediction for the prompt.
        without: (N, C, h, w), that for the unconditional text.
        noisy: (N, C, h, w) float32 at ``times``.
        times: (N,) where the step begins.
        ends: (N,) where it ends.
        scale: guidance scale; the paper's ``w`` is ``scale − 1``.

    Returns:
        (N, C, h, w) float32.
    """
    prediction = guided(with_text.float(), without.float(), scale)
    clean = process.clean(prediction, noisy, times)
    noise = process.convert(prediction, noisy, times, source=process.predicts, wanted="noise")
    return process.mix(clean, noise, ends)
