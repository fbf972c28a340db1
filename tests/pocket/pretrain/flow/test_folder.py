"""The folder in StableDiffusion3Pipeline: what it reads of a prompt and what it draws."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import JointAttnProcessor2_0
from torch import Tensor

from detour.pocket.pretrain.flow.conditioning import TextStates, WeightedJointAttention, t5_bias
from detour.pocket.pretrain.folder import write_half
from tests.pocket.pretrain.flow.conftest import RandomBase

PROMPT = "a red house in the desert, thick outlines"
LONG = " ".join(["a red house beside a blue cat in the desert at night"] * 4)
STEPS, GUIDANCE = 4, 3.0


def encoded(base: RandomBase, prompts: list[str]) -> TextStates:
    """The states that the training has of these prompts, padded to the length of cached captions."""
    tokens = base.tokenizer(prompts, padding="max_length", max_length=48, truncation=True)
    return base.towers.encode(np.array(tokens.input_ids))


@pytest.mark.parametrize("prompt", [PROMPT, LONG, "", "sks vlnty, {x}"])
def test_training_reads_a_prompt_as_the_pipeline_does(random_base: RandomBase, prompt: str) -> None:
    with torch.no_grad():
        states, _, pooled, _ = random_base.pipeline.encode_prompt([prompt], None, None, max_sequence_length=1)
    own = encoded(random_base, [prompt])
    torch.testing.assert_close(own.joint, states, rtol=0, atol=1e-5)
    torch.testing.assert_close(own.pooled, pooled, rtol=0, atol=1e-5)


def test_no_folder_that_a_part_was_loaded_from_stands_in_its_settings(
    random_base: RandomBase, tmp_path: Path
) -> None:
    vae = AutoencoderKL.from_pretrained(random_base.folder / "vae", torch_dtype=torch.float32)
    write_half(tmp_path, {"vae": vae}, load_as_float32=())
    assert str(random_base.folder) not in (tmp_path / "vae" / "config.json").read_text(encoding="utf-8")


def own_picture(base: RandomBase, noise: Tensor, *, num_t5: int) -> Tensor:
    """Euler's method from σ = 1 to 0 at shift 1, with guidance, written out; (128, 128, 3) in [0, 1]."""
    transformer, vae = base.pipeline.transformer, base.pipeline.vae
    text = encoded(base, ["", PROMPT])
    bias = t5_bias(torch.full((2,), num_t5), num_keys=64 + text.joint.shape[1])
    sigmas = [*np.linspace(1.0, 0.001, STEPS).tolist(), 0.0]
    latents = noise
    for sigma, following in pairwise(sigmas):
        velocity = transformer(
            latents.repeat(2, 1, 1, 1),
            text.joint,
            text.pooled,
            torch.full((2,), 1000 * sigma),
            joint_attention_kwargs={"key_bias": bias},
        ).sample
        empty, said = velocity.chunk(2)
        latents = latents + (following - sigma) * (empty + GUIDANCE * (said - empty))
    picture = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
    return (picture[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("num_t5", [256, 0])
def test_the_pipeline_draws_what_the_training_means(random_base: RandomBase, num_t5: int) -> None:
    """At the pipeline's default of 256 zero states, for which training computes one, and without any."""
    pipeline = random_base.pipeline
    noise = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(5))
    drawn = pipeline(
        PROMPT,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=noise,
        max_sequence_length=num_t5,
        output_type="np",
    ).images[0]
    pipeline.transformer.set_attn_processor(WeightedJointAttention())
    try:
        with torch.no_grad():
            own = own_picture(random_base, noise, num_t5=num_t5)
    finally:
        pipeline.transformer.set_attn_processor(JointAttnProcessor2_0())
    assert drawn.std() > 0.05
    np.testing.assert_allclose(own.numpy(), drawn, atol=0.5 / 255)


def test_zero_states_matter(random_base: RandomBase) -> None:
    """So that the two lengths are two cases."""
    noise = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(5))
    without, with_them = (
        random_base.pipeline(
            PROMPT, num_inference_steps=2, latents=noise, max_sequence_length=length, output_type="np"
        ).images
        for length in (0, 256)
    )
    assert np.abs(without - with_them).max() > 2 / 255
