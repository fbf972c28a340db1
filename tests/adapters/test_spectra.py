import pytest
import torch

from detour.adapters.layers import DoraLayer
from detour.adapters.spectra import singular_values_of
from tests.adapters.kinds import EVERY, IDS, loha


@pytest.mark.parametrize(("name", "make", "shape"), EVERY, ids=IDS)
def test_singular_values_from_factors_are_those_of_the_dense_change(name, make, shape) -> None:  # type: ignore[no-untyped-def]
    layer = make(shape)
    dense = (layer.change if isinstance(layer, DoraLayer) else layer).delta().double().flatten(1)
    expected = torch.linalg.svdvals(dense)
    found = singular_values_of(layer)
    count = min(len(found), len(expected))
    torch.testing.assert_close(found[:count], expected[:count], rtol=1e-5, atol=1e-6)
    assert float(expected[count:].sum() + found[count:].sum()) < 1e-5


def test_a_loha_of_small_rank_is_taken_apart_by_its_factors() -> None:
    layer = loha((30, 20))
    assert layer.rank**2 < 20
    expected = torch.linalg.svdvals(layer.delta().double())
    torch.testing.assert_close(singular_values_of(layer)[:4], expected[:4], rtol=1e-5, atol=1e-6)
    assert len(singular_values_of(layer)) == 4
