import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import FileFormat, write_adapter
from detour.adapters.adapter import Adapter, LoraLayer
from detour.cli.main import cli
from detour.errors import AdapterError, ConfigError
from detour.verbs.adapter_tools import composition
from detour.verbs.adapter_tools.composition import compose_adapters
from tests.adapter_files.examples import SD1, small_adapter


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two adapters of other ranks and alphas; the second has a text encoder layer too."""
    generator = torch.Generator().manual_seed(3)
    first = small_adapter(rank=2, alpha=8.0)
    second = Adapter(
        {
            key: LoraLayer(
                down=torch.randn(layer.tensors["down"].shape, generator=generator),
                up=torch.randn(layer.tensors["up"].shape, generator=generator),
                alpha=3.0,
            )
            for key, layer in small_adapter(rank=3, text=True).layers.items()
        }
    )
    return (
        write_adapter(tmp_path / "a.safetensors", first, family=SD1),
        write_adapter(tmp_path / "b.safetensors", second, family=SD1),
    )


def texts(files: tuple[Path, Path]) -> list[str]:
    return [f"{files[0]}:0.8", f"{files[1]}:0.5"]


def summed(files: tuple[Path, Path], key: str) -> torch.Tensor:
    pieces = [(read_adapter(file), weight) for file, weight in zip(files, (0.8, 0.5), strict=True)]
    changes = [weight * adapter.layers[key].delta() for adapter, weight in pieces if key in adapter.layers]
    return torch.stack(changes).sum(0)


def test_the_composed_file_holds_the_weighted_sum(files: tuple[Path, Path], tmp_path: Path) -> None:
    result = compose_adapters(texts(files), out=tmp_path / "c.safetensors")
    assert result.written is not None
    composed = read_adapter(result.written.path)
    for key, layer in composed.layers.items():
        expected = summed(files, key)
        assert float((layer.delta() - expected).norm() / expected.norm()) < 1e-6, key
    assert len(composed.layers) == 4
    assert (result.written.kept, result.written.ranks) == (1.0, (3, 7))
    said = json.loads(composed.metadata["detour.compose"])
    assert [(one["name"], one["weight"]) for one in said] == [("a", 0.8), ("b", 0.5)]
    assert said[1]["sha256"] == read_adapter(files[1]).metadata["sshs_model_hash"]


@pytest.mark.parametrize(("to", "name"), [("diffusers", "c.safetensors"), ("peft", "c")])
def test_other_formats_hold_the_weighted_sum_in_half_precision(
    files: tuple[Path, Path], tmp_path: Path, to: FileFormat, name: str
) -> None:
    result = compose_adapters(texts(files), out=tmp_path / name, to=to, dtype="fp16")
    assert result.written is not None
    assert 0 < result.written.largest_difference < 2**-11
    composed = read_adapter(result.written.path)
    assert len(composed.layers) == 4
    for key, layer in composed.layers.items():
        expected = summed(files, key)
        assert float((layer.delta() - expected).norm() / expected.norm()) < 2**-11, key


def test_nothing_of_how_the_parents_were_trained_is_said_of_the_sum(tmp_path: Path) -> None:
    said = {"ss_steps": "120", "ss_seed": "3", "detour.config": "seed = 3\n", "detour.family": "sd1"}
    for name, trigger in (("a", "sks robot"), ("b", "glass")):
        metadata = said | {"modelspec.trigger_phrase": trigger, "modelspec.title": name}
        adapter = Adapter(small_adapter().layers, metadata)
        write_adapter(tmp_path / f"{name}.safetensors", adapter, family=SD1)
    out = tmp_path / "both.safetensors"
    compose_adapters([str(tmp_path / f"{name}.safetensors") for name in "ab"], out=out)
    metadata = read_adapter(out).metadata
    assert not {"ss_steps", "ss_seed", "detour.config"} & set(metadata)
    assert metadata["modelspec.trigger_phrase"] == "sks robot, glass"
    assert (metadata["modelspec.title"], metadata["detour.family"]) == ("both", "sd1")


def test_a_file_that_is_not_there_is_named_as_it_was_written(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=f"^{tmp_path}/none: no such file"):
        compose_adapters([f"{tmp_path}/none", f"{tmp_path}/none"], out=None)


@pytest.mark.parametrize("name", ["sum.png", "sum.ckpt", "taken/sum.safetensors", "folder.safetensors"])
def test_a_place_that_cannot_take_the_output_is_told_before_the_work(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(composition, "_opened", lambda *_, **__: pytest.fail("work was done"))
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "folder.safetensors").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError):
        compose_adapters(texts(files), out=tmp_path / name, force=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_lower_rank_keeps_what_it_says(files: tuple[Path, Path], tmp_path: Path) -> None:
    result = compose_adapters(texts(files), out=tmp_path / "c.safetensors", rank=2)
    assert result.written is not None
    composed = read_adapter(result.written.path)
    lost = sum(
        float((layer.delta() - summed(files, key)).square().sum()) for key, layer in composed.layers.items()
    )
    total = sum(float(summed(files, key).square().sum()) for key in composed.layers)
    assert result.written.kept == pytest.approx(1 - lost / total, rel=1e-4)
    assert result.written.ranks == (2, 2)


def test_ties_needs_a_rank_and_writes_one(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "c.safetensors"
    with pytest.raises(ConfigError, match="needs --rank"):
        compose_adapters(texts(files), out=out, method="ties")
    with pytest.raises(ConfigError, match="of --method ties alone"):
        compose_adapters(texts(files), out=out, density=0.3)
    result = compose_adapters(texts(files), out=out, method="ties", rank=4)
    assert result.written is not None
    assert result.written.ranks == (4, 4)
    assert 0 < result.written.kept < 1


def test_without_a_place_it_only_predicts(files: tuple[Path, Path], tmp_path: Path) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    result = compose_adapters(texts(files), out=None)
    assert result.written is None
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    (pair,) = result.pairs
    assert (pair.first, pair.second, pair.shared_layers) == ("a", "b", 3)
    assert 0 < pair.shared < 1
    assert pair.interference > 0


def test_an_adapter_goes_against_its_opposite(files: tuple[Path, Path]) -> None:
    (pair,) = compose_adapters([str(files[0]), f"{files[0]}:-1"], out=None).pairs
    assert pair.verdict == "against"
    assert pair.cancelled == pytest.approx(1.0)


def test_the_heat_map_has_a_cell_for_each_block_and_kind(files: tuple[Path, Path], tmp_path: Path) -> None:
    plot = tmp_path / "shared.png"
    (pair,) = compose_adapters(texts(files), out=None, plot=plot).pairs
    assert {block: set(row) for block, row in pair.map.items()} == {
        "rest": {"conv"}, "down.0": {"cross k", "cross out"},
    }  # fmt: skip
    with Image.open(plot) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 200
    with pytest.raises(ConfigError, match="is there already"):
        compose_adapters(texts(files), out=None, plot=plot)
    with pytest.raises(ConfigError, match=r"\.png"):
        compose_adapters(texts(files), out=None, plot=tmp_path / "shared.jpg")


def test_adapters_that_do_not_belong_together_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_adapter(
        tmp_path / "o.safetensors", small_adapter(width=2048), file_format="diffusers", family=SD1
    )
    with pytest.raises(AdapterError, match="different families"):
        compose_adapters([str(files[0]), str(other)], out=tmp_path / "c.safetensors")
    with pytest.raises(AdapterError, match="every weight is 0"):
        compose_adapters([f"{files[0]}:0", f"{files[1]}:0"], out=tmp_path / "c.safetensors")
    with pytest.raises(ConfigError, match="two adapters or more"):
        compose_adapters([str(files[0])], out=None)
    assert not (tmp_path / "c.safetensors").exists()


def test_the_command_predicts_then_writes(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "c.safetensors"
    result = CliRunner().invoke(cli, ["compose", *texts(files), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "a and b:" in result.output
    assert "100.00% of the change's energy kept" in result.output
    told = CliRunner().invoke(cli, ["compose", *texts(files), "--json"])
    assert json.loads(told.output)["written"] is None
