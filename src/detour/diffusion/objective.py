"""How far a prediction is from its target, and how much each time counts."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from detour.diffusion.process import HuberSchedule, Process, Weighting

Distance = Literal["mse", "huber"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How far a prediction is from its target, and how much each time counts.

    Attributes:
        weighting: of the times, see :meth:`detour.diffusion.process.Process.weigh`.
        snr_gamma: clamp of min-SNR.
        distance: squared error, or pseudo-Huber, which outliers move less.
        huber_c: where pseudo-Huber turns from square to straight, see
            :meth:`detour.diffusion.process.Process.huber_thresholds`.
        huber_schedule: whether that place moves with the time.
    """

    weighting: Weighting = "uniform"
    snr_gamma: float = 5.0
    distance: Distance = "mse"
    huber_c: float = 0.1
    huber_schedule: HuberSchedule = "snr"

    def loss(
        self,
        prediction: Tensor,
        wanted: Tensor,
        *,
        process: Process,
        times: Tensor,
        weights: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Loss of a batch, a float32 scalar.

        Args:
            prediction: (N, C, H, W), any float dtype.
            wanted: from :meth:`detour.diffusion.process.Process.target`.
            process: of the base, on the same device.
            times: (N,).
            weights: (N,) of each sample, on top of its time's.
            mask: (N, 1, H, W), of mean 1 a sample.

        Raises:
            ConfigError: the process does not take the weighting.
        """
        counted = process.weigh(self.weighting, times, gamma=self.snr_gamma)
        thresholds = None
        if self.distance == "huber":
            thresholds = process.huber_thresholds(self.huber_schedule, times, c=self.huber_c)
        return denoising_loss(
            prediction,
            wanted,
            counted if weights is None else counted * weights,
            mask=mask,
            thresholds=thresholds,
        )


def denoising_loss(
    prediction: Tensor,
    wanted: Tensor,
    weights: Tensor,
    *,
    mask: Tensor | None = None,
    thresholds: Tensor | None = None,
) -> Tensor:
    """Weighted mean error in float32, whatever the precision of the forward pass.

    Squared error, or with ``thresholds`` pseudo-Huber ``2c (√(d² + c²) − c)``, which is ``d²`` for small differences
    ``d`` and ``2c |d|`` for large ones.

    Args:
        prediction: (N, C, H, W), any float dtype.
        wanted: as ``prediction``.
        weights: (N,) from :meth:`detour.diffusion.process.Process.weigh`.
        mask: (N, 1, H, W), multiplied onto the error of each position. The mean stays that over all positions: a mask
            of mean 1 keeps the scale of the loss, whatever share it leaves.
        thresholds: (N,) from :meth:`detour.diffusion.process.Process.huber_thresholds`.

    Returns:
        Scalar float32.
    """
    difference = prediction.float() - wanted.float()
    if thresholds is None:
        error = difference.square()
    else:
        c = thresholds.view(-1, *([1] * (difference.ndim - 1)))
        error = 2 * c * ((difference.square() + c.square()).sqrt() - c)
    if mask is not None:
        error = error * mask
    return (error.flatten(1).mean(1) * weights).mean()
