"""Loss scaling for fp16: gradients below its smallest number would be zero.

The loss is multiplied by a power of two before the backward pass, and the gradients are divided by it, exactly,
afterwards. When one overflows, the step is made again with half the scale; after many good steps the scale doubles.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST = 1.0
"""A gradient that overflows even without scaling is not cured by it."""


@dataclass
class LossScale:
    """The scale of the moment.

    The same rule as ``torch.amp.GradScaler``, over one flat buffer; but a step that overflowed is made again, with
    the same samples, instead of being left out.

    Attributes:
        scale: a power of two.
        interval: good steps after which it doubles.
        good: good steps since it changed.
        repeated: steps that were made again so far.

    Source: Micikevicius et al. 2017, arXiv:1710.03740, section 3.2.
    """

    scale: float = 2.0**16
    interval: int = 2000
    good: int = 0
    repeated: int = 0

    def overflowed(self) -> None:
        """A gradient was not finite."""
        self.scale, self.good, self.repeated = self.scale / 2, 0, self.repeated + 1

    def succeeded(self) -> None:
        """Count a step that did not overflow."""
        self.good += 1
        if self.good == self.interval:
            self.scale, self.good = self.scale * 2, 0

    @property
    def hopeless(self) -> bool:
        """Whether it fell below what helps."""
        return self.scale < SMALLEST

    def tensor(self) -> Tensor:
        """(3,) float64: what :meth:`load` takes."""
        return torch.tensor([self.scale, float(self.good), float(self.repeated)], dtype=torch.float64)

    def load(self, saved: Tensor) -> None:
        """Put back what :meth:`tensor` gave."""
        scale, good, repeated = saved.tolist()
        self.scale, self.good, self.repeated = scale, int(good), int(repeated)
