"""Pictures that begin as another one are those of diffusers' picture-to-picture and inpainting pipelines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detour.bases.base import Base, open_base
from detour.errors import ConfigError
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.starts import StartPicture, skipped_steps
from detour.specs.generation import PictureSpec
from tests.tiny_flow import make_tiny_flux, make_tiny_sd3

PROMPT, SEED, SIDE = "a red house", 5, 64
CLASSES = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
}


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> PictureEngine:
    return PictureEngine.load(open_base(str(tiny_base)))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.stack([rows * 4, columns * 4, (rows + columns) * 2], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
    whole = np.zeros((SIDE, SIDE), dtype=np.uint8)
    whole[8:48, 16:56] = 255
    return whole


def parts(engine: PictureEngine, scheduler: str) -> dict[str, Any]:
    import diffusers

    return {
        "vae": engine.vae,
        "text_encoder": engine.text.models["text_encoder"],
        "tokenizer": engine.text.tokenizers["text_encoder"],
        "unet": engine.unet,
        "scheduler": getattr(diffusers, CLASSES[scheduler]).from_config(engine.base.scheduler_config()),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def theirs(pipeline: Any, photo: np.ndarray, *, strength: float, **how: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(
        PROMPT,
        image=Image.fromarray(photo),
        strength=strength,
        num_inference_steps=6,
        generator=torch.Generator().manual_seed(SEED),
        output_type="np",
        **how,
    ).images[0]
    return (found * 255).round().astype(np.int16)


def ours(engine: PictureEngine, start: StartPicture, **how: Any) -> np.ndarray:
    spec = PictureSpec(steps=6, width_px=SIDE, height_px=SIDE, **how)
    request = PictureRequest(prompt=PROMPT, seed=SEED, how=spec, start=start)
    return engine.draw([request]).pictures[0].astype(np.int16)


@pytest.mark.parametrize("scheduler", list(CLASSES))
@pytest.mark.parametrize("strength", [0.35, 1.0])
def test_picture_to_picture(
    engine: PictureEngine, photo: np.ndarray, scheduler: str, strength: float
) -> None:
    import diffusers

    pipeline = diffusers.StableDiffusionImg2ImgPipeline(**parts(engine, scheduler))
    expected = theirs(pipeline, photo, strength=strength, guidance_scale=4.0)
    start = StartPicture(pixels=photo, strength=strength)
    drawn = ours(engine, start, scheduler=scheduler, guidance_scale=4.0)
    assert np.abs(drawn - expected).max() <= 1
    assert np.abs(drawn - ours(engine, None, scheduler=scheduler, guidance_scale=4.0)).max() > 5  # type: ignore[arg-type]


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++"])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_a_mask_draws_inside_as_the_pipeline_and_keeps_the_rest_to_the_pixel(
    engine: PictureEngine, photo: np.ndarray, mask: np.ndarray, scheduler: str, strength: float
) -> None:
    import diffusers

    pipeline = diffusers.StableDiffusionInpaintPipeline(**parts(engine, scheduler))
    expected = theirs(
        pipeline,
        photo,
        strength=strength,
        guidance_scale=4.0,
        mask_image=Image.fromarray(mask),
        height=SIDE,
        width=SIDE,
    )
    start = StartPicture(pixels=photo, strength=strength, mask=mask)
    drawn = ours(engine, start, scheduler=scheduler, guidance_scale=4.0)
    assert np.abs(drawn - expected)[mask == 255].max() <= 1
    assert np.array_equal(drawn[mask == 0], photo.astype(np.int16)[mask == 0])
    assert np.abs(drawn - photo)[mask == 255].max() > 5


def flow_bases(folder: Path) -> dict[str, Path]:
    return {"sd3": make_tiny_sd3(folder / "sd3"), "flux": make_tiny_flux(folder / "flux")}


@pytest.mark.parametrize("kind", ["sd3", "flux"])
@pytest.mark.parametrize("strength", [0.35, 0.75])
def test_picture_to_picture_on_a_rectified_flow(
    kind: str, strength: float, photo: np.ndarray, tmp_path: Path
) -> None:
    import diffusers

    folder = flow_bases(tmp_path)[kind]
    base: Base = open_base(str(folder))
    name = "StableDiffusion3Img2ImgPipeline" if kind == "sd3" else "FluxImg2ImgPipeline"
    pipeline = getattr(diffusers, name).from_pretrained(folder)
    how: dict[str, Any] = {"guidance_scale": 3.0, "height": SIDE, "width": SIDE}
    if kind == "flux":
        assert base.joint_text is not None
        how["max_sequence_length"] = base.joint_text.num_tokens
    expected = theirs(pipeline, photo, strength=strength, **how)
    drawn = ours(PictureEngine.load(base), StartPicture(pixels=photo, strength=strength), guidance_scale=3.0)
    assert np.abs(drawn - expected).max() <= 1


@pytest.mark.parametrize("kind", ["sd3", "flux"])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_a_mask_on_a_rectified_flow_draws_inside_as_the_pipeline(
    kind: str, strength: float, photo: np.ndarray, mask: np.ndarray, tmp_path: Path
) -> None:
    import diffusers

    folder = (
        make_tiny_sd3(tmp_path / "sd3", channels=16) if kind == "sd3" else make_tiny_flux(tmp_path / "flux")
    )
    base: Base = open_base(str(folder))
    name = "StableDiffusion3InpaintPipeline" if kind == "sd3" else "FluxInpaintPipeline"
    pipeline = getattr(diffusers, name).from_pretrained(folder)
    how: dict[str, Any] = {"guidance_scale": 3.0, "height": SIDE, "width": SIDE}
    if kind == "flux":
        assert base.joint_text is not None
        how["max_sequence_length"] = base.joint_text.num_tokens
    if kind == "sd3":
        _decode_with_shift(pipeline.vae)
    expected = theirs(pipeline, photo, strength=strength, mask_image=Image.fromarray(mask), **how)
    start = StartPicture(pixels=photo, strength=strength, mask=mask)
    drawn = ours(PictureEngine.load(base), start, guidance_scale=3.0)
    assert np.abs(drawn - expected)[mask == 255].max() <= 1
    assert np.array_equal(drawn[mask == 0], photo.astype(np.int16)[mask == 0])
    free = ours(PictureEngine.load(base), StartPicture(pixels=photo, strength=strength), guidance_scale=3.0)
    assert np.abs(drawn - free)[mask == 255].max() > 1, "what is kept around it counts"


def _decode_with_shift(vae: Any) -> None:
    """SD 3's inpainting pipeline of diffusers 0.42.1 decodes without the autoencoder's shift, which its others add."""
    decode = vae.decode
    vae.decode = lambda latents, **how: decode(latents + vae.config.shift_factor, **how)


def test_pictures_with_and_without_a_start_share_a_batch(engine: PictureEngine, photo: np.ndarray) -> None:
    """Each begins at its own step, and none is changed by the others."""
    spec = PictureSpec(steps=6, width_px=SIDE, height_px=SIDE)
    requests = [
        PictureRequest(prompt=PROMPT, seed=SEED, how=spec, width_class=8, start=start)
        for start in (
            None,
            StartPicture(pixels=photo, strength=0.3),
            StartPicture(pixels=photo, strength=0.9),
        )
    ]
    together = engine.draw(requests).pictures
    for request, picture in zip(requests, together, strict=True):
        assert np.array_equal(engine.draw([request]).pictures[0], picture)


def test_less_strength_stays_nearer_to_the_picture(photo: np.ndarray) -> None:
    """On a base whose autoencoder gives pictures back, as random weights do not."""
    engine = PictureEngine.load(open_base("pocket"))
    large = photo.repeat(2, axis=0).repeat(2, axis=1)
    spec = PictureSpec(steps=5, guidance_scale=1.0)
    requests = [
        PictureRequest(
            prompt=PROMPT, seed=SEED, how=spec, start=StartPicture(pixels=large, strength=strength)
        )
        for strength in (0.2, 0.6, 1.0)
    ]
    off = [np.abs(one.astype(float) - large).mean() for one in engine.draw(requests).pictures]
    assert off[0] + 5 < off[1] < off[2] - 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": np.zeros((32, 64, 3), np.uint8)}, "64x64 RGB is drawn"),
        ({"strength": 0.0}, "strength 0: choose one above 0"),
        ({"strength": 1.5}, "strength 1.5: choose one above 0"),
        ({"strength": 0.1}, "strength 0.1 of 6 steps leaves none"),
        ({"mask": np.zeros((32, 64), np.uint8)}, "the mask has shape"),
        ({"mask": np.zeros((64, 64), np.uint8)}, "leaves nothing to draw"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    engine: PictureEngine, photo: np.ndarray, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ours(engine, StartPicture(**{"pixels": photo, **changes}))


@pytest.mark.parametrize("is_flow", [False, True])
def test_some_step_is_drawn_for_every_strength_that_is_accepted(is_flow: bool) -> None:
    for steps in (1, 4, 25):
        assert skipped_steps(steps, 1.0, is_flow=is_flow) == 0
        for strength in (0.3, 0.5, 0.99):
            drawn = steps - skipped_steps(steps, strength, is_flow=is_flow)
            assert 0 <= drawn <= steps
            assert abs(drawn - steps * strength) <= 1
