"""What is timed must be the same work: a benchmark of unlike steps says nothing."""

import json
from pathlib import Path

import pytest
import torch
from benchmarks.__main__ import VARIANTS, measure, optimizers, ratio, time_interleaved
from benchmarks.memory import kept_mib
from benchmarks.shapes import Shape
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from benchmarks import loops
from detour.adapters.targets import adaptable_layers, select
from detour.diffusion.schedule import alphas_cumprod
from tests.tiny_base import SCHEDULER, TEXT_WIDTH, make_tiny_base


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> loops.Setting:
    folder = make_tiny_base(tmp_path_factory.mktemp("base"), heads=2)

    def frozen(kind: type[torch.nn.Module], part: str, dtype: torch.dtype) -> torch.nn.Module:
        return kind.from_pretrained(folder / part, torch_dtype=dtype).eval().requires_grad_(False)  # type: ignore[attr-defined]

    states = torch.randn(4, 77, TEXT_WIDTH, generator=torch.Generator().manual_seed(0))
    shape = Shape(
        name="tiny",
        unet=lambda dtype: frozen(UNet2DConditionModel, "unet", dtype),
        vae=lambda dtype: frozen(AutoencoderKL, "vae", dtype),
        text=lambda dtype: lambda places: states[list(places)].to(dtype),
        pixels=torch.rand(4, 3, 64, 64),
        alphas=alphas_cumprod(SCHEDULER),
        batch=2,
    )
    return loops.Setting(shape=shape, rank=2, targets="attn", dtype=torch.float32)


def test_every_variant_takes_a_step_and_the_figures_are_json(setting: loops.Setting) -> None:
    caches = loops.make_caches(setting.shape)
    seconds, figures = measure(setting, caches, names=list(VARIANTS), rounds=1)
    assert set(seconds) == {*VARIANTS, "separate AdamW", "flat AdamW"}
    assert json.loads(json.dumps(figures))["ratios"]["detour / forward"] > 0


def test_peft_and_detour_train_the_same_factors(setting: loops.Setting) -> None:
    theirs = loops.with_peft(setting)[1]
    ours = loops.with_detour(setting)[1].parameters()
    assert [p.shape for p in theirs] == [p.shape for p in ours]


def test_a_step_of_each_moves_every_up(setting: loops.Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    caches, moved = loops.make_caches(setting.shape), []
    for maker in ("with_peft", "with_detour"):
        make = getattr(loops, maker)
        monkeypatch.setattr(loops, maker, lambda s, make=make: moved.append(make(s)) or moved[-1])
    for variant in (loops.peft, loops.official, loops.detour):
        moved.clear()
        variant(setting, caches)(0)
        trained: list[Tensor] = moved[0][1] if isinstance(moved[0][1], list) else moved[0][1].parameters()
        assert len(trained) == 2 * len(select(adaptable_layers(setting.shape.unet(torch.float32)), "attn"))
        assert all(float(up.detach().abs().sum()) > 0 for up in trained[1::2])


def test_ratios_are_medians_within_rounds_and_a_part_can_count_alone() -> None:
    assert ratio([2.0, 30.0, 2.0], [1.0, 10.0, 1.0]) == 2.0
    seconds = time_interleaved({"part": lambda index: float(index)}, rounds=3)
    assert seconds == {"part": [1.0, 2.0, 3.0]}


def test_both_optimizers_see_the_same_tensors(setting: loops.Setting) -> None:
    assert all(step(1) for step in optimizers(setting).values())


def test_kept_bytes_fall_from_full_to_peft_to_ours_to_checkpointing(setting: loops.Setting) -> None:
    found = kept_mib(setting, loops.make_caches(setting.shape))
    assert list(found) == ["full", "peft", "detour", "detour, checkpointing"]
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_the_readme_names_the_command_of_its_figures() -> None:
    text = (Path(__file__).parents[2] / "benchmarks" / "README.md").read_text()
    assert "python -m benchmarks" in text
