"""kohya → diffusers → PEFT → kohya: the same change for every family and algorithm, alpha and rank by layer."""

from pathlib import Path

import pytest
import torch
from torch import nn

from detour.adapter_files import read_adapter, write_adapter
from detour.adapter_files.container import encode
from detour.adapter_files.peft_lokr import factorized
from detour.adapters.adapter import Adapter, LoraLayer, part_of, path_of
from detour.adapters.analysis import relative_differences
from detour.adapters.layers import DoraLayer, Layer
from detour.adapters.lycoris_layers import LohaLayer, LokrLayer
from detour.bases.families import FAMILIES
from detour.errors import AdapterError
from tests.adapters.kinds import numbers

Shape = tuple[int, ...]

ATTENTION = "unet.down_blocks.1.attentions.0.transformer_blocks.0"
TEXT = "encoder.layers.1"
UNET: dict[str, Shape] = {
    f"{ATTENTION}.attn2.to_k": (12, 8),
    f"{ATTENTION}.attn1.to_out.0": (12, 12),
    f"{ATTENTION}.ff.net.0.proj": (16, 12),
    "unet.down_blocks.0.resnets.0.conv1": (12, 8, 3, 3),
    "unet.mid_block.resnets.1.time_emb_proj": (8, 16),
}
ONE_TEXT: dict[str, Shape] = {
    f"text_encoder.{TEXT}.self_attn.q_proj": (12, 12),
    f"text_encoder.{TEXT}.mlp.fc1": (16, 12),
}
SECOND_TEXT: dict[str, Shape] = {f"text_encoder_2.{TEXT}.mlp.fc2": (12, 16)}
T5 = "encoder.block.0.layer.0.SelfAttention.k"
BLOCK = "transformer.transformer_blocks.0"
TRANSFORMER: dict[str, Shape] = {
    **{
        f"{BLOCK}.attn.{name}": (8, 8)
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
    },
    f"{BLOCK}.ff.net.0.proj": (16, 8),
    f"{BLOCK}.norm1.linear": (24, 8),
    "transformer.norm_out.linear": (16, 8),
}
SINGLE = "transformer.single_transformer_blocks.0"
LAYERS: dict[str, dict[str, Shape]] = {
    "sd1": UNET | ONE_TEXT | {"unet.mid_block.attentions.0.proj_in": (12, 12, 1, 1)},
    "sd2": UNET | ONE_TEXT | {"unet.mid_block.attentions.0.proj_in": (12, 12)},
    "sdxl": UNET | ONE_TEXT | SECOND_TEXT | {"unet.add_embedding.linear_1": (8, 12)},
    "sd3": TRANSFORMER
    | ONE_TEXT
    | SECOND_TEXT
    | {
        f"text_encoder_3.{T5}": (8, 12),
        **{f"{BLOCK}.attn2.{name}": (8, 8) for name in ("to_q", "to_k", "to_v")},
        "transformer.pos_embed.proj": (8, 4, 2, 2),
    },
    "flux": TRANSFORMER
    | ONE_TEXT
    | {f"text_encoder_2.{T5}": (8, 12), f"{SINGLE}.proj_mlp": (32, 8), f"{SINGLE}.proj_out": (8, 40)}
    | {f"{SINGLE}.attn.{name}": (8, 8) for name in ("to_q", "to_k", "to_v")},
}


def lora(shape: Shape, index: int) -> LoraLayer:
    rank = 2 + index % 2
    ones = (1, 1) if len(shape) == 4 else ()
    return LoraLayer(
        down=numbers(rank, *shape[1:], seed=index),
        up=numbers(shape[0], rank, *ones, seed=index),
        alpha=0.7 + index % 3,
    )


def dora(shape: Shape, index: int) -> DoraLayer:
    return DoraLayer(change=lora(shape, index), magnitude=numbers(shape[0], seed=index).abs() + 0.1)


def loha(shape: Shape, index: int) -> LohaLayer:
    rank, inputs = 2 + index % 2, torch.Size(shape[1:]).numel()
    a = [numbers(shape[0], rank, seed=2 * index + one) for one in (0, 1)]
    b = [numbers(rank, inputs, seed=2 * index + one) for one in (0, 1)]
    return LohaLayer(w1_a=a[0], w2_a=a[1], w1_b=b[0], w2_b=b[1], alpha=0.7 + index % 3)


def lokr(shape: Shape, index: int) -> LokrLayer:
    """Split as PEFT and LyCORIS split with no factor named; rank 1, or whole where the second matrix is small."""
    (out1, out2), (in1, in2) = factorized(shape[0], -1), factorized(shape[1], -1)
    first, alpha = numbers(out1, in1, seed=index), 0.7 + index % 3
    area = torch.Size(shape[2:]).numel()
    if max(out2, in2) <= 2:
        return LokrLayer(w1=first, w2=numbers(out2, in2, *shape[2:], seed=index), alpha=float(min(out2, in2)))
    a, b = numbers(out2, 1, seed=index), numbers(1, in2 * area, seed=index)
    return LokrLayer(w1=first, w2_a=a, w2_b=b, alpha=alpha)


def made(family: str, kind: str) -> Adapter:
    make = {"lora": lora, "dora": dora, "loha": loha, "lokr": lokr}[kind]
    layers: dict[str, Layer] = {}
    for index, (key, shape) in enumerate(LAYERS[family].items()):
        if kind == "lokr" and part_of(key) == "transformer" and (".attn" in key or key.endswith("proj_mlp")):
            continue  # parts of fused layers: see below
        layers[key] = make(shape, index)
    return Adapter(layers)


@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "lokr"])
@pytest.mark.parametrize("family", list(LAYERS))
def test_a_way_round_all_formats_is_the_same_change(tmp_path: Path, family: str, kind: str) -> None:
    adapter = current = made(family, kind)
    way = ("kohya", "diffusers", "peft", "kohya") if kind in ("lora", "dora") else ("kohya", "peft", "kohya")
    for step, file_format in enumerate(way):
        path = tmp_path / f"{step}.safetensors"
        current = read_adapter(
            write_adapter(path, current, file_format=file_format, family=FAMILIES[family])  # type: ignore[arg-type]
        )
        assert set(current.layers) == set(adapter.layers), file_format
        assert max(relative_differences(adapter, current).values()) < 1e-6, file_format
        assert current.kinds == adapter.kinds
    assert len({layer.alpha / layer.rank for layer in adapter.layers.values()}) > 2 or kind == "lokr"


@pytest.mark.parametrize("kind", ["dora-loha", "dora-lokr"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_dora_around_loha_and_lokr_stays_in_kohyas_format(tmp_path: Path, family: str, kind: str) -> None:
    make = {"dora-loha": loha, "dora-lokr": lokr}[kind]
    layers = {
        key: DoraLayer(change=make(shape, index), magnitude=numbers(shape[0], seed=index).abs() + 0.1)
        for index, (key, shape) in enumerate(LAYERS[family].items())
    }
    path = write_adapter(tmp_path / "a.safetensors", Adapter(layers), family=FAMILIES[family])
    assert max(relative_differences(Adapter(layers), read_adapter(path)).values()) < 1e-6
    for file_format in ("diffusers", "peft"):
        with pytest.raises(AdapterError, match="is DoRA around lo"):
            write_adapter(tmp_path / "b", Adapter(layers), file_format=file_format, family=FAMILIES[family])  # type: ignore[arg-type]


def fused_lokr(outputs: int, first_rows: int) -> dict[str, torch.Tensor]:
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    return {
        f"{name}.lokr_w1": numbers(first_rows, 2),
        f"{name}.lokr_w2": numbers(outputs // first_rows, 4),
        f"{name}.alpha": torch.tensor(1.0),
    }


def test_a_fused_lokr_is_cut_in_its_first_matrix_and_put_together_again(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(encode(fused_lokr(24, 6), {}))
    adapter = read_adapter(tmp_path / "a.safetensors")
    assert [path_of(key).rpartition(".")[2] for key in adapter.layers] == ["to_k", "to_q", "to_v"]
    whole = torch.kron(numbers(6, 2), numbers(4, 4))
    query = adapter.layers["transformer.transformer_blocks.0.attn.to_q"].delta()
    torch.testing.assert_close(query, whole[:8])
    path = write_adapter(tmp_path / "b.safetensors", adapter, family=FAMILIES["flux"])
    assert max(relative_differences(adapter, read_adapter(path)).values()) < 1e-6


def test_a_fused_lokr_that_cannot_be_cut_between_its_parts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(encode(fused_lokr(24, 2), {}))
    with pytest.raises(AdapterError, match="second matrix has 12 rows, so that it cannot be cut"):
        read_adapter(tmp_path / "a.safetensors")


def test_lokr_parts_of_their_own_cannot_be_fused(tmp_path: Path) -> None:
    layers = {key: lokr((8, 8), index) for index, key in enumerate(TRANSFORMER) if ".attn.to_" in key}
    with pytest.raises(AdapterError, match="different second matrices, which cannot be joined exactly"):
        write_adapter(tmp_path / "a.safetensors", Adapter(layers), family=FAMILIES["flux"])


def test_a_dora_of_some_parts_cannot_be_fused(tmp_path: Path) -> None:
    layers = {f"{BLOCK}.attn.to_q": dora((8, 8), 0)}
    with pytest.raises(AdapterError, match="DoRA in 1 of 3 parts"):
        write_adapter(tmp_path / "a.safetensors", Adapter(layers), family=FAMILIES["flux"])


SPLITS = {
    "none named": ((8, 12), {"w1": (2, 3), "w2_a": (4, 1), "w2_b": (1, 4)}),
    "a factor": ((8, 12), {"w1": (4, 4), "w2_a": (2, 1), "w2_b": (1, 3)}),
    "both in factors": ((36, 36), {"w1_a": (6, 2), "w1_b": (2, 6), "w2_a": (6, 2), "w2_b": (2, 6)}),
    "whole": ((8, 12), {"w1": (2, 3), "w2": (4, 4)}),
    "conv": ((8, 12, 3, 3), {"w1": (2, 3), "w2_a": (4, 1), "w2_b": (1, 36)}),
    "conv whole": ((8, 12, 3, 3), {"w1": (2, 3), "w2": (4, 4, 3, 3)}),
    "conv Tucker": ((8, 12, 3, 3), {"w1": (2, 3), "t2": (1, 1, 3, 3), "w2_a": (1, 4), "w2_b": (1, 4)}),
}


@pytest.mark.parametrize("how", SPLITS)
def test_peft_loads_our_lokr_folder_with_the_same_change(tmp_path: Path, how: str) -> None:
    from peft import PeftModel

    shape, factors = SPLITS[how]
    path = "conv_in" if len(shape) == 4 else "time_embedding.linear_1"
    layer = LokrLayer(alpha=3.0, **{name: numbers(*size) for name, size in factors.items()})
    folder = write_adapter(
        tmp_path / "a", Adapter({f"unet.{path}": layer}), file_format="peft", family=FAMILIES["sd1"]
    )
    model = nn.Module()
    model.conv_in, model.time_embedding = nn.Conv2d(12, 8, 3), nn.Module()
    model.time_embedding.linear_1 = nn.Linear(shape[1], shape[0])
    theirs = PeftModel.from_pretrained(model, folder).base_model.model.get_submodule(path)
    delta = theirs.get_delta_weight("default")
    torch.testing.assert_close(layer.delta().reshape(delta.shape), delta, rtol=1e-5, atol=1e-6)
    back = read_adapter(folder)
    assert max(relative_differences(Adapter({f"unet.{path}": layer}), back).values()) < 1e-6


def test_a_lokr_that_peft_cannot_be_told_of_is_refused_by_name(tmp_path: Path) -> None:
    odd = LokrLayer(w1=numbers(2, 2), w2=numbers(4, 6), alpha=4.0)
    other = LokrLayer(w1=numbers(4, 3), w2=numbers(2, 4), alpha=2.0)
    layers = {"unet.time_embedding.linear_1": odd, "unet.time_embedding.linear_2": other}
    with pytest.raises(
        AdapterError, match=r"'unet\.time_embedding\.linear_1' is a LoKr that no PEFT folder can hold"
    ):
        write_adapter(tmp_path / "a", Adapter(layers), file_format="peft", family=FAMILIES["sd1"])
    assert not list(tmp_path.iterdir())
