"""Single files of SD 3 and Flux: they open as the folders that they were made of, and what they lack is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from detour.bases.base import Base, open_base
from detour.bases.single_file import config_folder
from detour.bases.single_file_names import place_of as vae_place
from detour.bases.transformer_names import halves_change_places, place_of
from detour.errors import BaseError
from tests.tiny_flow import make_tiny_flux, make_tiny_sd3

NORMS = {
    "sd3": {
        "attn.norm_q.weight": "x_block.attn.ln_q.weight",
        "attn.norm_k.weight": "x_block.attn.ln_k.weight",
        "attn2.norm_q.weight": "x_block.attn2.ln_q.weight",
        "attn2.norm_k.weight": "x_block.attn2.ln_k.weight",
        "attn.norm_added_q.weight": "context_block.attn.ln_q.weight",
        "attn.norm_added_k.weight": "context_block.attn.ln_k.weight",
    },
    "flux": {
        "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
        "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
        "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
        "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    },
}


def original(family: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The transformer under its original names; fused matrices from their parts."""
    made: dict[str, Tensor] = {}
    fused: dict[str, dict[int, Tensor]] = {}
    for name, tensor in state.items():
        path, _, kind = name.rpartition(".")
        if name == "pos_embed.pos_embed":
            made["pos_embed"] = tensor
        elif ".norm_" in name:
            block, number, end = path.split(".")[0], name.split(".")[1], name.split(".", 2)[2]
            if block == "single_transformer_blocks":
                ours = "query" if end.endswith("norm_q.weight") else "key"
                made[f"single_blocks.{number}.norm.{ours}_norm.scale"] = tensor
            else:
                theirs = {"sd3": "joint_blocks", "flux": "double_blocks"}[family]
                made[f"{theirs}.{number}.{NORMS[family][end]}"] = tensor
        else:
            place = place_of(family, path)
            assert place is not None, name
            rows = state[f"{path}.weight"].shape
            if halves_change_places(place.name, rows[1], rows[0]):
                tensor = torch.cat(list(tensor.chunk(2))[::-1])
            fused.setdefault(f"{place.name}.{kind}", {})[place.index] = tensor
    return made | {name: torch.cat([found[i] for i in sorted(found)]) for name, found in fused.items()}


def autoencoder(base: Base) -> dict[str, Tensor]:
    made = {}
    for name, tensor in base.load_vae().state_dict().items():
        theirs = vae_place("sd1", "vae", name, base.config("vae")).name
        is_attention = ".attentions.0.to_" in name and name.endswith("weight")
        made[theirs] = tensor[:, :, None, None] if is_attention else tensor
    return made


def settings(base: Base, folder: Path) -> None:
    """Everything of a diffusers folder but its weights: tiny heads and tokenizers, which shapes cannot tell."""
    for part in (base.family.network_part, "vae", *base.text_parts, "scheduler"):
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part).mkdir(parents=True)
        (folder / part / name).write_text(json.dumps(base.config(part)))
    for part in base.text_parts:
        tokenizer = part.replace("text_encoder", "tokenizer")
        shutil.copytree(base.folder / tokenizer, folder / tokenizer)


def write_flow_file(base: Base, path: Path, *, apart: bool) -> Path:
    """One file with everything under ComfyUI's prefixes, or the transformer with the others beside it."""
    family = base.family.name
    files: dict[str, dict[str, Tensor]] = {name: {} for name in ("", "ae", "clip_l", "clip_g", "t5xxl_fp16")}
    for name, tensor in original(family, dict(base.load_network().state_dict())).items():
        files[""][name if apart else f"model.diffusion_model.{name}"] = tensor
    for name, tensor in autoencoder(base).items():
        files["ae" if apart else ""][name.removeprefix("first_stage_model.") if apart else name] = tensor
    encoders = {"sd3": ("clip_l", "clip_g", "t5xxl_fp16"), "flux": ("clip_l", "t5xxl_fp16")}[family]
    for part, encoder in zip(base.text_parts, encoders, strict=False):
        for name, tensor in base.load_part(part).state_dict().items():
            if name == "encoder.embed_tokens.weight":
                continue
            start = "" if apart else f"text_encoders.{encoder.removesuffix('_fp16')}.transformer."
            files[encoder if apart else ""][start + name] = tensor
    for name, tensors in files.items():
        if tensors:
            place = path if not name else path.with_name(f"{name}.safetensors")
            save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, place)
    settings(base, config_folder(path))
    return path


@pytest.fixture(scope="module", params=["sd3", "flux"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    make = make_tiny_sd3 if request.param == "sd3" else make_tiny_flux
    return open_base(str(make(tmp_path_factory.mktemp("folder") / "base")))


@pytest.mark.parametrize("apart", [False, True])
def test_a_single_file_loads_as_the_folder_it_was_made_of(base: Base, tmp_path: Path, apart: bool) -> None:
    file = open_base(str(write_flow_file(base, tmp_path / "flow.safetensors", apart=apart)))
    assert file.family is base.family
    assert file.loaded_parts == base.loaded_parts
    file.require_weights()
    for part in base.loaded_parts:
        folder, single = (one.load_part(part).state_dict() for one in (base, file))
        assert list(folder) == list(single)
        assert all(torch.equal(folder[name], single[name]) for name in folder)
    prompts = ["a red house"]
    assert torch.equal(base.load_text().encode(prompts).states, file.load_text().encode(prompts).states)
    other = tmp_path / "other" / "flow.safetensors"
    shutil.copytree(tmp_path, other.parent, ignore=shutil.ignore_patterns("other"))
    assert file.weights_sha256() == open_base(str(other)).weights_sha256()
    changed = other.with_name("clip_l.safetensors") if apart else other
    tensors = load_file(changed)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, changed)
    assert file.weights_sha256() != open_base(str(other)).weights_sha256()


def test_names_are_those_that_diffusers_reads(base: Base) -> None:
    """Their converter of SD 3; that of Flux is written for Flux's true width (test_transformers.py)."""
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    if base.family.name != "sd3":
        pytest.skip("their converter knows Flux's true width alone")
    state = dict(base.load_network().state_dict())
    theirs = convert_sd3_transformer_checkpoint_to_diffusers(original("sd3", state))
    assert set(theirs) == set(state)
    assert all(torch.equal(theirs[name], state[name]) for name in state)


def test_settings_are_told_from_the_shapes_alone(tmp_path: Path) -> None:
    """Of a narrow network of the published head width, whose settings no folder beside it says."""
    from detour.bases.single_file_flow import _flux_config, _sd3_config

    for name, infer in (
        ("sd35-medium", _sd3_config),
        ("sd35-large", _sd3_config),
        ("flux-dev", _flux_config),
    ):
        published = open_base(name)
        family = published.family.name
        shapes = {
            key: tuple(tensor.shape)
            for key, tensor in original(
                family, dict(published.meta_network().to(dtype=torch.bfloat16).state_dict())
            ).items()
        }
        found = infer(shapes)
        wanted = published.network_config
        assert {key: wanted.get(key) for key in found} == found


def test_what_a_file_lacks_is_named(base: Base, tmp_path: Path) -> None:
    path = write_flow_file(base, tmp_path / "flow.safetensors", apart=True)
    (tmp_path / "clip_l.safetensors").unlink()
    with pytest.raises(
        BaseError, match=r"its text_encoder is neither in it nor beside it. Put clip_l.safetensors"
    ):
        open_base(str(path))
    (tmp_path / "all").mkdir()
    whole = write_flow_file(base, tmp_path / "all" / "x.safetensors", apart=False)
    t5 = "tokenizer_3" if base.family.name == "sd3" else "tokenizer_2"
    shutil.rmtree(config_folder(whole) / t5)
    if base.family.name == "sd3":
        assert open_base(str(whole)).text_parts == ("text_encoder", "text_encoder_2")
    else:
        with pytest.raises(BaseError, match=r"no tokenizer for its T5. Put tokenizer_2/"):
            open_base(str(whole))
    scaled = load_file(whole)
    first = next(name for name in scaled if name.endswith("qkv.weight"))
    save_file({**scaled, first.replace(".weight", ".scale_weight"): torch.ones(1)}, whole)
    with pytest.raises(BaseError, match="fp8 with scales of their own"):
        open_base(str(whole))


def test_plain_fp8_is_read_up_to_the_working_precision(base: Base, tmp_path: Path) -> None:
    path = write_flow_file(base, tmp_path / "flow.safetensors", apart=False)
    tensors = load_file(path)
    halves = {
        name: tensor.to(torch.float8_e4m3fn) if name.startswith("model.diffusion_model.") else tensor
        for name, tensor in tensors.items()
    }
    save_file(halves, path)
    network = open_base(str(path)).load_network()
    plain = base.load_network().state_dict()
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, plain[name].to(torch.float8_e4m3fn).float())
