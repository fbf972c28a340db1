from pathlib import Path

import pytest
import safetensors.torch
import torch

from detour.adapter_files.container import encode
from detour.adapter_files.layer_file import open_layers
from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import FileDtype, FileFormat, write_adapter
from detour.adapters.adapter import Adapter
from detour.errors import AdapterError
from tests.adapter_files.examples import SD1, small_adapter
from tests.adapters.kinds import EVERY, IDS, LINEAR


def assert_same_layers(path: Path) -> None:
    """Layer by layer as at once: keys, kinds, alphas, every number, and the metadata."""
    whole = read_adapter(path)
    with open_layers(path) as opened:
        assert opened.meta_adapter.metadata == whole.metadata
        assert list(opened.meta_adapter.layers) == list(whole.layers)
        for key, layer in whole.layers.items():
            outline, read = opened.meta_adapter.layers[key], opened.layer(key)
            assert (outline.kind, outline.rank, outline.alpha) == (layer.kind, layer.rank, layer.alpha)
            assert (read.kind, read.alpha) == (layer.kind, layer.alpha)
            for name, tensor in layer.tensors.items():
                assert outline.tensors[name].shape == tensor.shape
                assert torch.equal(read.tensors[name], tensor)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    ("file_format", "name"), [("kohya", "a.safetensors"), ("diffusers", "b"), ("peft", "c")]
)
def test_layers_one_by_one_are_those_of_the_whole_file(
    tmp_path: Path, file_format: FileFormat, name: str, dtype: FileDtype
) -> None:
    adapter = small_adapter(text=True)
    path = write_adapter(tmp_path / name, adapter, file_format=file_format, family=SD1, dtype=dtype)
    assert_same_layers(path)
    assert open_layers(path).dtype == dtype


@pytest.mark.parametrize(("name", "make", "shape"), EVERY, ids=IDS)
def test_layers_of_every_kind_are_read_one_by_one(tmp_path: Path, name, make, shape) -> None:  # type: ignore[no-untyped-def]
    key = "unet.mid_block.attentions.0.proj_in" if shape == LINEAR else "unet.mid_block.resnets.0.conv1"
    assert_same_layers(
        write_adapter(tmp_path / f"{name}.safetensors", Adapter({key: make(shape)}), family=SD1)
    )


def test_opening_reads_no_factor(tmp_path: Path) -> None:
    """A factor that is not finite shows when its layer is read, and only then."""
    tensors = {
        "lora_unet_conv_in.lora_down.weight": torch.full((1, 4, 3, 3), float("nan")),
        "lora_unet_conv_in.lora_up.weight": torch.ones(8, 1, 1, 1),
    }
    path = tmp_path / "nan.safetensors"
    path.write_bytes(safetensors.torch.save(tensors))  # ours writes nothing that is not finite
    with open_layers(path) as opened:
        assert opened.meta_adapter.layers["unet.conv_in"].rank == 1
        with pytest.raises(AdapterError, match="NaN"):
            opened.layer("unet.conv_in")


def test_a_broken_file_is_refused_as_when_it_is_read_whole(tmp_path: Path) -> None:
    whole = write_adapter(tmp_path / "a.safetensors", small_adapter(), family=SD1).read_bytes()
    broken = {
        "cut.safetensors": whole[:-8],
        "header.safetensors": whole[:100],
        "pickle.safetensors": b"PK\x03\x04" + whole,
        "unknown.safetensors": encode({"lora_unet_conv_in.oft_blocks": torch.ones(2, 2)}, {}),
        "config.safetensors": encode({"base_model.model.conv_in.lora_A.weight": torch.ones(2, 2)}, {}),
        "empty.safetensors": encode({}, {}),
    }
    for name, data in broken.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(AdapterError) as at_once:
            read_adapter(path)
        with pytest.raises(AdapterError) as by_layer:
            open_layers(path)
        assert str(by_layer.value) == str(at_once.value)


def test_one_layer_under_two_names_is_refused(tmp_path: Path) -> None:
    down, up = torch.ones(1, 4, 3, 3), torch.ones(8, 1, 1, 1)
    tensors = {
        "unet.conv_in.lora_A.weight": down,
        "unet.conv_in.lora_B.weight": up,
        "conv_in.lora.down.weight": down,
        "conv_in.lora.up.weight": up,
    }
    path = tmp_path / "twice.safetensors"
    path.write_bytes(encode(tensors, {}))
    with pytest.raises(AdapterError, match="twice"):
        open_layers(path)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.safetensors", small_adapter(), family=SD1)
    with open_layers(path) as opened:
        path.write_bytes(path.read_bytes()[:-100])
        last = max(opened.meta_adapter.layers)
        with pytest.raises(AdapterError, match="shorter"):
            opened.layer(last)
