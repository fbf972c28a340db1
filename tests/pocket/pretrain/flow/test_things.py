"""Where objects are in a training picture, and how much more their latents count."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from detour.pocket.pretrain.flow.things import (
    THING_WEIGHT,
    covered_shares,
    latent_weights,
    read_covered_shares,
)
from detour.pocket.world import HOUSE, render, training_example


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_the_covered_latents_are_those_that_change_when_the_object_is_drawn(index: int) -> None:
    scene = training_example(7, index).scene
    with_things = render(scene, HOUSE).astype(int)
    without = render(dataclasses.replace(scene, things=()), HOUSE).astype(int)
    changed = (np.abs(with_things - without).max(axis=-1) > 8).reshape(16, 8, 16, 8).mean(axis=(1, 3))
    covered = covered_shares(scene)
    assert changed[covered == 1].min() > 0.7  # what is covered entirely was painted over
    assert np.corrcoef(changed.ravel(), covered.ravel())[0, 1] > 0.8  # a shadow and the outline lie outside


def test_shares_are_computed_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "things.npy"
    first = read_covered_shares(path, seed=3, count=2)
    assert torch.equal(read_covered_shares(path, seed=3, count=2), first)
    assert torch.equal(first[1], torch.from_numpy(covered_shares(training_example(3, 1).scene)))
    np.save(path.with_suffix(""), np.zeros((2, 16, 16), dtype=np.float16))
    assert read_covered_shares(path, seed=3, count=2).sum() == 0  # what is kept is read
    assert len(read_covered_shares(path, seed=3, count=3)) == 3  # too few are computed again


def test_a_covered_latent_counts_several_times_and_the_mean_weight_is_one() -> None:
    shares = torch.tensor([[[0.0, 1.0], [0.5, 0.0]]])
    weights = latent_weights(shares, mirrored=torch.tensor([False]))
    assert weights.shape == (1, 1, 2, 2)
    assert weights.mean() == pytest.approx(1)
    assert weights[0, 0, 0, 1] / weights[0, 0, 0, 0] == pytest.approx(THING_WEIGHT)


def test_a_mirrored_picture_has_the_weights_of_its_mirror_image() -> None:
    shares = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(1))
    weights = latent_weights(shares, mirrored=torch.tensor([False, True]))
    turned = latent_weights(
        torch.stack([shares[0], shares[1].flip(-1)]), mirrored=torch.zeros(2, dtype=torch.bool)
    )
    assert torch.equal(weights, turned)
    assert not torch.equal(weights, latent_weights(shares, mirrored=torch.zeros(2, dtype=torch.bool)))
