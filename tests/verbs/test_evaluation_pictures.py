from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.attach import attach_adapter
from detour.errors import AdapterError
from detour.evaluation.compared import Side
from detour.evaluation.pixels import max_abs_diff, mean_abs_diff
from detour.evaluation.proof_pictures import ProofRequest
from detour.specs import RunSpec
from detour.verbs.judge.side_pictures import Drawn, Painter, SideSource, Ways
from detour.verbs.progress import Progress, silent


class OneLayerEngine:
    """Draws a picture with a single Linear: enough for adapters to be attached, merged and taken away."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.unet = nn.Sequential(nn.Linear(4, 48)).requires_grad_(False)
        self.models = {"unet": self.unet}

    def draw(self, requests: Any, spec: Any, *, adapters: Any = (), batch: int = 4, **_: Any) -> Any:
        start = torch.stack(
            [torch.randn(4, generator=torch.Generator().manual_seed(request.seed)) for request in requests]
        )
        on = [
            attach_adapter(self.models, one.adapter, one.weight, name=str(i))
            for i, one in enumerate(adapters)
        ]
        with torch.no_grad():
            pixels = self.unet(start).sigmoid() * 255
        for one in on:
            one.detach()
        return SimpleNamespace(pictures=pixels.round().to(torch.uint8).reshape(-1, 4, 4, 3).numpy())


def adapter(path: str = "0", scale: float = 1.0) -> Adapter:
    torch.manual_seed(1)
    layer = LoraLayer(down=torch.randn(2, 4), up=scale * torch.randn(48, 2), alpha=2.0)
    return Adapter({f"unet.{path}": layer})


PROOF = [ProofRequest(prompt="a", seed=seed) for seed in range(3)]
HELD_OUT = ("one", "two", "three", "four", "five")


def drawn_by(
    engine: OneLayerEngine,
    what: Adapter,
    *,
    weight: float = 1.0,
    prompts: Sequence[str] = HELD_OUT,
    **options: Any,
) -> Drawn:
    painter = Painter(folder=None, base=None, spec=RunSpec(), device="cpu", weight=weight)  # type: ignore[arg-type]
    painter.__dict__["engine"] = engine
    sides: dict[Side, SideSource] = {"base": SideSource(), "adapter": SideSource(adapter=what)}
    asked = {"held_out": prompts} if prompts else {}
    return painter.draw_all(sides, asked, seeds=1, proof=PROOF, progress=options.pop("progress", silent))


def ways(engine: OneLayerEngine, what: Adapter, **options: Any) -> Ways:
    found = drawn_by(engine, what, **options).ways
    assert found is not None
    return found


def test_the_adapter_moves_pictures_and_switching_it_off_takes_that_back() -> None:
    drawn = drawn_by(OneLayerEngine(), adapter())
    assert drawn.ways is not None
    assert mean_abs_diff(drawn.ways.adapter, drawn.ways.base) > 5
    new = drawn.pictures["held_out"]
    assert mean_abs_diff(new["adapter"], new["base"]) > 5
    assert np.array_equal(drawn.ways.switched_off, drawn.ways.base)


def test_the_merged_base_draws_what_the_adapter_draws() -> None:
    drawn = ways(OneLayerEngine(), adapter())
    assert max_abs_diff(drawn.merged, drawn.adapter) <= 1


def test_the_weight_reaches_the_attached_and_the_merged_side() -> None:
    engine = OneLayerEngine()
    half, full = ways(engine, adapter(), weight=0.5), ways(engine, adapter())
    assert mean_abs_diff(half.adapter, half.base) < mean_abs_diff(full.adapter, full.base)
    assert max_abs_diff(half.merged, half.adapter) <= 1
    off = ways(engine, adapter(), weight=0.0)
    assert np.array_equal(off.adapter, off.base)


def test_the_engine_is_as_before_afterwards() -> None:
    engine = OneLayerEngine()
    before = {name: tensor.clone() for name, tensor in engine.unet.state_dict().items()}
    drawn_by(engine, adapter())
    after = engine.unet.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_an_adapter_whose_keys_match_nothing_leaves_every_side_the_bases() -> None:
    drawn = drawn_by(OneLayerEngine(), adapter("somewhere.else"))
    assert drawn.ways is not None
    assert np.array_equal(drawn.ways.adapter, drawn.ways.base)
    assert np.array_equal(drawn.pictures["held_out"]["adapter"], drawn.pictures["held_out"]["base"])


def test_an_adapter_that_matches_in_part_is_refused() -> None:
    mixed = Adapter({**adapter().layers, **adapter("somewhere.else").layers})
    with pytest.raises(AdapterError, match="somewhere"):
        drawn_by(OneLayerEngine(), mixed)


@pytest.mark.parametrize("what", [adapter(), adapter("somewhere.else")])
def test_progress_counts_every_picture_once(what: Adapter) -> None:
    told: list[Progress] = []
    drawn_by(OneLayerEngine(), what, progress=told.append)
    total = 4 * len(PROOF) + 2 * len(HELD_OUT)
    assert (told[-1].done, told[-1].total) == (total, total)
    assert [one.done for one in told] == sorted({one.done for one in told})


def test_without_new_prompts_the_picture_proof_is_drawn_alone() -> None:
    drawn = drawn_by(OneLayerEngine(), adapter(), prompts=())
    assert not drawn.pictures
    assert drawn.ways is not None
    assert len(drawn.ways.base) == len(PROOF)
