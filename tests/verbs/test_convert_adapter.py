import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from detour.adapter_files.adapter_family import family_of_adapter
from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import write_adapter
from detour.adapters.adapter import Adapter, DoraLayer, LoraLayer
from detour.adapters.analysis import relative_differences
from detour.bases.families import FAMILIES
from detour.cli.main import cli
from detour.errors import AdapterError, BaseError, ConfigError, ProofFailed
from detour.verbs.adapter_tools import adapter_output
from detour.verbs.adapter_tools.conversion import convert_adapter, through_base
from tests.adapter_files.examples import SD1, assert_same_change, small_adapter
from tests.adapter_files.lycoris_reference.make import PLACE
from tests.adapters.kinds import LINEAR, dora

ATTN = "down_blocks.0.attentions.0.transformer_blocks.0"


@pytest.fixture
def kohya(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "a.safetensors", small_adapter(text=True), family=SD1)


def test_a_way_round_all_formats_gives_the_same_layers(kohya: Path, tmp_path: Path) -> None:
    first = convert_adapter(kohya, tmp_path / "b.safetensors", to="diffusers")
    second = convert_adapter(first.path, tmp_path / "c", to="peft")
    third = convert_adapter(second.path, tmp_path / "d.safetensors", to="kohya")
    assert_same_change(read_adapter(kohya), read_adapter(third.path))
    assert first.alphas == {1.5: 1, 3.0: 1, 8.0: 2}
    # 8 / 2 is a power of two; 8 / 3, 1.5 / 2 and 3 / 2 are not
    assert (first.folded, first.folded_rounded) == (4, 3)
    # alpha is the rank since it went through diffusers' format
    assert second.alphas == third.alphas == {2.0: 3, 3.0: 1}
    assert first.largest_difference < 1e-6
    assert second.largest_difference == third.largest_difference == 0.0
    for result in (first, second, third):
        assert result.ranks == {2: 3, 3: 1}
        assert result.layers == {"unet": 3, "text_encoder": 1}


def test_half_precision_is_kept_and_its_rounding_is_told(kohya: Path, tmp_path: Path) -> None:
    half = convert_adapter(kohya, tmp_path / "h.safetensors", to="diffusers", dtype="fp16")
    assert half.limit == 2.0**-11
    assert 0 < half.largest_difference < half.limit
    again = convert_adapter(half.path, tmp_path / "h2.safetensors", to="kohya")
    assert (again.dtype, again.largest_difference) == ("fp16", 0.0)


def test_a_change_that_got_lost_leaves_no_output(
    kohya: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a writer that loses alpha, as widely used converters do."""

    def careless(path: Path, adapter: Adapter, **options: object) -> Path:
        lost = {key: LoraLayer(down=a.down, up=a.up, alpha=a.rank) for key, a in adapter.layers.items()}
        return write_adapter(path, Adapter(lost), family=SD1)

    monkeypatch.setattr(adapter_output, "write_adapter", careless)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(ProofFailed, match=r"would differ by 0\.75"):
        convert_adapter(kohya, tmp_path / "lost.safetensors", to="kohya")
    assert {path.name for path in tmp_path.iterdir()} == before


def test_values_that_half_precision_cannot_tell_apart_leave_no_output(tmp_path: Path) -> None:
    tiny = LoraLayer(down=torch.full((1, 4), 3e-8), up=torch.ones(4, 1), alpha=1.0)
    adapter = Adapter({"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q": tiny})
    path = write_adapter(tmp_path / "t.safetensors", adapter, family=SD1)
    with pytest.raises(ProofFailed, match="--dtype fp32"):
        convert_adapter(path, tmp_path / "u.safetensors", to="kohya", dtype="fp16")
    assert not (tmp_path / "u.safetensors").exists()


@pytest.mark.parametrize(
    ("metadata", "width", "family"),
    [
        ({"detour.family": "sd2"}, 32, "sd2"),
        ({"ss_base_model_version": "sdxl_base_v1-0", "ss_output_name": "portrait"}, 32, "sdxl"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, 768, "sd1"),
        ({}, 1024, "sd2"),
        ({}, 2048, "sdxl"),
        ({}, 32, "sd1"),
    ],
)
def test_the_family_is_told_from_the_file(
    tmp_path: Path, metadata: dict[str, str], width: int, family: str
) -> None:
    adapter = Adapter(small_adapter(width=width).layers, metadata)
    source = write_adapter(tmp_path / "a.safetensors", adapter, file_format="diffusers", family=SD1)
    result = convert_adapter(source, tmp_path / "b.safetensors", to="kohya")
    assert result.family == family
    assert_same_change(adapter, read_adapter(result.path))


@pytest.mark.parametrize(
    ("metadata", "layers", "family", "cause"),
    [
        ({"detour.family": "sdxl"}, {"unet.down_blocks.3.resnets.0.conv1": 32}, "sd1", "of a fourth level"),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, {f"unet.{ATTN}.attn2.to_k": 768}, "sd1", "768 wide"),
        (
            {"modelspec.architecture": "stable-diffusion-v1/lora"},
            {f"unet.{ATTN}.attn2.to_k": 1024},
            "sd2",
            "1024 wide",
        ),
        (
            {"detour.family": "sd1"},
            {"text_encoder_2.encoder.layers.0.mlp.fc1": 8},
            "sdxl",
            "for 'text_encoder_2'",
        ),
        ({"detour.family": "flux"}, {"unet.conv_in": 4}, "sd1", "layers of a unet"),
        ({"detour.family": "sd1"}, {f"unet.{ATTN[:-1]}1.attn1.to_q": 8}, "sdxl", "second transformer block"),
    ],
)
def test_metadata_that_claim_a_family_without_such_layers_are_not_believed(
    metadata: dict[str, str], layers: dict[str, int], family: str, cause: str
) -> None:
    made = {
        key: LoraLayer(down=torch.ones(1, width), up=torch.ones(8, 1), alpha=1.0)
        for key, width in layers.items()
    }
    guess = family_of_adapter(Adapter(made, metadata))
    assert guess.family.name == family
    assert "its metadata claims" in guess.why
    assert cause in guess.why


def test_a_dora_for_kohya_says_who_draws_it_wrongly(tmp_path: Path) -> None:
    adapter = Adapter({"unet.time_embedding.linear_1": dora(LINEAR)})
    source = write_adapter(tmp_path / "a", adapter, file_format="peft", family=SD1)
    told = CliRunner().invoke(
        cli, ["convert", str(source), str(tmp_path / "b.safetensors"), "--to", "kohya", "--family", "sd1"]
    )
    assert told.exit_code == 0, told.output
    assert all(
        word in told.output for word in ("A1111", "ComfyUI", "sd-scripts", "detour merge", "detour extract")
    )
    assert convert_adapter(source, tmp_path / "c", to="peft", family="sd1").notes == ()


def test_a_place_that_cannot_take_the_output_is_told_before_the_source_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "x.safetensors").mkdir()
    for out, to in (("file/a.safetensors", "kohya"), ("x.safetensors", "kohya"), ("b.png", "peft")):
        with pytest.raises(ConfigError):
            convert_adapter(tmp_path / "missing.safetensors", tmp_path / out, to=to, force=True)  # type: ignore[arg-type]


def test_a_family_that_is_named_wins(kohya: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    unet_only = write_adapter(tmp_path / "u.safetensors", small_adapter(), family=SD1)
    assert convert_adapter(unet_only, out, to="kohya", family="sd2").family == "sd2"
    with pytest.raises(ConfigError, match="Did you mean 'sdxl'"):
        convert_adapter(kohya, tmp_path / "x.safetensors", to="kohya", family="sdx")


def test_a_family_that_is_named_must_have_the_adapters_widths(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "u.safetensors", small_adapter(width=768), family=SD1)
    with pytest.raises(ConfigError, match="768 wide, which is sd1's"):
        convert_adapter(source, tmp_path / "x.safetensors", to="kohya", family="sdxl")
    said = Adapter(small_adapter().layers, {"detour.family": "sd1"})
    source = write_adapter(tmp_path / "s.safetensors", said, family=SD1)
    why = convert_adapter(source, tmp_path / "x.safetensors", to="kohya", family="sd2").family_why
    assert why == "named by you; its metadata says sd1"


@pytest.mark.parametrize(
    ("out", "to", "message"),
    [
        ("x", "kohya", "end in .safetensors"),
        ("x.safetensors", "peft", "is a folder"),
        ("x.bin", "diffusers", "ends in .safetensors"),
        ("a.safetensors", "kohya", "is there already"),
    ],
)
def test_places_that_do_not_go_are_refused(
    kohya: Path, tmp_path: Path, out: str, to: str, message: str
) -> None:
    before = kohya.read_bytes()
    with pytest.raises(ConfigError, match=message):
        convert_adapter(kohya, tmp_path / out, to=to)  # type: ignore[arg-type]
    assert kohya.read_bytes() == before


def test_diffusers_gets_its_usual_name_in_a_folder(kohya: Path, tmp_path: Path) -> None:
    result = convert_adapter(kohya, tmp_path / "folder", to="diffusers")
    assert result.path == tmp_path / "folder" / "pytorch_lora_weights.safetensors"
    assert not relative_differences(read_adapter(kohya), read_adapter(tmp_path / "folder"))["unet.conv_in"]


def test_converting_in_place_needs_force(kohya: Path) -> None:
    before = read_adapter(kohya)
    convert_adapter(kohya, kohya, to="diffusers", force=True)
    assert_same_change(before, read_adapter(kohya))


def test_a_broken_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nonsense" * 9)
    with pytest.raises(AdapterError, match="header"):
        convert_adapter(tmp_path / "x.safetensors", tmp_path / "y.safetensors", to="kohya")


def test_the_command_prints_the_proof(kohya: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["convert", str(kohya), str(tmp_path / "p"), "--to", "peft"])
    assert result.exit_code == 0, result.output
    assert "rank     2 (3 layers), 3 (1 layers)" in result.output
    assert "largest relative difference of a layer's change 0.0e+00 (limit 1.0e-06)" in result.output
    told = CliRunner().invoke(cli, ["convert", str(kohya), str(tmp_path / "q"), "--to", "peft", "--json"])
    assert json.loads(told.output)["limit"] == 1e-6


def test_sdxl_goes_through_the_original_block_names(tmp_path: Path) -> None:
    layer = LoraLayer(down=torch.ones(2, 8), up=torch.ones(8, 2), alpha=7.0)
    adapter = Adapter({"unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q": layer})
    source = write_adapter(
        tmp_path / "x.safetensors", adapter, file_format="diffusers", family=FAMILIES["sdxl"]
    )
    result = convert_adapter(source, tmp_path / "k.safetensors", to="kohya")
    assert (result.family, result.family_why) == (
        "sdxl",
        "it has several transformer blocks in one attention",
    )
    assert b"lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q" in result.path.read_bytes()
    assert_same_change(adapter, read_adapter(result.path))


def test_what_cannot_be_read_is_an_error_or_a_list_never_silence(kohya: Path, tmp_path: Path) -> None:
    tensors = load_file(kohya) | {"lora_unet_nowhere.lora_down.weight": torch.ones(1, 2)}
    odd = tmp_path / "odd.safetensors"
    save_file(tensors, odd)
    with pytest.raises(AdapterError, match="lora_unet_nowhere"):
        convert_adapter(odd, tmp_path / "x.safetensors", to="diffusers")
    result = convert_adapter(odd, tmp_path / "x.safetensors", to="diffusers", allow_partial=True)
    assert len(result.left_out) == 1
    assert "lora_unet_nowhere" in result.left_out[0]
    assert_same_change(read_adapter(kohya), read_adapter(result.path))


@pytest.mark.parametrize(
    "name", ["locon-conv-cp", "locon-linear-rs", "loha-conv-tucker", "lokr-linear", "dora-conv"]
)
def test_files_that_lycoris_wrote_are_converted_with_their_proof(tmp_path: Path, name: str) -> None:
    case = json.loads(PLACE.read_text(encoding="utf-8"))[name]
    layer = "lora_unet_conv_in" if case["layer"] == "conv" else "lora_unet_time_embedding_linear_1"
    save_file(
        {f"{layer}.{key}": torch.tensor(value) for key, value in case["file"].items()},
        tmp_path / "a.safetensors",
    )
    result = convert_adapter(tmp_path / "a.safetensors", tmp_path / "p", to="peft")
    assert result.largest_difference < 1e-6
    back = convert_adapter(tmp_path / "p", tmp_path / "b.safetensors", to="kohya")
    frozen = torch.tensor(case["frozen"])
    (change,) = read_adapter(back.path).layers.values()
    expected = torch.tensor(case["merged"]) - frozen
    off = change.delta(frozen).reshape(frozen.shape) - expected
    assert off.norm() < 2e-6 * expected.norm()
    assert result.dora_compared == ("factors" if name.startswith("dora") else None)


def test_dora_is_compared_by_what_it_makes_of_a_bases_weights_where_one_is_named(
    tiny_base: Path, tmp_path: Path
) -> None:
    layers = {
        key: DoraLayer(change=layer, magnitude=torch.linspace(0.5, 2.0, layer.out_features))
        for key, layer in small_adapter(text=True).layers.items()
        if isinstance(layer, LoraLayer)
    }
    source = write_adapter(tmp_path / "a.safetensors", Adapter(layers), family=SD1)
    arguments = ["convert", str(source), str(tmp_path / "p"), "--to", "peft", "--base", str(tiny_base)]
    told = CliRunner().invoke(cli, arguments)
    assert told.exit_code == 0, told.output
    assert "what they make of the base's weights" in told.output
    half = convert_adapter(
        source, tmp_path / "h.safetensors", to="diffusers", dtype="fp16", base=str(tiny_base)
    )
    assert half.dora_compared == "base"
    assert 0 < half.largest_difference < half.limit
    compare = through_base(Adapter(layers), str(tiny_base))
    heavier = {
        key: DoraLayer(change=one.change, magnitude=1.1 * one.magnitude) for key, one in layers.items()
    }
    assert min(compare(Adapter(layers), Adapter(heavier)).values()) > 0.05
    with pytest.raises(BaseError, match="settings alone"):
        convert_adapter(source, tmp_path / "x.safetensors", to="diffusers", base="sdxl")
