"""In which order pictures are shown: an endless sequence that is a pure function of the seed.

A step shows pictures of one size only. So each size (a bucket) has a sequence of its own, epoch after epoch, each a
new permutation, and each step takes the next pictures of one bucket. Buckets take turns in proportion to how many
pictures they hold, evenly spread. Nothing is dropped and nothing is shown twice to fill up: a bucket whose pictures do
not fill a step goes on with its next epoch within the step. With one size this is a plain walk through epochs.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detour.diffusion.randomness import derive, order_for_epoch


@dataclass(frozen=True)
class Shown:
    """One sample of one step.

    Attributes:
        place: in the epoch's list of pictures.
        epoch: how often the whole bucket was shown before.
    """

    place: int
    epoch: int


@dataclass(frozen=True)
class ShowOrder:
    """What the samples of every step show.

    Attributes:
        seed: of the sequence.
        buckets: places in the epoch's list, grouped by size; each at least one.
        per_step: samples in a step.
    """

    seed: int
    buckets: tuple[tuple[int, ...], ...]
    per_step: int

    def at(self, step: int, sample: int) -> Shown:
        """Sample ``sample`` (from 0) of step ``step``."""
        bucket, before = self.visit(step)
        places = self.buckets[bucket]
        epoch, position = divmod(before * self.per_step + sample, len(places))
        seed = self.seed if len(self.buckets) == 1 else derive(self.seed, "bucket", bucket)
        return Shown(places[_permutation(seed, epoch, len(places))[position]], epoch)

    def visit(self, step: int) -> tuple[int, int]:
        """(bucket of the step, how many steps showed that bucket before)."""
        counts = self._counts
        if len(counts) == 1:
            return 0, step
        cycle, position = divmod(step, sum(counts))
        turns = _turns(self.seed, cycle, counts)
        bucket = int(turns[position])
        return bucket, cycle * counts[bucket] + int(np.count_nonzero(turns[:position] == bucket))

    @property
    def _counts(self) -> tuple[int, ...]:
        """Steps of each bucket in one cycle, after which every picture was shown equally often."""
        counts = [len(places) for places in self.buckets]
        common = math.gcd(*counts)
        return tuple(count // common for count in counts)


def group_places(sizes: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Places of equal size together, groups in the order of their sizes."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, size in enumerate(sizes):
        groups.setdefault(size, []).append(place)
    return tuple(tuple(groups[size]) for size in sorted(groups))


@functools.lru_cache(maxsize=64)
def _permutation(seed: int, epoch: int, length: int) -> tuple[int, ...]:
    return tuple(order_for_epoch(seed, epoch, length).tolist())


@functools.lru_cache(maxsize=4)
def _turns(seed: int, cycle: int, counts: tuple[int, ...]) -> NDArray[np.int64]:
    """Which bucket each step of a cycle shows, (sum of ``counts``,).

    Turn j of a bucket with c turns falls somewhere in the j-th of c equal parts of the cycle, so that at every moment
    each bucket has had its share to within about one turn.
    """
    generator = np.random.Generator(np.random.PCG64(derive(seed, "turns", cycle)))
    times = [(np.arange(count) + generator.random(count)) / count for count in counts]
    buckets = np.repeat(np.arange(len(counts)), counts)
    return buckets[np.argsort(np.concatenate(times), kind="stable")]
