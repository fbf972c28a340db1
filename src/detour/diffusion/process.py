"""How clean latents, noise and time are related: one object that training, drawing, studies and proofs ask.

Every process here mixes ``x_t = a(t) · x₀ + b(t) · ε`` and asks the network for one of four things, which can be
converted into each other:

======== =====================================================================
clean    the clean latents ``x₀``
noise    the noise ``ε``
velocity where the latents move: ``a ε − b x₀`` (variance preserving), ``ε − x₀`` (rectified flow)
score    the gradient of the log density of the noisy latents, ``−ε / b``
======== =====================================================================
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from detour.diffusion.randomness import (
    chance_for,
    normal_time_for,
    timestep_for,
)
from detour.diffusion.schedule import add_noise, alphas_cumprod, velocity
from detour.errors import BaseError, ConfigError

Parametrisation = Literal["clean", "noise", "velocity", "score"]
TimestepLaw = Literal["uniform", "logit_normal", "mode"]
Weighting = Literal["uniform", "min_snr", "debiased", "sigma_sqrt", "cosmap"]
HuberSchedule = Literal["constant", "snr"]

LCM_SIGMA_DATA = 0.5
LCM_TIME_SCALE = 10.0
"""Constants of the boundary condition that every published LCM file was distilled with."""

PREDICTED: Mapping[str, Parametrisation] = {
    "epsilon": "noise",
    "v_prediction": "velocity",
    "sample": "clean",
    "flow_prediction": "velocity",
}
"""Name in a diffusers scheduler config → what the network answers."""


@dataclass(frozen=True, kw_only=True)
class TimeLaw:
    """Law by which training draws the time of each sample.

    Attributes:
        name: ``uniform``: all alike; ``logit_normal``: more of those around the middle; ``mode``: see
            :func:`mode_share`.
        mean: of the logit-normal law; above 0 draws noisier times more often, in every process.
        std: of the logit-normal law; smaller is narrower.
        scale: of the mode law; above 0 prefers the middle, below 0 the two ends.
    """

    name: TimestepLaw = "uniform"
    mean: float = 0.0
    std: float = 1.0
    scale: float = 1.29


UNIFORM = TimeLaw()


@dataclass(frozen=True, kw_only=True)
class Process(ABC):
    """What relates clean latents, noise and time for one base.

    Times are a tensor (N,), one for each sample: integer timesteps of a variance-preserving process, noise levels σ
    in [0, 1] of a rectified flow. Only the process knows which.

    Attributes:
        predicts: what the network of the base answers.
    """

    predicts: Parametrisation
    title: ClassVar[str]
    """Name of the process as a person reads it."""
    weightings: ClassVar[tuple[Weighting, ...]]
    """Loss weights that make sense for this process."""
    laws: ClassVar[tuple[TimestepLaw, ...]]
    """Laws by which training may draw times."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Number of timesteps in the units of the network, 1000 for all Stable Diffusion models."""

    @abstractmethod
    def to(self, device: str | torch.device) -> Process:
        """Copy of this process whose tensors are on ``device``."""

    @abstractmethod
    def coefficients(self, times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of clean latents and noise in the noisy latents at each time.

        Args:
            times: (N,).
            like: (N, …); gives the number of dimensions and the dtype.

        Returns:
            ``a`` and ``b``, both (N, 1, …), so that ``x_t = a x₀ + b ε``.
        """

    @abstractmethod
    def times(self, values: Sequence[float]) -> Tensor:
        """(N,) tensor of times in the dtype of this process."""

    @abstractmethod
    def draw_time(self, law: TimeLaw, seed: int, step: int, sample: int) -> float:
        """Draw the time of one training sample as a pure function of (seed, step, sample).

        Raises:
            ConfigError: this process has no such law.
        """

    @abstractmethod
    def at(self, share: float) -> float:
        """Time at a share of the schedule: 0 is the clean end, 1 the noisy end."""

    @abstractmethod
    def spread(self, num: int) -> list[float]:
        """``num`` times in the middles of as many equal parts of the schedule, the cleanest one first."""

    @abstractmethod
    def mix(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Noisy latents ``a x₀ + b ε``, shape and dtype of ``latents``."""

    @abstractmethod
    def velocity_of(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Velocity of this process for known clean latents and noise, shape of ``latents``."""

    @abstractmethod
    def noise_from_velocity(self, velocity: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        """Noise that a velocity stands for, shape of ``noisy``."""

    @abstractmethod
    def clean_from_velocity(self, velocity: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        """Clean latents that a velocity stands for, shape of ``noisy``."""

    @abstractmethod
    def model_time(self, times: Tensor) -> Tensor:
        """Times as the network of the base takes them, (N,): 0 to ``length``."""

    @abstractmethod
    def times_of(self, model_times: Tensor) -> Tensor:
        """Times of this process for times as the network takes them, (N,): the inverse of :meth:`model_time`."""

    @abstractmethod
    def solver_times(self, num: int) -> list[tuple[float, float]]:
        """Pairs of neighbouring times of a deterministic solver with ``num`` steps, the cleanest pair first.

        Returns:
            (time, the cleaner time that the solver's step from there ends at); the last pair begins in the noisiest
            time, and the first one ends at the clean end of the schedule.
        """

    @abstractmethod
    def consistency_shares(self, times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Shares ``c_skip`` and ``c_out`` of a consistency function ``f(x_t, t) = c_skip x_t + c_out x₀(x_t, t)``.

        They make ``f(x, t) = x`` at the clean end of the schedule (the boundary condition), whatever the network says.

        Args:
            times: (N,).
            like: (N, …); gives the number of dimensions.

        Returns:
            Both (N, 1, …) float32.
        """

    @abstractmethod
    def name_of(self, time: float) -> str | int:
        """Short exact name of a time, for seeds and file names."""

    def check(self, time: float) -> float:
        """Return ``time`` if training could draw it.

        Raises:
            ConfigError: it is outside the schedule.
        """
        low, high = self.span
        if not low <= time <= high:
            raise ConfigError(f"timestep {time:g} is outside the schedule. Choose {low:g} to {high:g}.")
        return time

    @property
    @abstractmethod
    def span(self) -> tuple[float, float]:
        """Cleanest and noisiest time of the schedule."""

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What a perfect network would answer for known clean latents and noise, shape of ``latents``."""
        if self.predicts == "noise":
            return noise
        return latents if self.predicts == "clean" else self.velocity_of(latents, noise, times)

    def clean(self, prediction: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        """Clean latents that the network's prediction stands for, shape of ``noisy``."""
        return self.convert(prediction, noisy, times, source=self.predicts, wanted="clean")

    def convert(
        self, value: Tensor, noisy: Tensor, times: Tensor, *, source: Parametrisation, wanted: Parametrisation
    ) -> Tensor:
        """Turn a prediction in one parametrisation into another one, shape of ``noisy``.

        Args:
            value: (N, …), the prediction as ``source``.
            noisy: (N, …), the latents that it was predicted from.
            times: (N,).
            source: what ``value`` is.
            wanted: what it is turned into.
        """
        if source == wanted:
            return value
        a, b = self.coefficients(times, noisy)
        if wanted == "clean":
            if source == "velocity":
                return self.clean_from_velocity(value, noisy, times)
            noise = value if source == "noise" else -b * value
            return (noisy - b * noise) / a
        if source == "velocity":
            noise = self.noise_from_velocity(value, noisy, times)
        elif source == "clean":
            noise = (noisy - a * value) / b
        else:
            noise = value if source == "noise" else -b * value
        if wanted == "noise":
            return noise
        if wanted == "score":
            return -noise / b
        clean = value if source == "clean" else (noisy - b * noise) / a
        return self.velocity_of(clean, noise, times)

    def noise_scale(self, time: float) -> float:
        """Factor that turns a difference of two predictions for the same noisy latents into a difference of noises.

        Noise 1, velocity ``a``, clean latents ``−a / b``, score ``−b``: the noisy latents themselves cancel out.
        Velocity has the same factor in both processes, ``a ε − b x₀ = (ε − b x_t) / a`` and ``ε − x₀ = (ε − x_t) / a``.

        Args:
            time: in the units of this process; between two timesteps, that of the cleaner one.
        """
        if self.predicts == "noise":
            return 1.0
        times = self.times([time])
        a, b = (float(share) for share in self.to("cpu").coefficients(times, times.float()))
        if self.predicts == "velocity":
            return a
        return -b if self.predicts == "score" else -a / b

    def snr(self, times: Tensor) -> Tensor:
        """Signal-to-noise ratio ``a² / b²`` at each time, (N,) float32."""
        a, b = self.coefficients(times, times.float())
        return (a / b).square()

    def signal_share(self, time: float) -> float:
        """Share ``a`` of the clean latents' amplitude that is left at one time."""
        times = self.times([time])
        return float(self.to("cpu").coefficients(times, times.float())[0])

    @abstractmethod
    def weigh(self, weighting: Weighting, times: Tensor, *, gamma: float) -> Tensor:
        """Weight of each sample's loss, (N,) float32.

        Args:
            weighting: one of :attr:`weightings`.
            times: (N,).
            gamma: clamp of min-SNR.

        Raises:
            ConfigError: this process does not take ``weighting``.
        """

    @abstractmethod
    def huber_thresholds(self, schedule: HuberSchedule, times: Tensor, *, c: float) -> Tensor:
        """Size of a difference at which pseudo-Huber turns from square to straight, (N,) float32."""

    def refuse_weighting(self, weighting: str) -> None:
        """Raise if ``weighting`` is not for this process.

        Raises:
            ConfigError: names the weights that are.
        """
        if weighting not in self.weightings:
            raise ConfigError(
                f"train.loss.weighting '{weighting}' is not for {self.title}"
                f"{WHY_NOT.get(weighting, '')}. Choose {' or '.join(self.weightings)}."
            )

    def refuse_law(self, law: str) -> None:
        """Raise if training cannot draw times by ``law`` here.

        Raises:
            ConfigError: names the laws that it can.
        """
        if law not in self.laws:
            raise ConfigError(
                f"train.loss.timesteps '{law}' is not for {self.title}. Choose {' or '.join(self.laws)}."
            )


WHY_NOT: Mapping[str, str] = {
    "min_snr": " (it balances noise prediction over an SNR that this process does not train on)",
    "debiased": " (its √SNR weights are those of noise prediction)",
    "sigma_sqrt": " (its weight is a function of the noise level σ of a rectified flow)",
    "cosmap": " (its weight is a function of the noise level σ of a rectified flow)",
}
"""Loss weight → why a process refuses it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VariancePreserving(Process):
    """Process of Stable Diffusion 1.x, 2.x and SDXL: integer timesteps over a falling ``ᾱ``.

    ``a = √ᾱ`` and ``b = √(1 − ᾱ)``.

    Attributes:
        alphas: (T,) float32, ``ᾱ`` of each timestep.

    Source: Ho et al. 2020, arXiv:2006.11239, equation 4; velocity: Salimans and Ho 2022, arXiv:2202.00512.
    """

    alphas: Tensor
    title: ClassVar[str] = "a variance-preserving process"
    weightings: ClassVar[tuple[Weighting, ...]] = ("uniform", "min_snr", "debiased")
    laws: ClassVar[tuple[TimestepLaw, ...]] = ("uniform", "logit_normal")

    @property
    def length(self) -> int:
        return len(self.alphas)

    @property
    def span(self) -> tuple[float, float]:
        return 0, self.length - 1

    def to(self, device: str | torch.device) -> VariancePreserving:
        return replace(self, alphas=self.alphas.to(device))

    def coefficients(self, times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alpha = self.alphas[times].view(-1, *([1] * (like.ndim - 1)))
        return alpha.sqrt(), (1 - alpha).sqrt()

    def times(self, values: Sequence[float]) -> Tensor:
        return torch.tensor([int(value) for value in values], dtype=torch.long)

    def draw_time(self, law: TimeLaw, seed: int, step: int, sample: int) -> float:
        self.refuse_law(law.name)
        if law.name == "uniform":
            return timestep_for(seed, step, sample, num_timesteps=self.length)
        normal = normal_time_for(seed, step, sample, mean=law.mean, std=law.std)
        return min(int(self.length / (1.0 + math.exp(-normal))), self.length - 1)

    def at(self, share: float) -> float:
        return min(int(share * self.length), self.length - 1)

    def spread(self, num: int) -> list[float]:
        return [int((k + 0.5) * self.length / num) for k in range(num)]

    def mix(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return add_noise(latents, noise, times, self.alphas)

    def velocity_of(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return velocity(latents, noise, times, self.alphas)

    def noise_from_velocity(self, velocity: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        a, b = self.coefficients(times, noisy)
        return a * velocity + b * noisy

    def clean_from_velocity(self, velocity: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        a, b = self.coefficients(times, noisy)
        return a * noisy - b * velocity

    def model_time(self, times: Tensor) -> Tensor:
        return times

    def times_of(self, model_times: Tensor) -> Tensor:
        return model_times

    def solver_times(self, num: int) -> list[tuple[float, float]]:
        """``T / num`` timesteps apart, the last one at ``T − 1``, and the first step ends at timestep 0.

        Source: ``DDIMSolver`` of diffusers' ``train_lcm_distill_lora_sd_wds.py``.
        """
        apart = self.length // num
        return [(apart * k - 1, max(apart * (k - 1) - 1, 0)) for k in range(1, num + 1)]

    def consistency_shares(self, times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """``c_skip = σ² / ((10 t)² + σ²)`` and ``c_out = 10 t / √((10 t)² + σ²)`` with ``σ = 0.5``.

        Source: Luo et al. 2023, arXiv:2310.04378, appendix C; 10 is diffusers' ``timestep_scaling``.
        """
        scaled = (LCM_TIME_SCALE * times.float()).view(-1, *([1] * (like.ndim - 1)))
        total = scaled.square() + LCM_SIGMA_DATA**2
        return LCM_SIGMA_DATA**2 / total, scaled / total.sqrt()

    def name_of(self, time: float) -> str | int:
        return int(time)

    def snr(self, times: Tensor) -> Tensor:
        alphas = self.alphas.float()
        return (alphas / (1 - alphas))[times]

    def weigh(self, weighting: Weighting, times: Tensor, *, gamma: float) -> Tensor:
        """Weights of the clean latent's error, divided by what turns it into the predicted one's.

        ``min(SNR, γ)`` and ``√SNR``, divided by ``SNR`` for noise and by ``SNR + 1`` for velocity, whose errors are
        that much larger: so ``debiased`` is the paper's ``1/√SNR`` for noise. For velocity sd-scripts takes
        ``1 / (SNR + 1)`` instead, which is the clean latent's error unweighted. Where the SNR is zero, both weights
        of velocity are zero.

        Source: min-SNR: Hang et al. 2023, arXiv:2303.09556, section 3.4; debiased: Yu et al. 2023, arXiv:2310.08442.
        """
        self.refuse_weighting(weighting)
        if weighting == "uniform":
            return torch.ones(times.shape[0], dtype=torch.float32, device=times.device)
        ratio = self.snr(times)
        of_clean = ratio.clamp(max=gamma) if weighting == "min_snr" else ratio.sqrt()
        if self.predicts == "noise":
            return of_clean / ratio
        return of_clean / (ratio + 1) if self.predicts == "velocity" else of_clean

    def huber_thresholds(self, schedule: HuberSchedule, times: Tensor, *, c: float) -> Tensor:
        """``c`` everywhere, or falling from 1 at the clean end: ``(1 − c) / (1 + σ)² + c``, ``σ = √((1 − ᾱ) / ᾱ)``.

        Source: Khrapov et al. 2024, arXiv:2403.16728; the ``snr`` form is the one that sd-scripts publishes.
        """
        if schedule == "constant":
            return torch.full((times.shape[0],), c, dtype=torch.float32, device=times.device)
        alpha = self.alphas.float()[times]
        sigma = ((1 - alpha) / alpha).sqrt()
        return (1 - c) / (1 + sigma).square() + c


@dataclass(frozen=True, kw_only=True, eq=False)
class RectifiedFlow(Process):
    """Process of SD 3 and Flux: a straight line from clean latents to noise, with noise level σ in [0, 1].

    ``a = 1 − σ`` and ``b = σ``; the network answers the velocity ``ε − x₀`` and takes the time ``1000 σ``. Levels are
    float32 always: bfloat16 would turn timestep 750 into 752.

    Attributes:
        shift: moves training and sampling towards more noise, see :func:`shifted`; 1 leaves times as they are.

    Source: Liu et al. 2022, arXiv:2209.03003; Esser et al. 2024, arXiv:2403.03206.
    """

    predicts: Parametrisation = "velocity"
    shift: float = 1.0
    num_timesteps: int = 1000
    title: ClassVar[str] = "a rectified flow"
    weightings: ClassVar[tuple[Weighting, ...]] = ("uniform", "sigma_sqrt", "cosmap")
    laws: ClassVar[tuple[TimestepLaw, ...]] = ("uniform", "logit_normal", "mode")

    @property
    def length(self) -> int:
        return self.num_timesteps

    @property
    def span(self) -> tuple[float, float]:
        return 0.0, 1.0

    def to(self, device: str | torch.device) -> RectifiedFlow:
        return self

    def coefficients(self, times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        sigma = times.float().view(-1, *([1] * (like.ndim - 1)))
        return 1 - sigma, sigma

    def times(self, values: Sequence[float]) -> Tensor:
        return torch.tensor([float(value) for value in values], dtype=torch.float32)

    def draw_time(self, law: TimeLaw, seed: int, step: int, sample: int) -> float:
        self.refuse_law(law.name)
        if law.name == "logit_normal":
            share = 1.0 / (1.0 + math.exp(-normal_time_for(seed, step, sample, mean=law.mean, std=law.std)))
        else:
            share = chance_for(seed, step, sample, purpose="timestep")
            if law.name == "mode":
                share = mode_share(share, scale=law.scale)
        return shifted(share, self.shift)

    def at(self, share: float) -> float:
        return shifted(share, self.shift)

    def spread(self, num: int) -> list[float]:
        return [self.at((k + 0.5) / num) for k in range(num)]

    def mix(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        a, b = self.coefficients(times, latents)
        return a * latents + b * noise

    def velocity_of(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return noise - latents

    def noise_from_velocity(self, velocity: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        a, _ = self.coefficients(times, noisy)
        return noisy + a * velocity

    def clean_from_velocity(self, velocity: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        _, b = self.coefficients(times, noisy)
        return noisy - b * velocity

    def model_time(self, times: Tensor) -> Tensor:
        return times.float() * self.num_timesteps

    def times_of(self, model_times: Tensor) -> Tensor:
        return model_times.float() / self.num_timesteps

    def solver_times(self, num: int) -> list[tuple[float, float]]:
        """Levels of Euler's sampler: evenly spread from 0 to 1 and shifted."""
        return [(self.at(k / num), self.at((k - 1) / num)) for k in range(1, num + 1)]

    def consistency_shares(self, times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """0 and 1: ``x₀ = x − σ v`` is ``x`` itself where σ is 0."""
        shape = (times.shape[0], *([1] * (like.ndim - 1)))
        return times.new_zeros(shape, dtype=torch.float32), times.new_ones(shape, dtype=torch.float32)

    def name_of(self, time: float) -> str | int:
        return f"{time:.6f}"

    def weigh(self, weighting: Weighting, times: Tensor, *, gamma: float) -> Tensor:
        """One everywhere, ``σ⁻²``, or ``2 / (π (1 − 2σ + 2σ²))``.

        Source: Esser et al. 2024, arXiv:2403.03206, section 3.1, as diffusers' SD 3 script names them.
        """
        self.refuse_weighting(weighting)
        sigma = times.float()
        if weighting == "sigma_sqrt":
            return sigma.clamp_min(1e-3) ** -2.0
        if weighting == "cosmap":
            return 2 / (torch.pi * (1 - 2 * sigma + 2 * sigma.square()))
        return torch.ones_like(sigma)

    def huber_thresholds(self, schedule: HuberSchedule, times: Tensor, *, c: float) -> Tensor:
        """``c`` everywhere, or falling from 1 at the clean end: ``(1 − c) / (1 + s)² + c`` with ``s = σ / (1 − σ)``."""
        if schedule == "constant":
            return torch.full((times.shape[0],), c, dtype=torch.float32, device=times.device)
        # 1 + σ/(1−σ) = 1/(1−σ), which is also right in pure noise.
        return (1 - c) * (1 - times.float()).square() + c


def shifted(sigma: float, shift: float) -> float:
    """Noise level moved towards noise: ``s σ / (1 + (s − 1) σ)``, 0 and 1 stay.

    Source: Esser et al. 2024, arXiv:2403.03206, section 5.3.2.
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def mode_share(share: float, *, scale: float) -> float:
    """Share of the schedule under the mode law: ``1 − u − s (cos²(π u / 2) − 1 + u)`` for uniform ``u``.

    Source: Esser et al. 2024, arXiv:2403.03206, equation 20.
    """
    return 1 - share - scale * (math.cos(math.pi / 2 * share) ** 2 - 1 + share)


def resolution_shift(scheduler_config: Mapping[str, Any], num_patches: int) -> float:
    """Shift of a flow whose config moves it with the picture's size: ``exp(μ)``, μ linear in the patches.

    Flux-dev's runs from μ = 0.5 at 256 patches to 1.15 at 4096: 3.16 at 1024 px.

    Args:
        scheduler_config: with ``use_dynamic_shifting``.
        num_patches: patches of 2×2 latents of the picture.

    Raises:
        BaseError: the shift moves in another way than exponentially.

    Source: diffusers 0.42.1, ``calculate_shift`` and ``FlowMatchEulerDiscreteScheduler.time_shift``.
    """
    if scheduler_config.get("time_shift_type", "exponential") != "exponential":
        raise BaseError(
            f"scheduler: time_shift_type '{scheduler_config['time_shift_type']}' is not known (exponential is). "
            "Check the base's scheduler_config.json."
        )
    low, high = (int(scheduler_config.get(f"{end}_image_seq_len", seq)) for end, seq in SEQUENCES)
    least, most = (float(scheduler_config.get(f"{end}_shift", mu)) for end, mu in SHIFTS)
    slope = (most - least) / (high - low)
    return math.exp(num_patches * slope + (least - slope * low))


SEQUENCES = (("base", 256), ("max", 4096))
SHIFTS = (("base", 0.5), ("max", 1.15))


def process_of(scheduler_config: Mapping[str, Any], *, num_patches: int = 4096) -> Process:
    """Process that a base was trained on.

    Args:
        scheduler_config: a diffusers ``scheduler_config.json``.
        num_patches: of the pictures, for a shift that moves with their size.

    Raises:
        BaseError: the schedule or what is predicted is not known.
    """
    if str(scheduler_config.get("_class_name", "")).startswith("FlowMatch"):
        moves = bool(scheduler_config.get("use_dynamic_shifting"))
        shift = (
            resolution_shift(scheduler_config, num_patches) if moves else scheduler_config.get("shift", 1.0)
        )
        return RectifiedFlow(
            shift=float(shift),
            num_timesteps=int(scheduler_config.get("num_train_timesteps", 1000)),
        )
    name = str(scheduler_config.get("prediction_type", "epsilon"))
    if name not in PREDICTED or name == "flow_prediction":
        raise BaseError(
            f"scheduler: prediction_type '{name}' is not known (epsilon, v_prediction and sample are). "
            "Check the base's scheduler_config.json."
        )
    return VariancePreserving(predicts=PREDICTED[name], alphas=alphas_cumprod(scheduler_config))


SD_PROCESS = process_of({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012})
"""Process of Stable Diffusion 1.x: noise prediction over 1000 timesteps, betas linear in their square root."""

assert set(WHY_NOT) <= set(get_args(Weighting))
