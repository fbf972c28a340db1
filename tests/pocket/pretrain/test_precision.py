"""The precision that the pre-training computes in."""

import pytest
import torch

from detour.pocket.pretrain import optimizers, precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_computed_in_the_chosen_precision(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (precision, optimizers):
        monkeypatch.setattr(module, "fast_dtype", lambda: dtype)
    matrix = torch.eye(4)
    with precision.autocast():
        assert (matrix @ matrix).dtype == dtype
    assert (matrix @ matrix).dtype == torch.float32
    assert optimizers.orthogonalise(matrix[None]).dtype == dtype


@pytest.mark.parametrize(("has_amx", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_is_taken_where_the_processor_has_it(
    has_amx: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    assert precision.fast_dtype.__wrapped__() == expected
