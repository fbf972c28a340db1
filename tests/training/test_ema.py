import pytest
import torch
from torch import nn

from detour.training.ema import Ema


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_average_is_that_of_diffusers(decay: float) -> None:
    from diffusers.training_utils import EMAModel

    weights = nn.Parameter(torch.zeros(5))
    mine, theirs = Ema(weights, decay=decay), EMAModel([weights], decay=decay)
    for update in range(1, 30):
        weights.data = torch.randn(5, generator=torch.Generator().manual_seed(update))
        mine.update(weights, update)
        theirs.step([weights])
        torch.testing.assert_close(mine.values, theirs.shadow_params[0], rtol=1e-5, atol=1e-6)


def test_a_young_average_has_forgotten_where_it_began() -> None:
    ema = Ema(torch.full((1,), 100.0), decay=0.999)
    ema.update(torch.ones(1), 1)
    assert ema.values.item() == 1.0
    assert [ema.decay_at(update) for update in (2, 12, 10**6)] == [2 / 11, 12 / 21, 0.999]
