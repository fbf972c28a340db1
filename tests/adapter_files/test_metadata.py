import base64
import io
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detour.adapter_files import kohya_metadata, read_adapter, write_adapter
from detour.adapter_files.container import decode
from detour.adapter_files.hashes import data_sha256
from detour.adapter_files.limits import DEFAULT_LIMITS
from detour.adapters.adapter import Adapter
from detour.bases.families import FAMILIES
from detour.specs import RunSpec
from detour.specs.sources import parse
from tests.adapter_files.examples import SD1, small_adapter


def run_of(**values) -> RunSpec:  # type: ignore[no-untyped-def]
    return parse(RunSpec, {"seed": 7, "train": {"steps": 200, "batch": 8, "optim": {"lr": 1e-4}}} | values)


def metadata_of(adapter: Adapter | None = None, **settings) -> dict[str, str]:  # type: ignore[no-untyped-def]
    settings = {
        "family": SD1,
        "identity": "stable-diffusion-v1-5",
        "title": "neon",
        "resolution_px": 512,
    } | settings
    return kohya_metadata(adapter or small_adapter(), **settings)


def test_other_tools_find_the_keys_they_look_for() -> None:
    found = metadata_of(run=run_of(), num_examples=24, tags={"10_sks dog": {"dog": 3}})
    assert found["ss_network_module"] == "networks.lora"
    assert found["ss_base_model_version"] == "sd_v1"
    assert (found["ss_seed"], found["ss_steps"], found["ss_num_train_images"]) == ("7", "200", "24")
    assert json.loads(found["ss_tag_frequency"]) == {"10_sks dog": {"dog": 3}}
    assert found["modelspec.sai_model_spec"] == "1.0.1"
    assert found["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert found["modelspec.resolution"] == "512x512"
    assert found["modelspec.title"] == "neon"
    assert all(isinstance(text, str) for text in found.values())


def test_rank_and_alpha_are_stated_where_they_are_one_and_dynamic_where_not() -> None:
    mixed = metadata_of()
    assert (mixed["ss_network_dim"], mixed["ss_network_alpha"]) == ("Dynamic", "Dynamic")
    key = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    one = metadata_of(Adapter({key: small_adapter().layers[key]}))
    assert (one["ss_network_dim"], one["ss_network_alpha"]) == ("2", "8.0")


def test_families_and_the_embedded_base_are_told_apart() -> None:
    assert metadata_of(family=FAMILIES["sd2"])["ss_v2"] == "True"
    sdxl = metadata_of(family=FAMILIES["sdxl"])
    assert sdxl["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert metadata_of(identity="pocket-v1")["modelspec.architecture"] == "pocket-v1/lora"


def test_neither_places_nor_captions_nor_times_go_into_the_file(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    run = run_of(
        data={"source": str(tmp_path / "photos"), "caption": "my secret dog", "trigger": "sks"},
        base={"name": str(tmp_path / "base")},
        sample={"prompts": ["my secret cat"]},
    )
    text = "\n".join(metadata_of(run=run).values())
    assert str(tmp_path) not in text
    assert "secret" not in text
    assert "sks" in text
    assert not [key for key in metadata_of(run=run) if "date" in key or "time" in key or "started" in key]


def test_run_in_the_file_is_a_run_that_can_be_read_again() -> None:
    run = run_of(data={"source": "hub:o/n"}, base={"name": "o/model"})
    config = tomllib.loads(metadata_of(run=run)["detour.config"])
    assert parse(RunSpec, config) == run


def test_tag_table_can_be_left_out() -> None:
    assert "ss_tag_frequency" not in metadata_of(run=run_of())


def test_thumbnail_is_a_small_jpeg_in_a_data_url() -> None:
    picture = np.full((300, 600, 3), 200, dtype=np.uint8)
    kind, _, data = metadata_of(thumbnail=picture)["modelspec.thumbnail"].partition(",")
    assert kind == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (image.format, image.size) == ("JPEG", (256, 128))


@pytest.mark.parametrize("file_format", ["kohya", "diffusers"])
def test_hashes_in_the_file_are_those_of_its_tensors(tmp_path: Path, file_format: str) -> None:
    adapter = Adapter(small_adapter().layers, metadata_of())
    path = write_adapter(tmp_path / "a.safetensors", adapter, file_format=file_format, family=SD1)  # type: ignore[arg-type]
    _, metadata = decode(path.read_bytes(), DEFAULT_LIMITS, where="a")
    assert metadata["sshs_model_hash"] == data_sha256(path.read_bytes())
    assert metadata["modelspec.hash_sha256"] == "0x" + metadata["sshs_model_hash"]


def test_converting_updates_the_hashes_and_keeps_the_rest(tmp_path: Path) -> None:
    adapter = Adapter(small_adapter().layers, metadata_of(run=run_of()))
    first = read_adapter(write_adapter(tmp_path / "a.safetensors", adapter, family=SD1))
    second = read_adapter(write_adapter(tmp_path / "b.safetensors", first, family=SD1, dtype="fp16"))
    assert second.metadata["detour.config"] == adapter.metadata["detour.config"]
    assert second.metadata["sshs_model_hash"] != first.metadata["sshs_model_hash"]
    kohya = write_adapter(tmp_path / "c.safetensors", first, family=SD1)
    assert kohya.read_bytes() == (tmp_path / "a.safetensors").read_bytes()
