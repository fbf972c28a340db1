from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import write_adapter
from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.analysis import relative_differences
from detour.adapters.targets import adaptable_layers
from detour.bases.base import open_base
from detour.bases.families import FAMILIES
from detour.cli.main import cli
from detour.errors import AdapterError, BaseError, ConfigError
from detour.verbs.adapter_tools.extraction import extract_adapter
from detour.verbs.adapter_tools.merging import merge_adapters
from tests.adapter_files.examples import SD1, adapter_for
from tests.adapters.kinds import numbers
from tests.tiny_base import make_tiny_sdxl

UNET = Path("unet") / "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def tuned(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An adapter of rank 2 and 4 beside every layer, and the tiny base with it merged."""
    folder = tmp_path_factory.mktemp("tuned")
    layers = adaptable_layers(open_base(str(tiny_base)).meta_network())
    adapter = write_adapter(folder / "a.safetensors", adapter_for(layers), family=SD1)
    return adapter, merge_adapters(str(tiny_base), [str(adapter)], out=folder / "tuned", pictures=0).path


def test_a_merged_adapter_comes_out_again(tiny_base: Path, tuned: tuple[Path, Path], tmp_path: Path) -> None:
    result = extract_adapter(str(tiny_base), str(tuned[1]), out=tmp_path / "e.safetensors", rank=4)
    differences = relative_differences(read_adapter(tuned[0]), read_adapter(result.path))
    assert max(differences.values()) < 1e-4
    assert result.kept > 0.999999
    assert result.left_out == ()


def test_a_lower_rank_says_what_it_keeps(tiny_base: Path, tuned: tuple[Path, Path], tmp_path: Path) -> None:
    result = extract_adapter(str(tiny_base), str(tuned[1]), out=tmp_path / "e.safetensors", rank=1)
    lost = relative_differences(read_adapter(tuned[0]), read_adapter(result.path))
    for one in result.layers:
        assert one.rank == 1
        assert lost[one.layer] == pytest.approx((1 - one.kept) ** 0.5, rel=1e-2, abs=1e-4)


def test_what_an_adapter_cannot_hold_is_named(
    tiny_base: Path, tuned: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tuned[1] / UNET
    tensors = load_file(path)
    changed = tensors | {"conv_norm_out.weight": tensors["conv_norm_out.weight"] + 1}
    save_file(changed, path, {"format": "pt"})
    try:
        arguments = ["extract", str(tiny_base), str(tuned[1]), "--rank", "2"]
        result = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "e.safetensors")])
    finally:
        save_file(tensors, path, {"format": "pt"})
    assert result.exit_code == 0, result.output
    assert "1 biases and norms differ too" in result.output
    assert "conv_norm_out.weight" in result.output


def test_bases_that_are_the_same_or_do_not_belong_together_are_refused(
    tiny_base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "e.safetensors"
    with pytest.raises(AdapterError, match="the same weights"):
        extract_adapter(str(tiny_base), str(tiny_base), out=out)
    with pytest.raises(BaseError, match="different shapes"):
        extract_adapter(str(tiny_base), "pocket", out=out)
    with pytest.raises(ConfigError, match="end in"):
        extract_adapter(str(tiny_base), str(tiny_base), out=tmp_path / "e")
    assert not out.exists()


def test_changes_of_both_text_encoders_come_out_as_well(tmp_path: Path) -> None:
    """SDXL, from single files: open_clip's fused q, k and v are layers of their own."""
    base = make_tiny_sdxl(tmp_path / "xl")
    keys = ("text_encoder.encoder.layers.0.mlp.fc1", "text_encoder_2.encoder.layers.1.self_attn.k_proj")
    shapes = ((64, 32), (32, 32))
    layers = {
        key: LoraLayer(down=numbers(2, size[1]), up=numbers(size[0], 2), alpha=3.0)
        for key, size in zip(keys, shapes, strict=True)
    }
    adapter = write_adapter(tmp_path / "a.safetensors", Adapter(layers), family=FAMILIES["sdxl"])
    tuned = merge_adapters(str(base), [str(adapter)], out=tmp_path / "t.safetensors", pictures=0).path
    result = extract_adapter(str(base), str(tuned), out=tmp_path / "e.safetensors", rank=2)
    assert {one.layer for one in result.layers} == set(keys)
    assert max(relative_differences(Adapter(layers), read_adapter(result.path)).values()) < 1e-4
