from pathlib import Path

import numpy as np
import pytest
import torch

from detour.bases.base import open_base
from detour.generation.engine import PictureEngine, PictureRequest
from detour.specs.generation import PictureSpec
from tests.tiny_base import make_tiny_sdxl


@pytest.mark.parametrize("negative", ["", "blurry"])
def test_sdxl_draws_what_the_pipeline_of_diffusers_draws(tmp_path: Path, negative: str) -> None:
    import diffusers

    base = open_base(str(make_tiny_sdxl(tmp_path / "sdxl")))
    assert base.family.name == "sdxl"
    engine = PictureEngine.load(base)
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=engine.vae,
        text_encoder=engine.text.models["text_encoder"],
        text_encoder_2=engine.text.models["text_encoder_2"],
        tokenizer=engine.text.tokenizers["text_encoder"],
        tokenizer_2=engine.text.tokenizers["text_encoder_2"],
        unet=engine.unet,
        scheduler=diffusers.EulerDiscreteScheduler.from_config(base.scheduler_config()),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "a red house",
        negative_prompt=negative or None,
        num_inference_steps=3,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).images
    spec = PictureSpec(steps=3, guidance_scale=5.0, scheduler="euler", negative_prompt=negative)
    ours = engine.draw([PictureRequest(prompt="a red house", seed=3)], spec).pictures
    assert np.abs(ours.astype(int) - (theirs * 255).round().astype(int)).max() <= 1
