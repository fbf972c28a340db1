"""Single files of SD 2.x and SDXL: both ways, and against diffusers' and open_clip's own naming."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from detour.bases.base import Base, open_base
from detour.bases.folder import write_folder
from detour.bases.parts import empty_part
from detour.bases.single_file import config_folder, part_names
from detour.bases.single_file_header import read_shapes
from detour.bases.single_file_names import place_of
from detour.bases.single_file_shapes import family_of_shapes, infer_configs
from detour.bases.single_file_writing import write_single_file
from detour.errors import BaseError
from tests.tiny_base import make_tiny_sd2, make_tiny_sdxl

MAKE: dict[str, Callable[[Path], Path]] = {"sd2": make_tiny_sd2, "sdxl": make_tiny_sdxl}
SHAPES_OF = {"sd1": "sd15", "sd2": "sd21", "sdxl": "sdxl"}


def state_of(base: Base, part: str) -> dict[str, Tensor]:
    if part.startswith("text_encoder"):
        return dict(base.load_text().models[part].state_dict())
    return dict((base.load_network() if part == "unet" else base.load_vae()).state_dict())


@pytest.fixture(scope="module", params=["sd2", "sdxl"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder, and the single file made of it."""
    folder = MAKE[request.param](tmp_path_factory.mktemp("bases") / request.param)
    return folder, write_single_file(open_base(str(folder)), folder.with_suffix(".safetensors"))


def test_a_single_file_loads_as_the_folder_it_was_made_of_and_back(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, file = (open_base(str(path)) for path in pair)
    assert file.family.name == folder.family.name == pair[0].name
    unpacked = open_base(str(write_folder(file, tmp_path / "folder")))
    for part in part_names(folder.family.name):
        states = [state_of(base, part) for base in (folder, file, unpacked)]
        assert states[0].keys() == states[1].keys() == states[2].keys()
        for name, tensor in states[0].items():
            assert torch.equal(tensor, states[1][name]), name
            assert torch.equal(tensor, states[2][name]), name
    assert unpacked.scheduler_config() == folder.scheduler_config()
    encoded = [base.load_text().encode(["a red house"]).states for base in (folder, file, unpacked)]
    assert torch.equal(encoded[0], encoded[1])
    assert torch.equal(encoded[0], encoded[2])


def test_diffusers_own_checkpoint_converters_read_our_names(pair: tuple[Path, Path]) -> None:
    """Its mapping of the UNet, and of open_clip's fused and transposed tensors, knows nothing of ours."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    folder, file = pair
    base = open_base(str(folder))
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        theirs = kind.from_single_file(str(file), config=str(folder / part), local_files_only=True)
        ours = state_of(base, part)
        assert theirs.state_dict().keys() == ours.keys()
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.state_dict().items())
    tensors = load_file(file)
    prefix = "cond_stage_model.model." if base.family.name == "sd2" else "conditioner.embedders.1.model."
    part = base.family.text_parts[-1]
    config = CLIPTextConfig(**base.config(part))
    if f"{prefix}text_projection" not in tensors:  # they tell the width of q, k and v from it
        tensors[f"{prefix}text_projection"] = torch.eye(32)
    found = convert_open_clip_checkpoint(CLIPTextModelWithProjection(config), tensors, prefix=prefix)
    theirs_text = {name.removeprefix("text_model."): tensor for name, tensor in found.items()}
    for name, tensor in state_of(base, part).items():
        assert torch.equal(theirs_text[name.removeprefix("text_model.")], tensor), name
    if base.family.name == "sdxl":
        first = convert_ldm_clip_checkpoint(tensors, remove_prefix="conditioner.embedders.0.transformer.")
        plain = {name.removeprefix("text_model."): tensor for name, tensor in first.items()}
        for name, tensor in state_of(base, "text_encoder").items():
            assert torch.equal(plain[name.removeprefix("text_model.")], tensor), name


def shapes_of(base: Base) -> dict[str, tuple[int, ...]]:
    """The shapes of a true base's single file, from its settings."""
    shapes: dict[str, tuple[int, ...]] = {}
    family = base.family.name
    for part in part_names(family):
        for name, tensor in empty_part(part, base.config(part)).state_dict().items():
            place, size = place_of(family, part, name, base.config(part)), tuple(tensor.shape)
            is_attention = part == "vae" and ".attentions.0.to_" in name and name.endswith("weight")
            size = size[::-1] if place.transposed else size
            size = (3 * size[0], *size[1:]) if place.third is not None else size
            assert shapes.setdefault(place.name, (*size, 1, 1) if is_attention else size)
    return shapes


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_shapes_alone_bring_back_the_settings_of_the_true_bases(family: str) -> None:
    base = open_base(SHAPES_OF[family])
    shapes = shapes_of(base)
    if family == "sd2":  # the published file has open_clip's last layer too, which nothing reads
        last = {name: size for name, size in shapes.items() if ".resblocks.22." in name}
        shapes |= {name.replace(".22.", ".23."): size for name, size in last.items()}
    assert family_of_shapes(shapes, where="x") == family
    for part, inferred in infer_configs(shapes, base.family.name, where="x").items():
        assert {key: base.config(part)[key] for key in inferred} == inferred, part


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("sd2", ["cond_stage_model.model.transformer.resblocks.22.attn.in_proj_bias",
                 "cond_stage_model.model.positional_embedding", "cond_stage_model.model.ln_final.weight",
                 "model.diffusion_model.output_blocks.11.1.proj_in.weight"]),
        ("sdxl", ["conditioner.embedders.0.transformer.text_model.encoder.layers.11.mlp.fc1.weight",
                  "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight",
                  "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_proj.bias",
                  "conditioner.embedders.1.model.text_projection",
                  "model.diffusion_model.label_emb.0.2.weight",
                  "model.diffusion_model.middle_block.1.transformer_blocks.9.ff.net.0.proj.weight",
                  "model.diffusion_model.output_blocks.2.2.conv.weight"]),
    ],
)  # fmt: skip
def test_the_names_are_those_of_the_published_files(family: str, names: list[str]) -> None:
    assert set(names) <= set(shapes_of(open_base(SHAPES_OF[family])))


def test_settings_of_the_wrong_family_and_lost_tensors_are_refused(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    _, file = pair
    tensors = load_file(file)
    fused = next(name for name in tensors if name.endswith("attn.in_proj_weight"))
    save_file({name: tensor for name, tensor in tensors.items() if name != fused}, tmp_path / "a.safetensors")
    shutil.copytree(config_folder(file), tmp_path / "a.config")
    with pytest.raises(BaseError, match=r"lacks '.*in_proj_weight' of the text_encoder"):
        open_base(str(tmp_path / "a.safetensors")).load_text()
    shapes = read_shapes(file)
    mixed = {
        name: size for name, size in shapes.items() if not name.startswith(("cond_stage", "conditioner"))
    }
    mixed |= {"cond_stage_model.transformer.text_model.x": (1,)}
    with pytest.raises(BaseError, match="of different families"):
        infer_configs(mixed, family_of_shapes(mixed, where="x"), where="x")
