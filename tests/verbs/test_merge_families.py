"""Merging with every algorithm in every family, folders and single files: forward equals merged, and out again."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from detour.adapter_files import write_adapter
from detour.adapters.adapter import Adapter
from detour.adapters.layers import DoraLayer, Layer, LoraLayer
from detour.adapters.lycoris_layers import LohaLayer, LokrLayer
from detour.bases.base import open_base
from detour.bases.single_file_writing import write_single_file
from detour.verbs.adapter_tools.merging import merge_adapters
from tests.adapters.kinds import numbers
from tests.tiny_base import make_tiny_base, make_tiny_sd2, make_tiny_sdxl

MAKE: dict[str, Callable[[Path], Path]] = {
    "sd1": make_tiny_base,
    "sd2": make_tiny_sd2,
    "sdxl": make_tiny_sdxl,
}
Shape = tuple[int, ...]


def lora(shape: Shape, seed: int) -> LoraLayer:
    ones = (1, 1) if len(shape) == 4 else ()
    down, up = numbers(2, *shape[1:], seed=seed), numbers(shape[0], 2, *ones, seed=seed + 1)
    return LoraLayer(down=0.5 * down, up=0.5 * up, alpha=3.0)


def dora(shape: Shape, seed: int) -> DoraLayer:
    return DoraLayer(change=lora(shape, seed), magnitude=numbers(shape[0], seed=seed).abs() + 0.5)


def loha(shape: Shape, seed: int) -> LohaLayer:
    a = [numbers(shape[0], 2, seed=seed + one) for one in (0, 1)]
    b = [numbers(2, torch.Size(shape[1:]).numel(), seed=seed + one) for one in (0, 1)]
    return LohaLayer(w1_a=a[0], w2_a=a[1], w1_b=b[0], w2_b=b[1], alpha=1.0)


def lokr(shape: Shape, seed: int) -> LokrLayer:
    second = (shape[0] // 4, shape[1] // 4 * torch.Size(shape[2:]).numel())
    a, b = 0.5 * numbers(second[0], 1, seed=seed), numbers(1, second[1], seed=seed)
    return LokrLayer(w1=0.5 * numbers(4, 4, seed=seed), w2_a=a, w2_b=b, alpha=1.0)


KINDS: dict[str, Callable[[Shape, int], Layer]] = {"lora": lora, "dora": dora, "loha": loha, "lokr": lokr}


def adapter_on(base: str, kinds: tuple[str, ...]) -> Adapter:
    """A layer on each third weight of the UNet and on each second of the text encoders, the kinds in turn."""
    opened = open_base(base)
    models = {"unet": opened.load_network(), **opened.load_text().models}
    found: list[tuple[str, Shape]] = []
    for part, model in models.items():
        names = [
            (f"{part}.{name.removeprefix('text_model.')}", tuple(module.weight.shape))
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and min(module.weight.shape[:2]) >= 16
        ]
        found += names[:: 3 if part == "unet" else 2]
    layers = {
        key: KINDS[kinds[index % len(kinds)]](shape, index)
        for index, (key, shape) in enumerate(sorted(found))
    }
    return Adapter(layers)


@pytest.fixture(scope="module")
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder and a single file of the same base."""
    folder = MAKE[request.param](tmp_path_factory.mktemp("bases") / request.param)
    return folder, write_single_file(open_base(str(folder)), folder.with_suffix(".safetensors"))


@pytest.mark.parametrize("base", list(MAKE), indirect=True)
def test_merged_draws_what_base_and_adapter_draw_for_every_algorithm(
    base: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, _ = base
    adapter = adapter_on(str(folder), ("lora", "dora", "loha", "lokr"))
    assert len(adapter.kinds) == 4
    path = write_adapter(tmp_path / "a.safetensors", adapter, family=open_base(str(folder)).family)
    result = merge_adapters(str(folder), [f"{path}:0.7"], out=tmp_path / "m", pictures=1)
    assert result.pictures is not None
    assert result.pictures.merged_max <= 1
    assert result.pictures.effect > 1
    assert result.merged == len(adapter.layers)
    assert result.dtypes == ("float32",)


def states(path: Path) -> dict[str, torch.Tensor]:
    opened = open_base(str(path))
    models = {"unet": opened.load_network(), **opened.load_text().models}
    return {
        f"{part}.{name}": one for part, model in models.items() for name, one in model.state_dict().items()
    }


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("base", "layouts"),
    [
        ("sdxl", ("file", "folder")),
        pytest.param("sdxl", ("file", "file"), marks=SLOW),
        pytest.param("sdxl", ("folder", "file"), marks=SLOW),
        ("sd2", ("file", "file")),
        pytest.param("sd2", ("file", "folder"), marks=SLOW),
        pytest.param("sd2", ("folder", "file"), marks=SLOW),
        pytest.param("sd1", ("file", "folder"), marks=SLOW),
    ],
    indirect=["base"],
)
def test_every_layout_gives_the_same_merged_weights(
    base: tuple[Path, Path], tmp_path: Path, layouts: tuple[str, str]
) -> None:
    """Also where a file keeps q, k and v in one tensor: the parts that no adapter has stay as they are."""
    folder, file = base
    adapter = adapter_on(str(folder), ("lora", "dora", "loha"))
    path = write_adapter(tmp_path / "a.safetensors", adapter, family=open_base(str(folder)).family)
    merge_adapters(str(folder), [str(path)], out=tmp_path / "expected", pictures=0)
    out = tmp_path / ("m.safetensors" if layouts[1] == "file" else "m")
    result = merge_adapters(str(file if layouts[0] == "file" else folder), [str(path)], out=out, pictures=0)
    assert result.kind == layouts[1]
    expected, found = states(tmp_path / "expected"), states(out)
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize("base", ["sd2", pytest.param("sdxl", marks=SLOW)], indirect=True)
def test_taking_it_out_again_restores_the_file_to_rounding(base: tuple[Path, Path], tmp_path: Path) -> None:
    """A DoRA's change depends on the weight it is merged into: it is not taken out by its opposite."""
    _, file = base
    adapter = adapter_on(str(file), ("lora", "loha", "lokr"))
    path = write_adapter(tmp_path / "a.safetensors", adapter, family=open_base(str(file)).family)
    merge_adapters(str(file), [f"{path}:0.8"], out=tmp_path / "in.safetensors", pictures=0)
    merge_adapters(
        str(tmp_path / "in.safetensors"), [f"{path}:-0.8"], out=tmp_path / "back.safetensors", pictures=0
    )
    before, inside, back = (
        load_file(one) for one in (file, tmp_path / "in.safetensors", tmp_path / "back.safetensors")
    )
    assert any(not torch.equal(before[name], inside[name]) for name in before)
    for name, tensor in before.items():
        largest = max(float(inside[name].abs().max()), 1e-3)
        assert float((back[name] - tensor).abs().max()) <= 2**-22 * largest, name
