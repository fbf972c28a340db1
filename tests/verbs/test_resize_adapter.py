import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import write_adapter
from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.analysis import relative_differences
from detour.cli.main import cli
from detour.errors import AdapterError, ConfigError
from detour.verbs.adapter_tools.composition import compose_adapters
from detour.verbs.adapter_tools.resizing import resize_adapter
from tests.adapter_files.examples import SD1, small_adapter
from tests.adapters.kinds import LINEAR, dora, loha, lokr, lokr_whole

METADATA = {
    "detour.config": "seed = 1\n",
    "ss_steps": "120",
    "detour.family": "sd1",
    "modelspec.trigger_phrase": "sks",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    adapter = Adapter(small_adapter(rank=4, text=True).layers, METADATA)
    return write_adapter(tmp_path / "a.safetensors", adapter, family=SD1)


def test_each_layer_keeps_the_share_that_is_told(file: Path, tmp_path: Path) -> None:
    result = resize_adapter(file, out=tmp_path / "s.safetensors", rank=2)
    before, after = read_adapter(file), read_adapter(result.path)
    lost = relative_differences(before, after)
    for one in result.layers:
        assert one.rank == 2
        assert lost[one.layer] == pytest.approx((1 - one.kept) ** 0.5, rel=1e-3), one.layer
    assert 0 < result.kept < 1
    assert result.parameters < result.parameters_before


def test_the_share_is_kept_with_as_few_directions_as_can_be(file: Path, tmp_path: Path) -> None:
    result = resize_adapter(file, out=tmp_path / "s.safetensors", energy=0.6)
    assert all(one.kept >= 0.6 and one.rank < one.rank_before for one in result.layers)


@pytest.mark.parametrize("rank", [5, 8])
def test_a_rank_that_changes_nothing_is_refused(file: Path, tmp_path: Path, rank: int) -> None:
    """The file's highest rank is 5."""
    with pytest.raises(ConfigError, match=f"--rank {rank}: no layer has a higher rank than 5.*below 5"):
        resize_adapter(file, out=tmp_path / "s.safetensors", rank=rank)
    assert resize_adapter(file, out=tmp_path / "s.safetensors", rank=4).path.is_file()


def test_a_change_that_overflows_is_one_line_and_leaves_no_file(tmp_path: Path) -> None:
    key = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    huge = LoraLayer(down=torch.full((2, 8), 1e30), up=torch.full((6, 2), 1e30), alpha=2.0)
    source = write_adapter(tmp_path / "a.safetensors", Adapter({key: huge}), family=SD1)
    out = tmp_path / "out.safetensors"
    for make in (
        lambda: resize_adapter(source, out=out, rank=1),
        lambda: compose_adapters([str(source), f"{source}:0.5"], out=out),
        lambda: compose_adapters([str(source), f"{source}:0.5"], out=out, rank=1, method="ties"),
    ):
        with pytest.raises(AdapterError, match="would overflow"):
            make()
    with pytest.raises(AdapterError, match="NaN or infinity"):  # alpha, which is written in float32
        resize_adapter(source, out=out, blocks="down=1e39")
    assert not out.exists()


def test_resizing_a_dora_says_who_draws_it_wrongly(tmp_path: Path) -> None:
    key = "unet.time_embedding.linear_1"
    source = write_adapter(tmp_path / "a.safetensors", Adapter({key: dora(LINEAR)}), family=SD1)
    result = resize_adapter(source, out=tmp_path / "b.safetensors", blocks="rest=1")
    assert "A1111" in result.notes[0]
    assert "detour merge" in result.notes[0]
    assert resize_adapter(source, out=tmp_path / "c", blocks="rest=1", to="peft").notes == ()


def test_blocks_alone_keep_every_rank(file: Path, tmp_path: Path) -> None:
    result = resize_adapter(file, out=tmp_path / "s.safetensors", blocks="down=0.5,text_encoder=0")
    before, after = read_adapter(file), read_adapter(result.path)
    assert set(before.layers) - set(after.layers) == {"text_encoder.encoder.layers.1.self_attn.q_proj"}
    for key, layer in after.layers.items():
        share = 0.5 if ".down_blocks." in key else 1.0
        assert layer.alpha == share * before.layers[key].alpha
        assert next(one for one in result.layers if one.layer == key).weight == share
    assert result.kept == 1.0
    assert result.switched_off == ("text_encoder.encoder.layers.1.self_attn.q_proj",)
    assert after.metadata["detour.resize_blocks"] == "down=0.5,text_encoder=0"


@pytest.mark.parametrize("make", [loha, lokr, lokr_whole], ids=["loha", "lokr", "lokr-whole"])
def test_blocks_of_other_algorithms_are_weighed_exactly(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    adapter = Adapter({"unet.mid_block.attentions.0.proj_in": make(LINEAR), "unet.conv_in": make(LINEAR)})
    source = write_adapter(tmp_path / "a.safetensors", adapter, family=SD1)
    result = resize_adapter(source, out=tmp_path / "s.safetensors", blocks="mid=0.25,rest=0")
    ((key, layer),) = read_adapter(result.path).layers.items()
    torch.testing.assert_close(layer.delta(), 0.25 * adapter.layers[key].delta())
    with pytest.raises(AdapterError, match="a lower rank needs plain LoRA"):
        resize_adapter(source, out=tmp_path / "t.safetensors", rank=1)


def test_a_dora_can_be_switched_off_by_block_but_not_halved(tmp_path: Path) -> None:
    adapter = Adapter({"unet.mid_block.attentions.0.proj_in": dora(LINEAR), "unet.conv_in": dora(LINEAR)})
    source = write_adapter(tmp_path / "a.safetensors", adapter, family=SD1)
    out = tmp_path / "s.safetensors"
    with pytest.raises(AdapterError, match=r"mid_block.*dora"):
        resize_adapter(source, out=out, blocks="mid=0.5")
    assert not out.exists()
    assert set(read_adapter(resize_adapter(source, out=out, blocks="mid=0").path).layers) == {"unet.conv_in"}


def test_the_trigger_stays_and_the_settings_that_no_longer_hold_go(file: Path, tmp_path: Path) -> None:
    result = resize_adapter(file, out=tmp_path / "small.safetensors", rank=1)
    metadata = read_adapter(result.path).metadata
    assert metadata["modelspec.trigger_phrase"] == "sks"
    assert metadata["modelspec.title"] == "small"
    assert metadata["ss_network_dim"] == "1"
    assert "detour.config" not in metadata
    source = read_adapter(file).metadata
    parent = {"name": "a", "weight": 1.0, "sha256": source["sshs_model_hash"]}
    assert json.loads(metadata["detour.resize"]) == [parent]
    assert "ss_steps" not in metadata


def test_nothing_to_do_and_bad_settings_are_refused(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    with pytest.raises(ConfigError, match="nothing to do"):
        resize_adapter(file, out=out)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        resize_adapter(file, out=out, energy=2.0)
    with pytest.raises(ConfigError, match="no layers in block"):
        resize_adapter(file, out=out, blocks="middle=0")
    assert not out.exists()


def test_the_command_names_the_layers_that_lose_most(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    result = CliRunner().invoke(cli, ["resize", str(file), "--rank", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "Layers that keep least" in result.output
    assert "of the change's energy over all 4 layers" in result.output
    again = ["resize", str(file), "--rank", "1", "--out", str(out), "--force", "--json"]
    assert len(json.loads(CliRunner().invoke(cli, again).output)["layers"]) == 4
