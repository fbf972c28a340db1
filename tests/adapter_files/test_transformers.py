"""Flux and SD 3.5: kohya's fused layers against diffusers' own converters, which know nothing of ours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from detour.adapter_files import read_adapter, write_adapter
from detour.adapter_files.adapter_family import family_of_adapter
from detour.adapter_files.container import encode
from detour.adapter_files.kohya import grown_ranks
from detour.adapters.adapter import Adapter
from detour.adapters.analysis import relative_difference, relative_differences
from detour.adapters.attach import attach_adapter
from detour.adapters.layers import LoraLayer
from detour.adapters.targets import adaptable_layers
from detour.bases.families import FAMILIES
from detour.bases.transformer_names import is_transformer_path, place_of
from detour.errors import AdapterError, ConfigError
from tests.adapter_files.transformers import WIDTH, flux_names, lora_on, sd3_names, tiny_flux, tiny_sd3

MODELS: dict[str, Callable[[], Any]] = {"flux": tiny_flux, "sd3": tiny_sd3}
TEXT = ".lora_linear_layer"
NAMES = {"flux": flux_names, "sd3": sd3_names}


@pytest.fixture(scope="module", params=["flux", "sd3"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.write_bytes(encode(tensors, metadata or {}))
    return path


def lora(
    name: str, inputs: int, outputs: int, *, rank: int = 2, alpha: float | None = 3.0
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(inputs + outputs + len(name))
    made = {
        f"{name}.lora_down.weight": torch.randn(rank, inputs, generator=generator),
        f"{name}.lora_up.weight": torch.randn(outputs, rank, generator=generator),
    }
    return made if alpha is None else made | {f"{name}.alpha": torch.tensor(alpha)}


def changes(path: Path) -> dict[str, Tensor]:
    """Name in a kohya file → dense change."""
    tensors = safetensors.torch.load(path.read_bytes())
    names = {name.partition(".")[0] for name in tensors}
    return {
        name: LoraLayer(
            down=tensors[f"{name}.lora_down.weight"], up=tensors[f"{name}.lora_up.weight"],
            alpha=float(tensors[f"{name}.alpha"]),
        ).delta()
        for name in names
    }  # fmt: skip


def test_every_layer_of_the_true_class_has_a_place_in_the_original_code(family: str) -> None:
    paths = [layer.path for layer in adaptable_layers(MODELS[family]())]
    places = [place_of(family, path) for path in paths]
    assert all(is_transformer_path(path) for path in paths)
    assert {place.name for place in places if place} == set(NAMES[family]())
    assert len({(place.name, place.index) for place in places if place}) == len(paths)


def test_our_kohya_file_read_by_diffusers_own_checkpoint_converter_is_the_same_change(
    family: str, tmp_path: Path
) -> None:
    """The changes, put into an original checkpoint in place of weights, are where diffusers expects its own."""
    from diffusers.loaders import single_file_utils as theirs

    adapter = lora_on(MODELS[family]())
    kohya = changes(write_adapter(tmp_path / "a.safetensors", adapter, family=FAMILIES[family]))
    flat = {name: f"lora_unet_{name.replace('.', '_')}" for name in NAMES[family]()}
    assert set(kohya) == set(flat.values())
    checkpoint = {f"{name}.weight": kohya[one] for name, one in flat.items()}
    if family == "flux":  # their converter cuts linear1 at Flux's true width; the next test is for it
        checkpoint |= {f"single_blocks.{index}.linear1.weight": torch.zeros(21504, 1) for index in (0, 1)}
    checkpoint |= {f"{name}.bias": torch.zeros(len(checkpoint[f"{name}.weight"])) for name in flat}
    for block in [f"double_blocks.{i}.{s}_attn" for i in (0, 1) for s in ("img", "txt")] + [
        f"single_blocks.{i}" for i in (0, 1)
    ]:
        checkpoint |= {f"{block}.norm.{one}_norm.scale": torch.zeros(8) for one in ("query", "key")}
    if family == "sd3":
        checkpoint["pos_embed"] = torch.zeros(1)
        for block in (
            "0.x_block.attn",
            "0.x_block.attn2",
            "0.context_block.attn",
            "1.x_block.attn",
            "1.context_block.attn",
        ):
            checkpoint |= {f"joint_blocks.{block}.ln_{one}.weight": torch.zeros(8) for one in ("q", "k")}
    convert = {
        "flux": theirs.convert_flux_transformer_checkpoint_to_diffusers,
        "sd3": theirs.convert_sd3_transformer_checkpoint_to_diffusers,
    }[family]
    converted = convert(checkpoint)
    compared = 0
    for key, layer in adapter.layers.items():
        path = key.removeprefix("transformer.")
        if path.startswith("single_transformer_blocks") and (".to_" in path or "proj_mlp" in path):
            continue
        torch.testing.assert_close(converted[f"{path}.weight"], layer.delta(), rtol=0, atol=1e-6)
        compared += 1
    assert compared > 30


def test_flux_files_are_read_as_diffusers_own_kohya_converter_reads_them(tmp_path: Path) -> None:
    """At Flux's true width, with the layers that their converter gives an alpha to."""
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    width, tensors = 3072, {}
    for side in ("img", "txt"):
        block = f"lora_unet_double_blocks_0_{side}"
        tensors |= lora(f"{block}_attn_qkv", width, 3 * width, rank=4, alpha=1.0)
        tensors |= lora(f"{block}_attn_proj", width, width, rank=3)
        tensors |= lora(f"{block}_mlp_0", width, 4 * width) | lora(f"{block}_mlp_2", 4 * width, width)
        tensors |= lora(f"{block}_mod_lin", width, 6 * width, alpha=None)
    tensors |= lora("lora_unet_single_blocks_37_linear1", width, 7 * width)
    tensors |= lora("lora_unet_single_blocks_37_linear2", 5 * width, width)
    tensors |= lora("lora_unet_single_blocks_37_modulation_lin", width, 3 * width)
    tensors |= lora("lora_te1_text_model_encoder_layers_11_self_attn_q_proj", 768, 768)
    tensors |= lora("lora_te1_text_model_encoder_layers_0_mlp_fc1", 768, 3072)
    ours = read_adapter(save(tmp_path / "a.safetensors", tensors))
    converted = {
        name.replace(".text_model.", ".").replace("to_q_lora.", "q_proj.lora_linear_layer."): tensor
        for name, tensor in _convert_kohya_flux_lora_to_diffusers(dict(tensors)).items()
    }
    theirs = {}
    for down_end, up_end in (
        (".lora_A.weight", ".lora_B.weight"),
        (f"{TEXT}.down.weight", f"{TEXT}.up.weight"),
    ):
        for name, down in converted.items():
            if name.endswith(down_end):
                key = name.removesuffix(down_end)
                theirs[key] = LoraLayer(down=down, up=converted[key + up_end], alpha=float(down.shape[0]))
    assert set(theirs) == set(ours.layers)
    assert len(theirs) == 2 * 7 + 6 + 2
    for key, layer in theirs.items():
        mine = ours.layers[key]
        assert isinstance(mine, LoraLayer)
        assert relative_difference(layer, mine) < 1e-6, key
    assert ours.metadata["detour.family"] == "flux"


@pytest.mark.parametrize("file_format", ["diffusers", "kohya", "peft"])
def test_a_layer_on_everything_comes_back_from_every_format(
    family: str, tmp_path: Path, file_format: str
) -> None:
    adapter = lora_on(MODELS[family]())
    path = write_adapter(
        tmp_path / "a.safetensors", adapter, file_format=file_format, family=FAMILIES[family]
    )  # type: ignore[arg-type]
    back = read_adapter(path)
    assert set(back.layers) == set(adapter.layers)
    assert {key: layer.rank for key, layer in back.layers.items()} == {
        key: layer.rank for key, layer in adapter.layers.items()
    }
    assert max(relative_differences(adapter, back).values()) < 1e-6


def test_fused_layers_keep_their_rank_through_diffusers_and_back(family: str, tmp_path: Path) -> None:
    names = {
        name: f"lora_unet_{name.replace('.', '_')}"
        for name in NAMES[family]()
        if name.endswith(("qkv", "linear1"))
    }
    tensors = {}
    for name, flat in names.items():
        outputs = 7 * WIDTH if name.endswith("linear1") else 3 * WIDTH
        tensors |= lora(flat, WIDTH, outputs, rank=4, alpha=0.5)
    source = read_adapter(save(tmp_path / "a.safetensors", tensors))
    middle = read_adapter(
        write_adapter(tmp_path / "d.safetensors", source, file_format="diffusers", family=FAMILIES[family])
    )
    path = write_adapter(tmp_path / "k.safetensors", middle, family=FAMILIES[family])
    back = safetensors.torch.load(path.read_bytes())
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():  # alpha 0.5 of rank 4 is 2⁻³: folded into the factors exactly
        expected = {"alpha": torch.tensor(4.0), "lora_up.weight": tensor / 8}.get(
            name.partition(".")[2], tensor
        )
        assert torch.equal(back[name], expected), name
    assert grown_ranks(middle, FAMILIES[family]) == {}


def test_parts_with_factors_of_their_own_add_their_ranks_and_say_so(family: str, tmp_path: Path) -> None:
    adapter = lora_on(MODELS[family]())
    grown = grown_ranks(adapter, FAMILIES[family])
    assert (
        grown[{"flux": "single_blocks.0.linear1", "sd3": "joint_blocks.0.x_block.attn2.qkv"}[family]][1] >= 6
    )
    assert all(name.endswith(("qkv", "linear1")) for name in grown)


def test_a_fused_layer_of_which_only_some_parts_are_adapted_changes_nothing_else(tmp_path: Path) -> None:
    layers = {
        key: layer
        for key, layer in lora_on(tiny_flux()).layers.items()
        if key.endswith(("single_transformer_blocks.1.attn.to_q", "single_transformer_blocks.1.attn.to_v"))
    }
    path = write_adapter(tmp_path / "a.safetensors", Adapter(layers), family=FAMILIES["flux"])
    change = changes(path)["lora_unet_single_blocks_1_linear1"]
    assert change.shape == (7 * WIDTH, WIDTH)
    assert not change[WIDTH : 2 * WIDTH].any()
    assert not change[3 * WIDTH :].any()
    assert set(read_adapter(path).layers) == set(layers)


def test_our_diffusers_file_draws_in_diffusers_what_it_does_here(family: str, tmp_path: Path) -> None:
    from diffusers.loaders import FluxLoraLoaderMixin, SD3LoraLoaderMixin

    adapter = lora_on(MODELS[family]())
    ours, theirs = MODELS[family](), MODELS[family]()
    plain = answer(family, ours)
    attach_adapter({"transformer": ours}, adapter)
    path = write_adapter(tmp_path, adapter, file_format="diffusers", family=FAMILIES[family])
    loader = {"flux": FluxLoraLoaderMixin, "sd3": SD3LoraLoaderMixin}[family]
    state, *_, metadata = loader.lora_state_dict(str(path), return_lora_metadata=True)
    loader.load_lora_into_transformer(state, transformer=theirs, metadata=metadata) if family == "sd3" else (
        loader.load_lora_into_transformer(state, network_alphas=None, transformer=theirs, metadata=metadata)
    )
    assert (answer(family, ours) - plain).abs().mean() > 0.01
    torch.testing.assert_close(answer(family, theirs), answer(family, ours), rtol=0, atol=1e-5)


def answer(family: str, model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    text, pooled, time = random(1, 5, 12), random(1, 10), torch.tensor([0.5])
    with torch.no_grad():
        if family == "sd3":
            return model(random(1, 4, 8, 8), text, pooled, time * 1000).sample  # type: ignore[no-any-return]
        return model(  # type: ignore[no-any-return]
            random(1, 9, 4), text, pooled, time, torch.zeros(9, 3), torch.zeros(5, 3), torch.tensor([3.5])
        ).sample


@pytest.mark.parametrize(
    ("module", "key"),
    [
        ("lora_transformer_single_transformer_blocks_3_proj_mlp", "transformer.single_transformer_blocks.3.proj_mlp"),
        ("lycoris_transformer_blocks_3_attn_to_q", "transformer.transformer_blocks.3.attn.to_q"),
        ("diffusion_model.double_blocks.3.img_attn.proj", "transformer.transformer_blocks.3.attn.to_out.0"),
        ("diffusion_model.joint_blocks.3.x_block.mlp.fc1", "transformer.transformer_blocks.3.ff.net.0.proj"),
        ("text_encoders.clip_l.transformer.text_model.encoder.layers.1.mlp.fc1",
         "text_encoder.encoder.layers.1.mlp.fc1"),
        ("transformer.single_transformer_blocks.3.proj_out", "transformer.single_transformer_blocks.3.proj_out"),
        ("transformer.x_embedder", "transformer.x_embedder"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pair", [("lora_down", "lora_up"), ("lora_A", "lora_B")])
def test_the_namings_of_other_tools_are_read(
    tmp_path: Path, module: str, key: str, pair: tuple[str, str]
) -> None:
    down, up = (pair[0], pair[1]) if not module.startswith("transformer.") else ("lora_A", "lora_B")
    tensors = {f"{module}.{down}.weight": torch.ones(2, 8), f"{module}.{up}.weight": torch.ones(8, 2)}
    assert list(read_adapter(save(tmp_path / "a.safetensors", tensors)).layers) == [key]


CLIP = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
T5 = "encoder_block_3_layer_1_DenseReluDense_wi_0"


@pytest.mark.parametrize(
    ("beside", "metadata", "key"),
    [
        ("lora_unet_double_blocks_0_img_attn_proj", {}, "text_encoder_2"),
        ("lora_unet_joint_blocks_0_x_block_attn_proj", {}, "text_encoder_3"),
        (CLIP, {"ss_base_model_version": "flux1"}, "text_encoder_2"),
        (CLIP, {"modelspec.architecture": "stable-diffusion-3.5-large/lora"}, "text_encoder_3"),
        (CLIP, {}, None),
    ],
)  # fmt: skip
def test_the_t5_is_the_second_encoder_of_flux_and_the_third_of_sd3(
    tmp_path: Path, beside: str, metadata: dict[str, str], key: str | None
) -> None:
    path = save(tmp_path / "a.safetensors", lora(f"lora_te3_{T5}", 8, 12) | lora(beside, 8, 8), metadata)
    if key is None:
        with pytest.raises(AdapterError, match="nothing says whether of Flux or of SD 3"):
            read_adapter(path)
        return
    adapter = read_adapter(path)
    assert f"{key}.encoder.block.3.layer.1.DenseReluDense.wi_0" in adapter.layers
    family = family_of_adapter(adapter).family
    for file_format in ("kohya", "diffusers", "peft"):
        back = write_adapter(
            tmp_path / f"{file_format}.safetensors", adapter, file_format=file_format, family=family
        )  # type: ignore[arg-type]
        assert max(relative_differences(adapter, read_adapter(back)).values()) < 1e-6
    names = safetensors.torch.load((tmp_path / "kohya.safetensors").read_bytes())
    assert f"lora_te3_{T5}.alpha" in names


def test_what_is_not_whole_or_of_another_width_is_refused_by_name(tmp_path: Path) -> None:
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    with pytest.raises(
        AdapterError, match=r"'double_blocks.0.img_attn.qkv': a fused layer of 8 inputs cannot have 25"
    ):
        read_adapter(save(tmp_path / "a.safetensors", lora(name, 8, 25)))
    both = lora(name, 8, 24) | lora("lora_transformer_transformer_blocks_0_attn_to_q", 8, 8)
    with pytest.raises(AdapterError, match="stands there twice"):
        read_adapter(save(tmp_path / "b.safetensors", both))
    left = read_adapter(tmp_path / "b.safetensors", allow_partial=True)
    assert len(left.layers) == 3
    assert "stands there twice" in left.left_out[0]


def test_a_family_that_nothing_tells_is_asked_for(tmp_path: Path) -> None:
    name = "transformer.transformer_blocks.0.attn.to_q.lora"
    path = save(
        tmp_path / "a.safetensors",
        {f"{name}_A.weight": torch.ones(2, 8), f"{name}_B.weight": torch.ones(8, 2)},
    )
    adapter = read_adapter(path)
    with pytest.raises(ConfigError, match="--family flux or --family sd3"):
        family_of_adapter(adapter)
    assert family_of_adapter(adapter, "sd3").family.name == "sd3"
    with pytest.raises(AdapterError, match=r"is no layer of Stable Diffusion 1\.x, which has a unet"):
        write_adapter(tmp_path / "b.safetensors", adapter, family=FAMILIES["sd1"])
