"""Files as other programs write them: read where they are plain, named as what they are where they are not."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers.loaders.lora_conversion_utils import _convert_xlabs_flux_lora_to_diffusers
from peft import LoraConfig, get_peft_model
from torch import nn

from detour.adapter_files import read_adapter, write_adapter
from detour.adapter_files.diffusers_format import with_scale_in_factors
from detour.adapter_files.formats import FORMATS, format_named
from detour.adapter_files.layer_file import open_layers
from detour.adapter_files.reading import require_intact
from detour.adapters.adapter import Adapter, LoraLayer
from detour.errors import AdapterError, ConfigError
from tests.adapter_files.examples import SD1, small_adapter

ATTN = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
OTHER = {
    "lora_unet_conv_out.lora_down.weight": torch.ones(1, 3),
    "lora_unet_conv_out.lora_up.weight": torch.ones(4, 1),
}


def save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    safetensors.torch.save_file(tensors, path, metadata)
    return path


def lora(name: str, rank: int = 2, inputs: int = 8, outputs: int = 6) -> dict[str, torch.Tensor]:
    return {
        f"{name}.lora_down.weight": torch.randn(rank, inputs),
        f"{name}.lora_up.weight": torch.randn(outputs, rank),
    }


class Model(nn.Module):
    """A UNet's name for its one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Linear(8, 6)


def peft_folder(folder: Path, **settings: Any) -> Path:
    """What PEFT itself saves."""
    config = LoraConfig(target_modules=["conv_in"], **{"r": 2, "lora_alpha": 4, **settings})
    get_peft_model(Model(), config).save_pretrained(folder)  # type: ignore[arg-type]
    return folder


def change_config(folder: Path, **settings: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_a_start_that_changes_the_base_is_refused_with_pefts_conversion(tmp_path: Path, start: str) -> None:
    folder = peft_folder(tmp_path, init_lora_weights=start)
    with pytest.raises(AdapterError, match=f"'{start}'.*path_initial_model_for_weight_conversion"):
        read_adapter(folder)
    with pytest.raises(AdapterError, match=f"'{start}'"):
        open_layers(folder)


@pytest.mark.filterwarnings("ignore:PiSSA changes the base")
def test_what_peft_converts_from_such_a_start_is_read_with_its_change(tmp_path: Path) -> None:
    """The way that the refusal names, walked: the converted folder is the difference on the untouched base."""
    torch.manual_seed(0)
    model = Model()
    before = model.conv_in.weight.detach().clone()
    config = LoraConfig(target_modules=["conv_in"], r=2, lora_alpha=4, init_lora_weights="pissa")
    tuned = get_peft_model(model, config)  # type: ignore[arg-type]
    tuned.peft_config["default"].init_lora_weights = True
    tuned.save_pretrained(tmp_path / "start")
    tuned.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        tuned.base_model.model.conv_in.lora_B["default"].weight.add_(0.3)
    tuned.save_pretrained(tmp_path / "done", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    merged = tuned.merge_and_unload().conv_in.weight
    read = read_adapter(tmp_path / "done").layers["unet.conv_in"]
    torch.testing.assert_close(read.delta(), merged - before, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("start", ["loftq", "corda", "lora_ga", "PiSSA", "some_new_start"])
def test_other_starts_that_change_the_base_are_refused_too(tmp_path: Path, start: str) -> None:
    folder = change_config(peft_folder(tmp_path), init_lora_weights=start)
    with pytest.raises(AdapterError, match="changes the base too"):
        read_adapter(folder)


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_plain_starts_are_read(tmp_path: Path, start: object) -> None:
    folder = change_config(peft_folder(tmp_path), init_lora_weights=start)
    assert read_adapter(folder).layers["unet.conv_in"].alpha == 4.0


def test_a_start_that_changes_the_base_is_refused_in_diffusers_metadata(tmp_path: Path) -> None:
    config = {"unet.r": 2, "unet.lora_alpha": 4, "unet.init_lora_weights": "olora"}
    tensors = {
        "unet.conv_out.lora_A.weight": torch.ones(2, 4),
        "unet.conv_out.lora_B.weight": torch.ones(4, 2),
    }
    path = save(tmp_path / "a.safetensors", tensors, {"lora_adapter_metadata": json.dumps(config)})
    with pytest.raises(AdapterError, match="'olora'"):
        read_adapter(path)
    plain = save(tmp_path / "b.safetensors", tensors, {"lora_adapter_metadata": json.dumps({"unet.r": 2})})
    assert set(read_adapter(plain).layers) == {"unet.conv_out"}


@pytest.mark.parametrize(
    "settings",
    [
        {"use_qalora": True},
        {"alora_invocation_tokens": [1]},
        {"use_bdlora": {"nblocks": 2}},
        {"arrow_config": {"top_k": 1}},
        {"kasa_config": {"beta": 1.0}},
        {"monteclora_config": {"num_samples": 1}},
        {"layer_replication": [[0, 4]]},
        {"modules_to_save": ["conv_out"]},
        {"trainable_token_indices": [7]},
    ],
)
def test_variants_whose_change_is_no_product_of_two_factors_are_refused(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    folder = change_config(peft_folder(tmp_path), **settings)
    with pytest.raises(AdapterError, match=f"sets {next(iter(settings))}"):
        read_adapter(folder)


def test_a_config_of_another_rank_than_the_tensors_is_refused(tmp_path: Path) -> None:
    folder = change_config(peft_folder(tmp_path / "a"), r=8)
    with pytest.raises(AdapterError, match="has rank 2, and the config says 8"):
        read_adapter(folder)
    assert read_adapter(change_config(folder, rank_pattern={"conv_in": 2})).layers["unet.conv_in"].rank == 2


def test_a_config_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path)
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().rstrip().removesuffix("}") + ', "lora_alpha": 64}')
    with pytest.raises(AdapterError, match="'lora_alpha' stands there twice"):
        read_adapter(folder)
    tensors = {
        "unet.conv_out.lora_A.weight": torch.ones(2, 4),
        "unet.conv_out.lora_B.weight": torch.ones(4, 2),
    }
    twice = '{"unet.r": 2, "unet.lora_alpha": 2, "unet.lora_alpha": 8}'
    path = save(tmp_path / "b.safetensors", tensors, {"lora_adapter_metadata": twice})
    with pytest.raises(AdapterError, match="stands there twice"):
        read_adapter(path)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_peft_folder_linked_to_itself_is_one_line(tmp_path: Path, name: str) -> None:
    folder = peft_folder(tmp_path / "a")
    (folder / name).unlink()
    (folder / name).symlink_to(folder / name)
    with pytest.raises(AdapterError) as caught:
        read_adapter(folder)
    assert "\n" not in str(caught.value)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(AdapterError):
        read_adapter(loop)
    inner = peft_folder(tmp_path / "b") / "unet"
    inner.symlink_to(tmp_path / "b")
    assert set(read_adapter(tmp_path / "b").layers) == {"unet.conv_in"}


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({f"diffusion_model.{ATTN}.to_out.0.diff_b": torch.ones(6)}, "changes of biases"),
        ({f"unet.{ATTN}.to_out.0.lora_B.bias": torch.ones(6)}, "changes of biases"),
        ({"lora_unet_conv_in.diff_b": torch.ones(6)}, "changes of biases"),
        ({f"transformer.{ATTN}.to_k.diff": torch.ones(6)}, "whole differences"),
    ],
)
def test_a_layer_with_a_changed_bias_is_left_out_whole_in_every_naming(
    tmp_path: Path, more: dict[str, torch.Tensor], cause: str
) -> None:
    name = next(iter(more))
    if name.startswith("transformer."):
        name = "transformer.transformer_blocks.0.attn.to_k.diff"
        more = {name: torch.ones(6)}
    layer = name.removesuffix(".diff_b").removesuffix(".lora_B.bias").removesuffix(".diff")
    if name.startswith("lora_unet"):
        tensors = lora(layer) | OTHER
    else:
        prefix = name.partition(".")[0]
        kept = "transformer_blocks.1.attn.to_k" if prefix == "transformer" else f"{ATTN}.to_k"
        tensors = lora(layer) | lora(f"{prefix}.{kept}")
    with pytest.raises(AdapterError, match=cause):
        read_adapter(save(tmp_path / "a.safetensors", tensors | more))
    adapter = read_adapter(tmp_path / "a.safetensors", allow_partial=True)
    assert len(adapter.layers) == 1
    assert any("left out whole" in line for line in adapter.left_out)


def test_a_file_as_comfyui_saves_it_says_what_is_left(tmp_path: Path) -> None:
    """Its LoraSave: dotted names, no alpha, biases and norms as whole differences, token embeddings as factors."""
    text = "text_encoders.clip_l.transformer.text_model"
    block = "diffusion_model.input_blocks.1.1.transformer_blocks.0"
    tensors = (
        lora(f"{block}.attn2.to_k")
        | lora(f"{block}.attn2.to_out.0")
        | {f"{block}.attn2.to_out.0.diff_b": torch.ones(6), f"{block}.norm1.diff": torch.ones(6)}
        | lora(f"{text}.encoder.layers.0.mlp.fc1")
        | lora(f"{text}.embeddings.token_embedding")
        | {f"{text}.encoder.layers.0.layer_norm1.diff": torch.ones(6)}
    )
    adapter = read_adapter(save(tmp_path / "a.safetensors", tensors), allow_partial=True)
    assert set(adapter.layers) == {f"unet.{ATTN}.to_k", "text_encoder.encoder.layers.0.mlp.fc1"}
    told = "\n".join(adapter.left_out)
    for cause in (
        "changes of biases",
        "changes of norms",
        "changes of token embeddings",
        "is left out whole",
    ):
        assert cause in told


def test_dotted_names_with_kohyas_factors_and_alpha_are_read(tmp_path: Path) -> None:
    path = "transformer.transformer_blocks.0.attn.to_q"
    tensors = lora(path) | {f"{path}.alpha": torch.tensor(1.0)}
    layer = read_adapter(save(tmp_path / "a.safetensors", tensors)).layers[path]
    expected = 0.5 * tensors[f"{path}.lora_up.weight"] @ tensors[f"{path}.lora_down.weight"]
    torch.testing.assert_close(layer.delta(), expected)


def test_a_convolution_of_dylora_is_read_with_its_flat_up(tmp_path: Path) -> None:
    """LyCORIS keeps DyLoRA's ``up`` as a matrix, and multiplies it with the flattened ``down``."""
    down, up = torch.randn(2, 4, 3, 3), torch.randn(6, 2)
    tensors = {
        "lora_unet_conv_in.lora_down.weight": down,
        "lora_unet_conv_in.lora_up.weight": up,
        "lora_unet_conv_in.alpha": torch.tensor(1.0),
    }
    layer = read_adapter(save(tmp_path / "a.safetensors", tensors)).layers["unet.conv_in"]
    expected = 0.5 * (up @ down.flatten(1)).reshape(6, 4, 3, 3)
    torch.testing.assert_close(layer.delta(), expected)


def test_xlabs_flux_names_are_those_of_diffusers_own_converter(tmp_path: Path) -> None:
    tensors = {}
    for stream in "12":
        tensors |= {
            f"double_blocks.3.processor.qkv_lora{stream}.down.weight": torch.randn(2, 8),
            f"double_blocks.3.processor.qkv_lora{stream}.up.weight": torch.randn(24, 2),
            f"double_blocks.3.processor.proj_lora{stream}.down.weight": torch.randn(2, 8),
            f"double_blocks.3.processor.proj_lora{stream}.up.weight": torch.randn(8, 2),
        }
    tensors |= {
        "single_blocks.7.processor.qkv_lora.down.weight": torch.randn(2, 8),
        "single_blocks.7.processor.qkv_lora.up.weight": torch.randn(24, 2),
        "diffusion_model.single_blocks.9.processor.proj_lora.down.weight": torch.randn(2, 40),
        "diffusion_model.single_blocks.9.processor.proj_lora.up.weight": torch.randn(8, 2),
    }
    read = read_adapter(save(tmp_path / "a.safetensors", tensors)).layers
    theirs = _convert_xlabs_flux_lora_to_diffusers(dict(tensors))
    paths = {name.partition(".lora_")[0] for name in theirs}
    assert set(read) == paths
    for path in paths:
        expected = theirs[f"{path}.lora_B.weight"] @ theirs[f"{path}.lora_A.weight"]
        torch.testing.assert_close(read[path].delta(), expected)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{KOHYA}.a1.weight": torch.ones(2, 2)}, "GLoRA is not supported"),
        ({f"{KOHYA}.oft_blocks": torch.ones(2, 2, 2)}, "OFT and BOFT are not supported"),
        ({f"unet.{ATTN}.to_k.boft_R": torch.ones(2, 2, 2)}, "BOFT is not supported"),
        ({f"unet.{ATTN}.to_k.oft_R.weight": torch.ones(2, 2)}, "OFT and BOFT are not supported"),
        ({f"unet.{ATTN}.to_k.ia3_l": torch.ones(2, 1)}, "IA³ is not supported"),
        ({f"{KOHYA}.on_input": torch.ones(1)}, "IA³ is not supported"),
        ({"transformer.transformer_blocks.0.attn.to_q.magnitude": torch.ones(8)}, "ai-toolkit's DoRA"),
        ({f"{KOHYA}.magnitude": torch.ones(8)}, "ai-toolkit's DoRA"),
        ({"single_blocks.0.processor.qkv_lora3.down.weight": torch.ones(2, 8)}, "XLabs' names"),
        (
            {
                "lora_unet_conv_in.lora_down.weight": torch.ones(2, 4, 1, 3, 3),
                "lora_unet_conv_in.lora_up.weight": torch.ones(8, 2, 1, 1, 1),
            },
            "a 3-D convolution",
        ),
    ],
)
def test_what_is_no_lora_is_named_as_what_it_is(
    tmp_path: Path, tensors: dict[str, torch.Tensor], words: str
) -> None:
    with pytest.raises(AdapterError, match=words):
        read_adapter(save(tmp_path / "a.safetensors", tensors))
    partial = read_adapter(save(tmp_path / "b.safetensors", tensors | OTHER), allow_partial=True)
    assert set(partial.layers) == {"unet.conv_out"}


def test_the_same_file_gives_the_same_message(tmp_path: Path) -> None:
    """Of many tensors that cannot be read, the first by name is told: safetensors hands them out in any order."""
    tensors = {f"strange.{index:03d}": torch.ones(1) for index in range(200)}
    path = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(AdapterError, match=r"'strange\.000'"):
        read_adapter(path)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
        (b"\xff\xd8\xff\xe0", "a JPEG picture"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs", "a Git LFS pointer"),
        (b"GGUF", "a GGUF model"),
    ],
)
def test_another_kind_of_file_is_called_what_it_is(tmp_path: Path, start: bytes, kind: str) -> None:
    path = tmp_path / "a.safetensors"
    for size in (64, 7 << 20):  # larger than any header: another way through the reader
        path.write_bytes(start + bytes(size))
        with pytest.raises(AdapterError, match=kind):
            read_adapter(path)
        with pytest.raises(AdapterError, match=kind):
            open_layers(path)


@pytest.mark.parametrize(("alpha", "rank"), [(16.0, 4), (1.0, 8), (-0.5, 2), (0.0, 2), (4.0, 4)])
def test_diffusers_files_carry_powers_of_two_exactly_and_without_metadata(
    tmp_path: Path, alpha: float, rank: int
) -> None:
    """ComfyUI multiplies the two factors of such a file and reads no alpha: so that is the change, to the bit."""
    layer = LoraLayer(down=torch.randn(rank, 8), up=torch.randn(6, rank), alpha=alpha)
    adapter = Adapter({f"unet.{ATTN}.to_k": layer})
    path = write_adapter(tmp_path / "a.safetensors", adapter, file_format="diffusers", family=SD1)
    tensors = safetensors.torch.load_file(path)
    a, b = (tensors[f"unet.{ATTN}.to_k.lora_{name}.weight"] for name in "AB")
    assert torch.equal(a, layer.down)
    assert torch.equal(b, layer.up * (alpha / rank))
    assert torch.equal(b.double() @ a.double(), (layer.up.double() @ layer.down.double()) * (alpha / rank))
    (about,) = (json.loads(read_metadata(path)["lora_adapter_metadata"]),)
    assert about["unet.lora_alpha"] == about["unet.r"] == rank
    assert with_scale_in_factors(read_adapter(path).layers[f"unet.{ATTN}.to_k"]).alpha == rank


def read_metadata(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def test_an_unknown_format_raises() -> None:
    assert set(FORMATS) == {"kohya", "diffusers", "peft"}
    with pytest.raises(ConfigError, match="Did you mean 'kohya'"):
        format_named("koya")


@pytest.mark.skipif(os.name == "nt", reason="bytes are changed in place")
def test_a_flipped_bit_among_the_tensors_is_noticed(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.safetensors", small_adapter(), family=SD1)
    require_intact(path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(AdapterError, match="damaged"):
        require_intact(path)
    tensors = safetensors.torch.load_file(path)
    require_intact(save(tmp_path / "b.safetensors", tensors))  # names no hash
