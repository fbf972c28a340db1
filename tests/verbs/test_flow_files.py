"""Adapters of SD 3 and Flux as files: merged, taken out of a merged base again, made smaller, joined."""

from pathlib import Path
from typing import Any

import pytest
import torch

from detour.adapter_files import read_adapter, write_adapter
from detour.bases.base import open_base
from detour.bases.families import FAMILIES
from detour.errors import ConfigError
from detour.verbs.adapter_tools.composition import compose_adapters
from detour.verbs.adapter_tools.extraction import extract_adapter
from detour.verbs.adapter_tools.merging import merge_adapters
from detour.verbs.adapter_tools.resizing import resize_adapter
from tests.adapter_files.transformers import lora_on
from tests.tiny_flow import make_tiny_flux, make_tiny_sd3


@pytest.fixture(scope="module", params=["sd3", "flux"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def base(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(family) / "base"
    return make_tiny_sd3(folder, t5=False) if family == "sd3" else make_tiny_flux(folder)


@pytest.fixture(scope="module")
def lora(family: str, base: Path) -> Path:
    adapter = lora_on(open_base(str(base)).load_network())
    return write_adapter(base.with_name("lora.safetensors"), adapter, family=FAMILIES[family])


def deltas(path: Path) -> dict[str, torch.Tensor]:
    return {key: layer.delta() for key, layer in read_adapter(path).layers.items()}


def test_merging_and_taking_out_again(family: str, base: Path, lora: Path, tmp_path: Path) -> None:
    import diffusers

    result = merge_adapters(str(base), [f"{lora}:0.7"], out=tmp_path / "merged", pictures=1, prompt="a fish")
    assert result.pictures is not None
    assert result.pictures.merged_max <= 1
    assert result.pictures.effect > 1
    assert result.merged == len(read_adapter(lora).layers)
    kind: Any = diffusers.SD3Transformer2DModel if family == "sd3" else diffusers.FluxTransformer2DModel
    theirs = kind.from_pretrained(tmp_path / "merged" / "transformer").state_dict()
    before = open_base(str(base)).load_network().state_dict()
    for key, delta in deltas(lora).items():
        name = key.removeprefix("transformer.") + ".weight"
        torch.testing.assert_close(
            theirs[name], before[name] + 0.7 * delta.view_as(before[name]), rtol=0, atol=1e-5
        )
    taken = tmp_path / "taken.safetensors"
    extract_adapter(str(base), str(tmp_path / "merged"), out=taken, rank=3)
    found, wanted = deltas(taken), deltas(lora)
    assert found.keys() == wanted.keys()
    for key, delta in wanted.items():
        torch.testing.assert_close(found[key].view_as(delta), 0.7 * delta, rtol=0, atol=1e-5)


def test_merging_into_a_single_file_is_refused_before_anything_is_done(
    base: Path, lora: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no single files of them are written"):
        merge_adapters(str(base), [str(lora)], out=tmp_path / "merged.safetensors")
    assert not list(tmp_path.iterdir())


def test_resizing_and_joining(base: Path, lora: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.safetensors"
    resize_adapter(lora, out=small, rank=1, to="diffusers")
    layers = read_adapter(small).layers
    assert {layer.rank for layer in layers.values()} == {1}
    assert layers.keys() == read_adapter(lora).layers.keys()
    both = tmp_path / "both.safetensors"
    compose_adapters([f"{lora}:0.5", f"{small}:2"], out=both)
    first, second = deltas(lora), deltas(small)
    for key, delta in deltas(both).items():
        torch.testing.assert_close(delta, 0.5 * first[key] + 2 * second[key], rtol=0, atol=1e-5)
