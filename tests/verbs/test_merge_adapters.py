import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from detour.adapter_files.writing import write_adapter
from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.targets import adaptable_layers
from detour.bases.base import open_base
from detour.bases.single_file_writing import write_single_file
from detour.cli.main import cli
from detour.errors import AdapterError, ConfigError, ProofFailed
from detour.verbs.adapter_tools import merged_weights
from detour.verbs.adapter_tools import merging as recipe
from detour.verbs.adapter_tools.merging import merge_adapters
from tests.adapter_files.examples import SD1, adapter_for, small_adapter

UNET = Path("unet") / "diffusion_pytorch_model.safetensors"
TEXT = Path("text_encoder") / "model.safetensors"


@pytest.fixture(scope="module")
def loras(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One beside every UNet layer, one with a text encoder layer too."""
    folder = tmp_path_factory.mktemp("loras")
    layers = adaptable_layers(open_base(str(tiny_base)).meta_network())
    return (
        write_adapter(folder / "a.safetensors", adapter_for(layers), family=SD1),
        write_adapter(folder / "b.safetensors", small_adapter(text=True), family=SD1),
    )


def in_half(tiny_base: Path, out: Path) -> Path:
    shutil.copytree(tiny_base, out)
    for path in (out / UNET, out / TEXT):
        save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    return out


@pytest.mark.parametrize(("half", "size"), [(False, 1e20), (True, 300.0)])
def test_a_change_that_overflows_is_never_written_whatever_is_skipped(
    tiny_base: Path, tmp_path: Path, half: bool, size: float
) -> None:
    """90,000 fits fp32 and overflows fp16, whose largest number is 65,504."""
    base = in_half(tiny_base, tmp_path / "half") if half else tiny_base
    key = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    layer = LoraLayer(down=torch.full((1, 32), size), up=torch.full((32, 1), size), alpha=1.0)
    lora = write_adapter(tmp_path / "big.safetensors", Adapter({key: layer}), family=SD1)
    for out in (tmp_path / "out", tmp_path / "out.safetensors"):
        with pytest.raises(ProofFailed, match="the adapters' change is not finite"):
            merge_adapters(str(base), [str(lora)], out=out, pictures=0)
        assert not out.exists()


@pytest.mark.parametrize("name", ["merged.png", "merged.ckpt", "taken/merged", "folder.safetensors"])
def test_a_place_that_cannot_take_the_output_is_told_before_the_work(
    tiny_base: Path, loras: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(recipe, "open_base", lambda *_, **__: pytest.fail("work was done"))
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "folder.safetensors").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError):
        merge_adapters(str(tiny_base), [str(loras[0])], out=tmp_path / name, force=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_merged_folder_draws_what_base_and_adapters_draw(
    tiny_base: Path, loras: tuple[Path, Path], tmp_path: Path
) -> None:
    result = merge_adapters(str(tiny_base), [f"{loras[0]}:0.8", f"{loras[1]}:0.5"], out=tmp_path / "merged")
    assert result.pictures is not None
    assert result.pictures.merged_max <= 1
    assert result.pictures.effect > 1
    assert result.largest_difference < 1e-5
    before, after = load_file(tiny_base / UNET), load_file(tmp_path / "merged" / UNET)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == result.merged - 1  # the other one is the text encoder's
    assert (tmp_path / "merged" / "model_index.json").read_bytes() == (
        tiny_base / "model_index.json"
    ).read_bytes()


def test_a_merged_weight_is_the_base_plus_the_weighted_changes(
    tiny_base: Path, loras: tuple[Path, Path], tmp_path: Path
) -> None:
    merge_adapters(str(tiny_base), [f"{loras[1]}:0.5"], out=tmp_path / "m", pictures=0)
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    layer = small_adapter().layers[f"unet.{key}"]
    before = load_file(tiny_base / UNET)[f"{key}.weight"]
    after = load_file(tmp_path / "m" / UNET)[f"{key}.weight"]
    torch.testing.assert_close(after, before + 0.5 * layer.delta(), rtol=0, atol=1e-6)
    name = "encoder.layers.1.self_attn.q_proj.weight"
    text_before, text_after = (load_file(path / TEXT) for path in (tiny_base, tmp_path / "m"))
    name = next(found for found in text_before if found.endswith(name))
    assert not torch.equal(text_before[name], text_after[name])


def test_merging_with_the_opposite_weight_restores_the_base(
    tiny_base: Path, loras: tuple[Path, Path], tmp_path: Path
) -> None:
    merge_adapters(str(tiny_base), [f"{loras[0]}:0.8"], out=tmp_path / "in", pictures=0)
    merge_adapters(str(tmp_path / "in"), [f"{loras[0]}:-0.8"], out=tmp_path / "back", pictures=0)
    before, back = load_file(tiny_base / UNET), load_file(tmp_path / "back" / UNET)
    for name, tensor in before.items():
        largest = float(load_file(tmp_path / "in" / UNET)[name].abs().max())
        assert float((back[name] - tensor).abs().max()) <= 2**-22 * max(largest, 1e-3), name


def test_the_bases_precision_is_kept_and_its_rounding_told(
    tiny_base: Path, loras: tuple[Path, Path], tmp_path: Path
) -> None:
    half = in_half(tiny_base, tmp_path / "half")
    result = merge_adapters(str(half), [str(loras[0])], out=tmp_path / "merged")
    assert result.dtypes == ("float16",)
    assert {tensor.dtype for tensor in load_file(tmp_path / "merged" / UNET).values()} == {torch.float16}
    assert 1e-5 < result.largest_difference < 0.05
    assert result.pictures is not None


def test_the_sum_is_rounded_once(tiny_base: Path, tmp_path: Path) -> None:
    """Two changes that fp16 cannot add one after the other, but together."""
    half = in_half(tiny_base, tmp_path / "half")
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    layer = small_adapter(rank=1, alpha=1.0).layers[f"unet.{key}"]
    assert isinstance(layer, LoraLayer)
    weight = load_file(half / UNET)[f"{key}.weight"]
    step = weight.float().abs().max() * 2**-12
    third = LoraLayer(down=torch.ones_like(layer.down), up=step * torch.ones_like(layer.up), alpha=1.0)
    path = write_adapter(tmp_path / "small.safetensors", Adapter({f"unet.{key}": third}), family=SD1)
    merge_adapters(str(half), [str(path)] * 4, out=tmp_path / "m", pictures=0)
    after = load_file(tmp_path / "m" / UNET)[f"{key}.weight"]
    assert torch.equal(after, (weight.float() + 4 * third.delta()).half())


def test_single_files_are_written_from_folders_and_from_files(
    tiny_base: Path, loras: tuple[Path, Path], tmp_path: Path
) -> None:
    base = open_base(str(tiny_base))
    single = write_single_file(base, tmp_path / "base.safetensors")
    texts = [str(loras[0]), f"{loras[1]}:0.5"]
    from_folder = merge_adapters(str(tiny_base), texts, out=tmp_path / "x.safetensors", pictures=1)
    from_file = merge_adapters(str(single), texts, out=tmp_path / "y.safetensors", pictures=1)
    assert from_folder.kind == from_file.kind == "file"
    first, second = load_file(tmp_path / "x.safetensors"), load_file(tmp_path / "y.safetensors")
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for result in (from_folder, from_file):
        assert result.pictures is not None
        assert result.pictures.merged_max <= 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "base.config", "base.safetensors", "x.config", "x.safetensors", "y.config", "y.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("loss", ["weight", "untouched"])
def test_weights_that_are_not_what_was_asked_for_leave_no_output(
    tiny_base: Path, loras: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    """Planted: a merge that forgets the strength, and one that changes what no adapter has."""
    true = merged_weights.merged_tensor
    if loss == "weight":
        monkeypatch.setattr(
            merged_weights,
            "merged_tensor",
            lambda weight, pieces: true(weight, [(a, 1.0) for a, _ in pieces]),
        )
    else:
        original = merged_weights._merge_file

        def careless(source: Path, target: Path, named: object) -> None:
            original(source, target, named)  # type: ignore[arg-type]
            tensors = load_file(target)
            tensors["conv_in.bias"] = tensors["conv_in.bias"] + 1e-3
            save_file(tensors, target)

        monkeypatch.setattr(merged_weights, "_merge_file", careless)
    with pytest.raises(ProofFailed, match=r"off by|'conv_in\.bias' changed"):
        merge_adapters(str(tiny_base), [f"{loras[0]}:0.5"], out=tmp_path / "m", pictures=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("base", "out", "error", "message"),
    [
        ("sdxl", "x.safetensors", "BaseError", "settings alone"),
        ("tiny", "taken", ConfigError, "is there already"),
    ],
)
def test_bad_requests_write_nothing(
    tiny_base: Path,
    loras: tuple[Path, Path],
    tmp_path: Path,
    base: str,
    out: str,
    error: object,
    message: str,
) -> None:
    (tmp_path / "taken").write_text("mine")
    name = str(tiny_base) if base == "tiny" else base
    with pytest.raises(Exception, match=message):
        merge_adapters(name, [str(loras[0])], out=tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken").read_text() == "mine"


def test_an_adapter_of_another_base_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    other = write_adapter(tmp_path / "o.safetensors", small_adapter(width=768), family=SD1)
    with pytest.raises(AdapterError, match="width 768"):
        merge_adapters(str(tiny_base), [str(other)], out=tmp_path / "m")
    with pytest.raises(ConfigError, match="nothing to merge"):
        merge_adapters(str(tiny_base), [], out=tmp_path / "m")


def test_the_command_prints_both_proofs(tiny_base: Path, loras: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ["merge", str(tiny_base), "--lora", f"{loras[0]}:0.5", "--pictures", "1"]
    result = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "m")])
    assert result.exit_code == 0, result.output
    assert "merged    a ×0.5 into tiny" in result.output
    assert "pictures  merged against adapters:" in result.output
    told = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "n"), "--json"])
    assert json.loads(told.output)["untouched"] > 0
