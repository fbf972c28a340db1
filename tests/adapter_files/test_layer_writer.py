import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from detour.adapter_files.layer_file import open_layers
from detour.adapter_files.layer_writer import LayerWriter
from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import FileDtype, FileFormat, write_adapter
from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.meta_tensors import on_meta
from detour.bases.families import FAMILIES
from detour.errors import AdapterError
from tests.adapter_files.examples import SD1, small_adapter
from tests.adapters.kinds import EVERY, IDS, LINEAR

FORMATS = [("kohya", "a.safetensors"), ("diffusers", "b.safetensors"), ("diffusers", "folder"), ("peft", "c")]


def written(place: Path, adapter: Adapter, file_format: FileFormat, dtype: FileDtype = "fp32") -> Path:
    """The layers one by one, in another order than a file has."""
    with LayerWriter(place, file_format=file_format, family=SD1, dtype=dtype) as writer:
        for key in sorted(adapter.layers, reverse=True):
            writer.add(key, adapter.layers[key])
        return writer.finish(adapter.metadata)


def contents(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(("file_format", "name"), FORMATS)
@pytest.mark.parametrize("text", [False, True], ids=["unet", "unet+text"])
def test_layers_one_by_one_make_the_same_bytes_as_at_once(
    tmp_path: Path, file_format: FileFormat, name: str, dtype: FileDtype, text: bool
) -> None:
    adapter = small_adapter(text=text)
    (tmp_path / "x").mkdir()
    one_by_one = written(tmp_path / "x" / name, adapter, file_format, dtype)
    at_once = write_adapter(tmp_path / "y" / name, adapter, file_format=file_format, family=SD1, dtype=dtype)
    assert contents(one_by_one) == contents(at_once)
    assert one_by_one.relative_to(tmp_path / "x") == at_once.relative_to(tmp_path / "y")


@pytest.mark.parametrize(("name", "make", "shape"), EVERY, ids=IDS)
def test_every_kind_makes_the_same_bytes(tmp_path: Path, name, make, shape) -> None:  # type: ignore[no-untyped-def]
    key = "unet.mid_block.attentions.0.proj_in" if shape == LINEAR else "unet.mid_block.resnets.0.conv1"
    adapter = Adapter({key: make(shape)}, {"modelspec.title": name})
    at_once = write_adapter(tmp_path / "y.safetensors", adapter, family=SD1)
    assert written(tmp_path / "x.safetensors", adapter, "kohya").read_bytes() == at_once.read_bytes()


@pytest.mark.parametrize(("file_format", "name"), FORMATS)
def test_a_transformer_makes_the_same_bytes_and_is_read_back(
    tmp_path: Path, file_format: FileFormat, name: str
) -> None:
    """In kohya's files q, k and v are one layer, so that this format waits for all of them."""
    layers = {
        f"transformer.transformer_blocks.0.attn.{end}": LoraLayer(
            down=torch.randn(2, 16), up=torch.randn(16, 2), alpha=3.0
        )
        for end in ("to_q", "to_k", "to_v", "to_out.0")
    }
    (tmp_path / "x").mkdir()
    adapter, flux = Adapter(layers), FAMILIES["flux"]
    with LayerWriter(tmp_path / "x" / name, file_format=file_format, family=flux, dtype="fp32") as writer:
        for key, layer in layers.items():
            writer.add(key, layer)
        one_by_one = writer.finish({})
    at_once = write_adapter(tmp_path / "y" / name, adapter, file_format=file_format, family=flux)
    assert contents(one_by_one) == contents(at_once)
    whole = read_adapter(at_once)
    with open_layers(one_by_one) as opened:
        assert set(opened.meta_adapter.layers) == set(layers)
        for key, layer in whole.layers.items():
            assert opened.meta_adapter.layers[key].rank == layer.rank
            assert torch.equal(opened.layer(key).tensors["up"], layer.tensors["up"])


def test_a_file_above_a_mebibyte_has_the_legacy_hash_too(tmp_path: Path) -> None:
    layer = LoraLayer(down=torch.randn(64, 320), up=torch.randn(5120, 64), alpha=4.0)
    adapter = Adapter({"unet.mid_block.attentions.0.proj_in": layer})
    at_once = write_adapter(tmp_path / "y.safetensors", adapter, family=SD1)
    assert at_once.stat().st_size > 1_200_000
    assert written(tmp_path / "x.safetensors", adapter, "kohya").read_bytes() == at_once.read_bytes()


def test_the_legacy_hash_of_a_written_file_is_over_kohyas_own_metadata_alone(tmp_path: Path) -> None:
    """kohya: serialise with the ``ss_`` keys alone, then SHA-256 of the 64 KiB at 1 MiB."""
    layer = LoraLayer(down=torch.randn(64, 320), up=torch.randn(5120, 64), alpha=4.0)
    hashes = []
    for number, notes in enumerate(({}, {"modelspec.title": "a title", "detour.notes": "n" * 5000})):
        metadata = {"ss_network_dim": "64", "ss_network_alpha": "4.0"} | notes
        adapter = Adapter({"unet.mid_block.attentions.0.proj_in": layer}, metadata)
        at_once = write_adapter(tmp_path / f"{number}.safetensors", adapter, family=SD1)
        for file in (at_once, written(tmp_path / f"{number}-in-pieces.safetensors", adapter, "kohya")):
            with safe_open(file, "pt") as opened:
                said = opened.metadata()
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            kohyas = safetensors.torch.save(tensors, {k: v for k, v in said.items() if k.startswith("ss_")})
            assert said["sshs_legacy_hash"] == hashlib.sha256(kohyas[0x100000:0x110000]).hexdigest()[:8]
            assert notes.items() <= said.items()
            hashes.append(said["sshs_legacy_hash"])
    assert len(hashes) == 4
    assert len(set(hashes)) == 1


def test_a_layer_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    huge = LoraLayer(down=torch.full((1, 4), 1e6), up=torch.ones(4, 1), alpha=1.0)
    with (
        LayerWriter(tmp_path / "a.safetensors", file_format="kohya", family=SD1, dtype="fp16") as writer,
        pytest.raises(AdapterError, match="does not fit"),
    ):
        writer.add("unet.conv_in", huge)
    assert not list(tmp_path.iterdir())


def test_no_layers_and_one_layer_twice_are_refused(tmp_path: Path) -> None:
    layer = small_adapter().layers["unet.conv_in"]
    with LayerWriter(tmp_path / "a.safetensors", file_format="kohya", family=SD1, dtype="fp32") as writer:
        with pytest.raises(AdapterError, match="no layers"):
            writer.finish({})
        writer.add("unet.conv_in", layer)
        with pytest.raises(AdapterError, match="same name"):
            writer.add("unet.conv_in", layer)


@pytest.mark.parametrize(("name", "make", "shape"), EVERY, ids=IDS)
def test_an_outline_is_the_layer_without_numbers(name, make, shape) -> None:  # type: ignore[no-untyped-def]
    layer = make(shape)
    outline = on_meta(layer)
    assert (outline.kind, outline.rank, outline.alpha, outline.kernel) == (
        layer.kind, layer.rank, layer.alpha, layer.kernel,
    )  # fmt: skip
    assert outline.num_parameters == layer.num_parameters
    assert all(tensor.is_meta for tensor in outline.tensors.values())


def test_an_alpha_that_float32_cannot_hold_is_refused_when_it_is_added(tmp_path: Path) -> None:
    """The factors are finite; what the file would say of their scale is not."""
    layer = replace(small_adapter().layers["unet.conv_in"], alpha=1e39)
    with (
        LayerWriter(tmp_path / "a.safetensors", file_format="kohya", family=SD1, dtype="fp32") as writer,
        pytest.raises(AdapterError, match=r"conv_in\.alpha' would hold NaN or infinity"),
    ):
        writer.add("unet.conv_in", layer)
    assert not (tmp_path / "a.safetensors").exists()
