"""A stage that is told to stop."""

import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detour.pocket.pretrain.stage import Schedule, Stage, load_average


def new_stage(work: Path) -> Stage:
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    stage = Stage(
        name="layer",
        work=work,
        modules=layer,
        optimizers=[torch.optim.AdamW(layer.parameters(), lr=0.1)],
        schedule=Schedule(steps=4, warmup=1, decay=2),
        seed=1,
        average_decay=0.9,
    )
    stage.resume()
    return stage


def run(stage: Stage, *, stop_at: int | None = None) -> None:
    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
        if step == stop_at:
            signal.raise_signal(signal.SIGTERM)
        return stage.modules(torch.randn(8, 4, generator=generator)).square().mean(), {}

    stage.run(loss)


@pytest.fixture
def through(tmp_path: Path) -> dict[str, Tensor]:
    (tmp_path / "through").mkdir()
    run(new_stage(tmp_path / "through"))
    return load_average(tmp_path / "through" / "layer.pt")


def test_a_stop_saves_and_keeps_the_next_stage_from_running(
    tmp_path: Path, through: dict[str, Tensor]
) -> None:
    """Ctrl-C in the middle of the VAE must not cache latents of a half-trained one."""
    with pytest.raises(SystemExit, match=r"stopped after step 2 of 4.*Run the same command again"):
        run(new_stage(tmp_path), stop_at=1)
    resumed = new_stage(tmp_path)
    assert resumed.step == 2
    run(resumed)
    again = load_average(tmp_path / "layer.pt")
    assert all(torch.equal(value, again[name]) for name, value in through.items())
