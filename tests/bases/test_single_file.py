import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from detour.bases.base import Base, open_base
from detour.bases.single_file import config_folder
from detour.bases.single_file_header import read_shapes
from detour.bases.single_file_names import place_of
from detour.bases.single_file_shapes import infer_configs
from detour.bases.single_file_writing import write_single_file
from detour.errors import BaseError
from tests.tiny_base import make_tiny_base

PARTS = ("unet", "vae", "text_encoder")


def state_of(base: Base, part: str) -> dict[str, torch.Tensor]:
    if part == "text_encoder":
        return base.load_text().models[part].state_dict()
    return (base.load_network() if part == "unet" else base.load_vae()).state_dict()


@pytest.fixture(scope="module")
def single(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_single_file(
        open_base(str(tiny_base)), tmp_path_factory.mktemp("single") / "tiny.safetensors"
    )


@pytest.mark.parametrize("part", PARTS)
def test_a_single_file_loads_as_the_folder_it_was_made_of(tiny_base: Path, single: Path, part: str) -> None:
    folder, file = (state_of(open_base(str(path)), part) for path in (tiny_base, single))
    assert list(folder) == list(file)
    assert all(torch.equal(folder[name], file[name]) for name in folder)


def test_both_layouts_give_the_same_forward_pass(tiny_base: Path, single: Path) -> None:
    sample = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    results = []
    for path in (tiny_base, single):
        base = open_base(str(path))
        states = base.load_text().encode(["a red house"]).states
        results.append(base.load_network()(sample, torch.tensor(500), states).sample)
    assert torch.equal(results[0], results[1])


def test_names_are_those_that_diffusers_reads(tiny_base: Path, single: Path, tmp_path: Path) -> None:
    """Weights come back through diffusers' own conversion, which knows nothing of ours."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    base = open_base(str(tiny_base))
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        theirs = kind.from_single_file(str(single), config=str(tiny_base / part), local_files_only=True)
        ours = state_of(base, part)
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.state_dict().items())


def test_true_sd15_has_the_names_that_were_published() -> None:
    """Some of the names in the published v1-5 checkpoint, one for each rule."""
    base = open_base("sd15")
    unet, vae = base.config("unet"), base.config("vae")
    published = {
        "down_blocks.0.resnets.0.conv1.weight": "input_blocks.1.0.in_layers.2.weight",
        "down_blocks.0.downsamplers.0.conv.weight": "input_blocks.3.0.op.weight",
        "down_blocks.3.resnets.1.time_emb_proj.bias": "input_blocks.11.0.emb_layers.1.bias",
        "mid_block.attentions.0.proj_in.weight": "middle_block.1.proj_in.weight",
        "mid_block.resnets.1.conv2.weight": "middle_block.2.out_layers.3.weight",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
        "up_blocks.3.resnets.2.conv_shortcut.weight": "output_blocks.11.0.skip_connection.weight",
        "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_k.weight": (
            "output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight"
        ),
        "time_embedding.linear_2.weight": "time_embed.2.weight",
        "conv_norm_out.weight": "out.0.weight",
    }
    for ours, theirs in published.items():
        assert place_of("sd1", "unet", ours, unet).name == f"model.diffusion_model.{theirs}"
    published_vae = {
        "encoder.down_blocks.1.resnets.0.conv_shortcut.weight": "encoder.down.1.block.0.nin_shortcut.weight",
        "decoder.up_blocks.0.resnets.2.norm1.weight": "decoder.up.3.block.2.norm1.weight",
        "decoder.up_blocks.2.upsamplers.0.conv.bias": "decoder.up.1.upsample.conv.bias",
        "encoder.mid_block.attentions.0.to_out.0.weight": "encoder.mid.attn_1.proj_out.weight",
        "decoder.mid_block.resnets.1.conv1.weight": "decoder.mid.block_2.conv1.weight",
        "decoder.conv_norm_out.bias": "decoder.norm_out.bias",
    }
    for ours, theirs in published_vae.items():
        assert place_of("sd1", "vae", ours, vae).name == f"first_stage_model.{theirs}"


@pytest.mark.parametrize("part", PARTS)
def test_every_tensor_of_true_sd15_has_a_name_of_its_own(part: str) -> None:
    from detour.bases.parts import empty_part

    config = open_base("sd15").config(part)
    names = list(empty_part(part, config).state_dict())
    assert len({place_of("sd1", part, name, config).name for name in names}) == len(names)


def test_shapes_alone_bring_back_sd15s_settings() -> None:
    from detour.bases.parts import empty_part

    base = open_base("sd15")
    shapes = {}
    for part in PARTS:
        for name, tensor in empty_part(part, base.config(part)).state_dict().items():
            shapes[place_of("sd1", part, name, base.config(part)).name] = tuple(tensor.shape)
    for part, inferred in infer_configs(shapes, "sd1", where="x").items():
        assert {key: base.config(part)[key] for key in inferred} == inferred


def test_a_small_sd1_of_the_usual_heads_and_groups_needs_no_settings_beside_it(tmp_path: Path) -> None:
    folder = make_tiny_base(tmp_path / "small", heads=8, norm_groups=32)
    path = write_single_file(open_base(str(folder)), tmp_path / "small.safetensors")
    shutil.rmtree(config_folder(path))
    whole, bare = open_base(str(folder)), open_base(str(path))
    assert bare.config("unet")["block_out_channels"] == [32, 64]
    assert bare.config("text_encoder")["num_hidden_layers"] == 2
    for part in ("unet", "vae"):
        expected = state_of(whole, part)
        assert all(torch.equal(expected[name], tensor) for name, tensor in state_of(bare, part).items())
    # Its tokenizer is not CLIP's, and that is not passed over.
    with pytest.raises(BaseError, match="tokenizer has 49,408 tokens, its text_encoder 514"):
        bare.load_text()


def test_a_base_of_clips_own_tokens_is_written_without_settings_beside_it(tmp_path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = make_tiny_base(tmp_path / "base", heads=8, norm_groups=32)
    config = CLIPTextConfig(
        vocab_size=49_408, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1,
        projection_dim=32, bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    unet = folder / "unet" / "config.json"
    unet.write_text(unet.read_text().replace('"sample_size": 8', '"sample_size": 64'))
    vae = folder / "vae" / "config.json"
    vae.write_text(vae.read_text().replace('"sample_size": 64', '"sample_size": 512'))
    path = write_single_file(open_base(str(folder)), tmp_path / "bare.safetensors")
    assert not config_folder(path).exists()
    assert open_base(str(path)).load_text().encode(["a red house"]).states.shape == (1, 77, 32)


def test_half_precision_stays_half_precision(tiny_base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "half"))
    for part in PARTS:
        weights = next((folder / part).glob("*.safetensors"))
        save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights)
    path = write_single_file(open_base(str(folder)), tmp_path / "half.safetensors")
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}


def test_names_without_text_model_are_understood(single: Path, tmp_path: Path) -> None:
    tensors = {name.replace(".text_model.", "."): tensor for name, tensor in load_file(single).items()}
    save_file(tensors, tmp_path / "tiny.safetensors")
    shutil.copytree(config_folder(single), tmp_path / "tiny.config")
    expected = state_of(open_base(str(single)), "text_encoder")
    found = state_of(open_base(str(tmp_path / "tiny.safetensors")), "text_encoder")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def damage(tensors: dict[str, torch.Tensor], how: str) -> dict[str, torch.Tensor]:
    first = "model.diffusion_model.input_blocks.0.0.weight"
    if how == "adapter":
        return {"lora_unet_x.lora_down.weight": torch.zeros(1)}
    if how == "refiner":
        text = {"conditioner.embedders.0.model.x": torch.zeros(1)}
        return text | {name: one for name, one in tensors.items() if not name.startswith("cond_stage")}
    if how == "no text":
        return {name: tensor for name, tensor in tensors.items() if "cond_stage" not in name}
    if how == "no vae":
        return {name: tensor for name, tensor in tensors.items() if "first_stage" not in name}
    if how == "lacks one":
        return {name: tensor for name, tensor in tensors.items() if name != first}
    if how == "other shape":
        return {**tensors, first: torch.zeros(5, 4, 3, 3)}
    return {"weights": torch.zeros(1)}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("adapter", "this is an adapter"),
        ("refiner", "the refining model of Stable Diffusion XL"),
        ("no text", "lacks its text encoder"),
        ("no vae", "lacks its VAE"),
        ("lacks one", "lacks 'model.diffusion_model.input_blocks.0.0.weight'"),
        ("other shape", "(5, 4, 3, 3)"),
        ("else", "no checkpoint of the layout"),
    ],
)
def test_other_files_are_refused_in_one_line(single: Path, tmp_path: Path, how: str, words: str) -> None:
    save_file(damage(load_file(single), how), tmp_path / "bad.safetensors")
    shutil.copytree(config_folder(single), tmp_path / "bad.config")
    with pytest.raises(BaseError) as caught:
        open_base(str(tmp_path / "bad.safetensors")).load_network()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"\x20\0\0\0\0\0\0\0{"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(BaseError, match="not a readable safetensors file"):
        read_shapes(path)


def test_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(BaseError, match="can run code"):
        open_base(str(tmp_path / "model.ckpt"))
