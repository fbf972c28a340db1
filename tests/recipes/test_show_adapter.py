import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from detour.adapter_files.container import encode
from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import write_adapter
from detour.adapters.adapter import Adapter, DoraLayer
from detour.adapters.targets import adaptable_layers
from detour.bases.base import open_base
from detour.bases.families import FAMILIES
from detour.cli.main import cli
from detour.errors import AdapterError
from detour.recipes.show_adapter import read_config, read_shapes, show_adapter
from tests.adapter_files.examples import SD1, adapter_for, small_adapter
from tests.adapter_files.transformers import lora_on, tiny_flux
from tests.adapters.kinds import LINEAR, LINEAR_KINDS

METADATA = {
    "detour.config": 'seed = 7\n\n[base]\nname = "pocket"\n',
    "modelspec.trigger_phrase": "sks",
    "modelspec.thumbnail": "data:image/jpeg;base64,AAAA",
    "ss_output_name": "neon\x1b[31m",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    adapter = Adapter(small_adapter(text=True).layers, METADATA)
    return write_adapter(tmp_path / "neon.safetensors", adapter, family=SD1)


@pytest.mark.parametrize("file_format", ["kohya", "diffusers"])
def test_the_header_alone_tells_the_same_as_the_whole_file(tmp_path: Path, file_format: str) -> None:
    path = write_adapter(
        tmp_path / "a.safetensors",
        small_adapter(text=True),
        file_format=file_format,  # type: ignore[arg-type]
        family=SD1,
    )
    header, whole = show_adapter(path, norms=False), show_adapter(path)
    left_out = {"blocks", "tensor_sha256", "hash_agrees"}
    assert header.model_dump(exclude=left_out) == whole.model_dump(exclude=left_out)
    assert [block.norm for block in header.blocks] == [None] * 3
    assert whole.file_format == file_format
    assert whole.ranks == {2: 3, 3: 1}
    assert whole.alphas == {1.5: 1, 3.0: 1, 8.0: 2}
    assert whole.hash_agrees is True


def test_the_header_is_enough_when_the_rest_is_enormous(tmp_path: Path) -> None:
    """A sparse file of 200 MB, of which the header is read."""
    path = tmp_path / "huge.safetensors"
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    shapes = {f"{key}.lora_down.weight": [512, 100_000], f"{key}.lora_up.weight": [64, 512]}
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * shape[1]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + offset)
    report = show_adapter(path)
    assert (report.num_bytes > 200_000_000, report.ranks) == (True, {512: 1})
    assert report.blocks[0].norm is None


def test_norms_add_up_over_the_blocks(file: Path) -> None:
    report = show_adapter(file)
    adapter = read_adapter(file)
    energy = sum(float(layer.delta().square().sum()) for layer in adapter.layers.values())
    assert sum((block.norm or 0.0) ** 2 for block in report.blocks) == pytest.approx(energy, rel=1e-5)
    assert [block.block for block in report.blocks] == ["rest", "down.0", "text_encoder"]
    assert all(0 < (block.first_share or 0) <= (block.first_four_share or 0) <= 1 for block in report.blocks)


def test_the_settings_of_the_run_come_back_as_they_were(file: Path) -> None:
    assert read_config(file) == METADATA["detour.config"]
    shown = CliRunner().invoke(cli, ["show", str(file), "--config"])
    assert shown.output == METADATA["detour.config"]


def test_a_file_without_settings_says_so(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.safetensors", small_adapter(), family=SD1)
    with pytest.raises(AdapterError, match="carries no settings"):
        read_config(path)


def test_layers_that_a_base_does_not_have_are_named(tiny_base: Path, tmp_path: Path) -> None:
    base = open_base(str(tiny_base))
    adapter = adapter_for(adaptable_layers(base.meta_unet()))
    odd = "unet.down_blocks.7.attentions.0.transformer_blocks.0.attn1.to_q"
    layers = {**adapter.layers, odd: small_adapter().layers["unet.conv_in"]}
    path = write_adapter(tmp_path / "a.safetensors", Adapter(layers), file_format="diffusers", family=SD1)
    match = show_adapter(path, base=str(tiny_base)).match
    assert match is not None
    assert match.fitting == len(adapter.layers)
    assert len(match.problems) == 1
    assert "down_blocks.7" in match.problems[0]


def test_a_changed_tensor_no_longer_agrees_with_the_hash(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert show_adapter(file).hash_agrees is False


def test_a_peft_folder_is_shown(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "p", small_adapter(), file_format="peft", family=SD1)
    report = show_adapter(path)
    assert (report.file_format, report.dtype, report.parts) == ("peft", "fp32", {"unet": 3})


def test_a_header_that_lies_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(AdapterError, match="header"):
        show_adapter(path, norms=False)
    path.write_bytes(encode({"lora_unet_conv_in.lora_down.weight": torch.ones(2, 4)}, {})[:-8])
    with pytest.raises(AdapterError):
        read_shapes(path)


def test_the_command_shows_and_draws(file: Path, tmp_path: Path) -> None:
    plot = tmp_path / "blocks.png"
    result = CliRunner().invoke(cli, ["show", str(file), "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    assert "trigger    sks" in result.output
    assert "\x1b" not in result.output
    assert "norm of ΔW" in result.output
    with Image.open(plot) as image:
        assert image.width > 600
    again = CliRunner().invoke(cli, ["show", str(file), "--plot", str(plot)])
    assert "is there already" in str(again.exception)
    told = json.loads(CliRunner().invoke(cli, ["show", str(file), "--json"]).output)
    assert told["parts"] == {"unet": 3, "text_encoder": 1}


def test_every_algorithm_has_figures_by_block(tmp_path: Path) -> None:
    block = "unet.mid_block.attentions.0.transformer_blocks.{}.attn1.to_q"
    layers = {block.format(index): make(LINEAR) for index, make in enumerate(LINEAR_KINDS.values())}
    path = write_adapter(tmp_path / "a.safetensors", Adapter(layers), family=SD1)
    report = show_adapter(path)
    (mid,) = report.blocks
    changes = [
        layer.change if isinstance(layer, DoraLayer) else layer
        for layer in read_adapter(path).layers.values()
    ]
    assert mid.norm == pytest.approx(
        sum(float(one.delta().square().sum()) for one in changes) ** 0.5, rel=1e-5
    )
    assert 1.0 <= (mid.stable_rank or 0.0) < 6.0
    printed = CliRunner().invoke(cli, ["show", str(path)]).output
    assert "of DoRA layers, the change of direction" in printed


def test_flux_and_sd3_files_are_shown_from_header_and_whole(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.safetensors", lora_on(tiny_flux()), family=FAMILIES["flux"])
    whole, header = show_adapter(path), show_adapter(path, norms=False)
    assert whole.family == header.family == "flux"
    assert whole.parts == {"transformer": 50}
    assert whole.blocks[0].norm is not None
    assert header.blocks[0].norm is None
