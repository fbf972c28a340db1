import json
import os
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from detour.adapter_files.container import decode, encode
from detour.adapter_files.limits import DEFAULT_LIMITS
from detour.adapter_files.reading import read_adapter, require_intact
from detour.adapter_files.writing import write_adapter
from detour.adapters.adapter import Adapter, DoraLayer
from detour.adapters.targets import adaptable_layers
from detour.bases.base import open_base
from detour.bases.families import FAMILIES
from detour.cli.main import cli, run
from detour.errors import AdapterError
from detour.verbs.adapter_tools.contents import read_config, read_shapes, show_adapter
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


EVIL = "neon\x1b[31m\x9b2J\u202egnp.\u2066\x7f\x07\U000e0001"


@pytest.mark.parametrize("flags", [[], ["--json"], ["--config"], ["--base", "pocket"]])
def test_nothing_of_a_file_steers_the_terminal(tmp_path: Path, flags: list[str]) -> None:
    """Controls, ANSI sequences and bidirectional marks in names, values and triggers are shown as escapes."""
    said = {
        **METADATA,
        "detour.config": f"name = '{EVIL}'\nseed = 7\n",
        "ss_output_name": EVIL,
        f"key{EVIL}": "x",
        "modelspec.trigger_phrase": EVIL,
        "modelspec.architecture": f"stable-diffusion-v1{EVIL}",
    }
    adapter = Adapter(small_adapter(text=True).layers, said)
    file = write_adapter(tmp_path / "neon.safetensors", adapter, family=SD1)
    shown = CliRunner().invoke(cli, ["show", str(file), *flags])
    assert shown.exit_code == 0, shown.output
    unsafe = [
        sign
        for sign in shown.output
        if unicodedata.category(sign) in ("Cc", "Cf", "Co", "Cn") and sign != "\n"
    ]
    assert unsafe == []
    assert "\\u202e" in shown.output
    if flags == ["--json"]:
        assert json.loads(shown.output)["metadata"]["ss_output_name"] == EVIL


def test_nothing_of_a_file_steers_the_terminal_from_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(encode({f"odd{EVIL}": torch.ones(1)}, {}))
    (tmp_path / f"b{EVIL}.safetensors").write_bytes(b"nonsense" * 9)
    for path in (file, tmp_path / f"b{EVIL}.safetensors"):
        with pytest.raises(SystemExit):
            run(["show", str(path)])
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert told.rstrip("\n").replace("…", "").isprintable()


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
    kept, folded = {1.5: 1, 3.0: 1, 8.0: 2}, {2.0: 3, 3.0: 1}
    assert whole.alphas == (kept if file_format == "kohya" else folded)
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
    adapter = adapter_for(adaptable_layers(base.meta_network()))
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


@pytest.mark.parametrize("key", ["sshs_model_hash", "modelspec.hash_sha256"])
def test_the_hash_is_compared_under_either_key_and_said_where_it_is_not(
    file: Path, tmp_path: Path, key: str
) -> None:
    tensors, metadata = decode(file.read_bytes(), DEFAULT_LIMITS, where="x")
    one = tmp_path / "one.safetensors"
    one.write_bytes(encode(tensors, {key: metadata[key]}))
    assert show_adapter(one).hash_agrees is True
    require_intact(one)
    told = CliRunner().invoke(cli, ["show", str(one), "--no-norms"]).output
    assert "sha-256    stated by the file and not compared" in told
    damaged = bytearray(one.read_bytes())
    damaged[-1] ^= 1
    one.write_bytes(damaged)
    assert show_adapter(one).hash_agrees is False
    assert "NOT what the file says" in CliRunner().invoke(cli, ["show", str(one)]).output
    with pytest.raises(AdapterError, match="damaged"):
        require_intact(one)
    one.write_bytes(encode(tensors, {}))
    assert "sha-256" not in CliRunner().invoke(cli, ["show", str(one), "--no-norms"]).output
    assert show_adapter(one).hash_agrees is None


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


def header(table: Any, data: bytes = b"") -> bytes:
    text = json.dumps(table).encode() if not isinstance(table, bytes) else table
    return len(text).to_bytes(8, "little") + text + data


NAME = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"
ENTRY = f'"{NAME}": {{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            header({NAME: {"dtype": "F32", "shape": [2**40] * 2, "data_offsets": [0, 8]}}, bytes(8)),
            "its shape",
        ),
        (
            header({NAME: {"dtype": "F32", "shape": [-4, -4], "data_offsets": [0, 64]}}, bytes(64)),
            "the shape",
        ),
        (header(f"{{{ENTRY}, {ENTRY}}}".encode(), bytes(4)), "stands there twice"),
        (header({NAME: {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, bytes(4)), "has dtype"),
        (header(b"[" * 100_000), "its header is not valid"),
        (b"PK\x03\x04" + bytes(64), "a pickle"),
        (b"", "0 bytes"),
    ],
)
def test_the_header_alone_is_checked_as_a_whole_file_is(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    for norms in (True, False):
        with pytest.raises(AdapterError, match=words):
            show_adapter(path, norms=norms)


def test_layers_of_a_part_that_a_base_has_not_are_named_as_such(tmp_path: Path) -> None:
    path = write_adapter(
        tmp_path / "f.safetensors", lora_on(tiny_flux()), file_format="diffusers", family=FAMILIES["flux"]
    )
    match = show_adapter(path, base="pocket").match
    assert match is not None
    assert match.fitting == 0
    assert all("has no transformer" in problem for problem in match.problems)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.safetensors")
    for call in (lambda path: show_adapter(path, norms=False), read_config):
        with pytest.raises(AdapterError, match="not a file"):
            call(tmp_path / "x.safetensors")


def test_a_link_that_leads_out_of_a_folder_is_not_followed(file: Path, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "pytorch_lora_weights.safetensors").symlink_to(file)
    for norms in (True, False):
        with pytest.raises(AdapterError, match="a link that leads out"):
            show_adapter(tmp_path / "f", norms=norms)
    assert show_adapter(file.parent / file.name).num_bytes == file.stat().st_size


def test_a_peft_folder_is_shown_from_its_header_as_from_its_numbers(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "p", small_adapter(), file_format="peft", family=SD1, dtype="fp16")
    whole, header = show_adapter(path, norms=True), show_adapter(path, norms=False)
    assert all(block.norm is None for block in header.blocks)
    for name in ("file_format", "dtype", "family", "parts", "ranks", "alphas", "metadata", "algorithms"):
        assert getattr(header, name) == getattr(whole, name), name


@pytest.mark.parametrize("norms", [True, False])
def test_words_of_its_own_are_named(norms: bool, tmp_path: Path) -> None:
    words = {"<bob>": {"text_encoder": torch.ones(3, 8)}}
    path = write_adapter(tmp_path / "w.safetensors", replace(small_adapter(), words=words), family=SD1)
    assert show_adapter(path, norms=norms).words == {"<bob>": 3}
    flag = "--norms" if norms else "--no-norms"
    shown = CliRunner().invoke(cli, ["show", str(path), flag])
    assert "<bob> (3 vectors of its own)" in shown.output


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
