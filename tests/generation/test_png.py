from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from detour.errors import DataError
from detour.generation.png import AdapterUse, PictureMetadata, parameters_text, read_png_metadata, save_png

PICTURE = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
METADATA = PictureMetadata(
    prompt="a red house",
    negative_prompt="blurry",
    seed=7,
    steps=25,
    scheduler="dpm++",
    guidance_scale=7.5,
    width_px=8,
    height_px=8,
    base="pocket-v1",
    adapters=(AdapterUse(name="neon", weight=0.8, sha256="a" * 64, tensor_sha256="b" * 64),),
    device="cpu",
    dtype="fp32",
    batch=4,
    threads=1,
    versions={"detour": "0.1.0", "torch": "2.13.0", "diffusers": "0.42.1"},
    safety="absent",
)


def test_parameters_read_as_a1111_writes_them() -> None:
    assert parameters_text(METADATA) == (
        "a red house <lora:neon:0.8>\n"
        "Negative prompt: blurry\n"
        "Steps: 25, Sampler: DPM++ 2M, CFG scale: 7.5, Seed: 7, Size: 8x8, Model: pocket-v1, "
        'Lora hashes: "neon: bbbbbbbbbbbb", Version: detour 0.1.0'
    )


def test_without_adapter_and_negative_prompt_their_fields_are_left_out() -> None:
    text = parameters_text(METADATA.model_copy(update={"adapters": (), "negative_prompt": ""}))
    assert text.startswith("a red house\nSteps: 25")
    assert "Lora" not in text


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=60),
    seed=st.integers(0, 2**63 - 1),
)
def test_metadata_round_trips_with_any_prompt(tmp_path: Path, prompt: str, seed: int) -> None:
    metadata = METADATA.model_copy(update={"prompt": prompt, "seed": seed})
    save_png(tmp_path / "x.png", PICTURE, metadata)
    assert read_png_metadata(tmp_path / "x.png") == metadata
    with Image.open(tmp_path / "x.png") as image:
        assert (np.asarray(image) == PICTURE).all()


def test_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_png(tmp_path / name, PICTURE, METADATA)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_other_peoples_pictures_have_no_metadata(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "x.png")
    assert read_png_metadata(tmp_path / "x.png") is None


def test_damaged_metadata_and_files_are_said(tmp_path: Path) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("detour", '{"prompt": 1}')
    Image.fromarray(PICTURE).save(tmp_path / "x.png", pnginfo=chunks)
    with pytest.raises(DataError, match="metadata is damaged"):
        read_png_metadata(tmp_path / "x.png")
    (tmp_path / "y.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(DataError, match="not readable as PNG"):
        read_png_metadata(tmp_path / "y.png")
    with pytest.raises(DataError, match="not readable as PNG"):
        read_png_metadata(tmp_path / "missing.png")
