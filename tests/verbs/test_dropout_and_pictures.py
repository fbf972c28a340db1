"""A run with dropout draws without it: its pictures are those that its file draws."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from detour.specs.generation import GenerateSpec, PictureSpec
from detour.training.step import set_adapter_dropout
from detour.verbs.draw.pictures import generate_pictures
from detour.verbs.train.run import train_adapter
from detour.verbs.train.samples import SampleSheets
from tests.verbs.photos import make_photos, quick_spec


def pixels(path: Path) -> NDArray[np.int16]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def test_pictures_of_a_model_in_training_are_those_of_its_file(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples, and the pictures that the reload proof compares with."""
    draw = SampleSheets.draw

    def drawn_and_trained_on(sheets: SampleSheets, step: int) -> Path:
        folder = draw(sheets, step)
        set_adapter_dropout(sheets._denoiser.network, on=True)  # as every training pass leaves it
        return folder

    monkeypatch.setattr(SampleSheets, "draw", drawn_and_trained_on)
    spec = quick_spec(
        tiny_base,
        make_photos(tmp_path / "photos", 4),
        adapter__dropout=0.5,
        train__steps=3,
        train__optim__lr=0.3,
        train__schedule__kind="constant",
        validate__every=0,
        checkpoint__every=0,
        sample__every=3,
        sample__guidance_scale=5.0,
        sample__prompts=("a blue cat", "a red house"),
    )
    result = train_adapter(spec, runs=tmp_path / "runs")
    asked = GenerateSpec(
        base=str(tiny_base),
        prompts=("a blue cat", "a red house"),
        loras=(str(result.adapter_file),),
        seed=spec.seed,
        device="cpu",
        dtype="fp32",
        picture=PictureSpec(steps=1, guidance_scale=5.0, width_px=64, height_px=64),
    )
    drawn = generate_pictures(asked, out=tmp_path / "drawn").files
    samples = sorted((result.run_folder / "samples" / "step-000003").glob("*.png"))
    plain = generate_pictures(asked.model_copy(update={"loras": ()}), out=tmp_path / "plain").files
    for sample, other, without in zip(samples, drawn, plain, strict=True):
        assert np.abs(pixels(sample) - pixels(other.path)).max() <= 1
        assert np.abs(pixels(sample) - pixels(without.path)).max() > 5
    assert result.proof is not None
    assert result.proof.reload.max_abs_diff <= 1
