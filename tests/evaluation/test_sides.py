from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from detour.adapters.adapter import Adapter, LoraLayer
from detour.errors import AdapterError
from detour.evaluation.pixels import max_abs_diff, mean_abs_diff
from detour.evaluation.proof_pictures import ProofRequest
from detour.evaluation.sides import draw_sides
from detour.specs import RunSpec


class OneLayerEngine:
    """Draws a picture with a single Linear: enough for adapters to be attached, merged and taken away."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.unet = nn.Sequential(nn.Linear(4, 48)).requires_grad_(False)
        self.text = SimpleNamespace(models={}, with_words=lambda words: nullcontext())

    @property
    def models(self) -> dict[str, nn.Module]:
        return {"unet": self.unet}

    def draw(self, requests: Any, spec: Any, *, batch: int = 4) -> Any:
        start = torch.stack(
            [torch.randn(4, generator=torch.Generator().manual_seed(request.seed)) for request in requests]
        )
        with torch.no_grad():
            pixels = self.unet(start).sigmoid() * 255
        return SimpleNamespace(pictures=pixels.round().to(torch.uint8).reshape(-1, 4, 4, 3).numpy())


def adapter(path: str = "0", scale: float = 1.0) -> Adapter:
    torch.manual_seed(1)
    layer = LoraLayer(down=torch.randn(2, 4), up=scale * torch.randn(48, 2), alpha=2.0)
    return Adapter({f"unet.{path}": layer})


PROOF = [ProofRequest(prompt="a", seed=seed) for seed in range(3)]
HELD_OUT = [ProofRequest(prompt="b", seed=seed) for seed in range(10, 15)]


def sides(engine: OneLayerEngine, what: Adapter, **options: Any) -> Any:
    return draw_sides(engine, what, proof=PROOF, held_out=HELD_OUT, spec=RunSpec(), **options)  # type: ignore[arg-type]


def test_the_adapter_moves_pictures_and_switching_it_off_takes_that_back() -> None:
    drawn = sides(OneLayerEngine(), adapter())
    assert mean_abs_diff(drawn.adapter, drawn.base) > 5
    assert mean_abs_diff(drawn.held_out_adapter, drawn.held_out_base) > 5
    assert np.array_equal(drawn.switched_off, drawn.base)


def test_the_merged_base_draws_what_the_adapter_draws() -> None:
    drawn = sides(OneLayerEngine(), adapter())
    assert max_abs_diff(drawn.merged, drawn.adapter) <= 1


def test_the_weight_reaches_the_attached_and_the_merged_side() -> None:
    engine = OneLayerEngine()
    half, full = sides(engine, adapter(), weight=0.5), sides(engine, adapter())
    assert mean_abs_diff(half.adapter, half.base) < mean_abs_diff(full.adapter, full.base)
    assert max_abs_diff(half.merged, half.adapter) <= 1
    off = sides(engine, adapter(), weight=0.0)
    assert np.array_equal(off.adapter, off.base)


def test_the_engine_is_as_before_afterwards() -> None:
    engine = OneLayerEngine()
    before = {name: tensor.clone() for name, tensor in engine.unet.state_dict().items()}
    sides(engine, adapter())
    after = engine.unet.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_an_adapter_whose_keys_match_nothing_leaves_every_side_the_bases() -> None:
    drawn = sides(OneLayerEngine(), adapter("somewhere.else"))
    assert drawn.layers_matched == 0
    assert np.array_equal(drawn.adapter, drawn.base)


def test_an_adapter_that_matches_in_part_is_refused() -> None:
    mixed = Adapter({**adapter().layers, **adapter("somewhere.else").layers})
    with pytest.raises(AdapterError, match="somewhere"):
        sides(OneLayerEngine(), mixed)


def test_progress_counts_every_picture_once() -> None:
    told: list[tuple[int, int]] = []
    sides(OneLayerEngine(), adapter(), on_pictures=lambda done, total: told.append((done, total)))
    total = 4 * len(PROOF) + 2 * len(HELD_OUT)
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_without_held_out_requests_their_sides_are_empty() -> None:
    drawn = draw_sides(OneLayerEngine(), adapter(), proof=PROOF, held_out=[], spec=RunSpec())  # type: ignore[arg-type]
    assert len(drawn.held_out_base) == len(drawn.held_out_adapter) == 0
