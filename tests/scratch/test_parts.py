"""Pages against the layers of diffusers and PEFT that they explain."""

import math

import pytest
import torch
from torch import Tensor, nn

from detour.scratch.classifier_free import guided_prediction
from detour.scratch.cross_attention import Attention
from detour.scratch.joint_attention import JointAttention
from detour.scratch.lora_layer import LoraLinear
from detour.scratch.rectified_flow import clean_guess, levels, noisy_and_target, sample
from detour.scratch.time_embedding import read_waves, waves

CLOSE = {"rtol": 0.0, "atol": 1e-5}


@pytest.mark.parametrize("width", [32, 320])
def test_waves_are_those_of_stable_diffusion(width: int) -> None:
    from diffusers.models.embeddings import get_timestep_embedding

    steps = torch.tensor([0, 1, 2, 499, 999])
    theirs = get_timestep_embedding(steps, width, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.allclose(waves(steps, width), theirs, **CLOSE)


def test_time_embedding_is_that_of_diffusers() -> None:
    from diffusers.models.embeddings import TimestepEmbedding

    torch.manual_seed(0)
    theirs = TimestepEmbedding(32, 128)
    vector = waves(torch.tensor([0, 7, 999]), 32)
    assert torch.allclose(read_waves(vector, dict(theirs.state_dict())), theirs(vector), **CLOSE)


@pytest.mark.parametrize("context_width", [None, 24])
def test_attention_is_that_of_diffusers(context_width: int | None) -> None:
    from diffusers.models.attention_processor import Attention as Theirs

    torch.manual_seed(0)
    theirs = Theirs(query_dim=64, cross_attention_dim=context_width, heads=4, dim_head=16)
    mine = Attention(64, context_width or 64, heads=4)
    mine.load_state_dict(theirs.state_dict(), strict=True)
    picture = torch.randn(2, 30, 64)
    context = None if context_width is None else torch.randn(2, 7, context_width)
    assert torch.allclose(mine(picture, context), theirs(picture, context), **CLOSE)


def test_every_place_shares_out_all_of_its_attention() -> None:
    torch.manual_seed(0)
    shares = Attention(64, 24, heads=4).weights(torch.randn(1, 30, 64), torch.randn(1, 7, 24))
    assert shares.shape == (1, 4, 30, 7)
    assert torch.allclose(shares.sum(-1), torch.ones(1, 4, 30), **CLOSE)


def test_joint_attention_is_that_of_sd35() -> None:
    from diffusers.models.attention_processor import Attention as Theirs
    from diffusers.models.attention_processor import JointAttnProcessor2_0

    torch.manual_seed(0)
    theirs = Theirs(
        query_dim=64, cross_attention_dim=None, added_kv_proj_dim=64, dim_head=16, heads=4, out_dim=64,
        context_pre_only=False, bias=True, processor=JointAttnProcessor2_0(), qk_norm="rms_norm", eps=1e-6,
    )  # fmt: skip
    mine = JointAttention(64, heads=4)
    mine.load_state_dict(theirs.state_dict(), strict=True)
    picture, text = torch.randn(2, 30, 64), torch.randn(2, 7, 64)
    for ours, wanted in zip(mine(picture, text), theirs(picture, text), strict=True):
        assert torch.allclose(ours, wanted, **CLOSE)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_is_walked_as_diffusers_walks_it(shift: float) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    def velocity(x: Tensor, sigma: float) -> Tensor:
        return torch.tanh(x) * (1 + sigma)

    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=[1 - step / 6 for step in range(6)])
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x = start
    for timestep in theirs.timesteps:
        x = theirs.step(velocity(x, float(timestep) / 1000), timestep, x, return_dict=False)[0]
    assert torch.allclose(sample(velocity, start, levels(6, shift)), x, **CLOSE)
    clean, noise = torch.randn(3, 5), torch.randn(3, 5)
    noisy, target = noisy_and_target(clean, noise, 0.3)
    assert torch.allclose(clean_guess(noisy, target, 0.3), clean, **CLOSE)
    assert torch.allclose(
        noisy, FlowMatchEulerDiscreteScheduler().scale_noise(clean, torch.tensor([300.0]), noise), **CLOSE
    )


@pytest.fixture
def trained() -> LoraLinear:
    torch.manual_seed(0)
    layer = LoraLinear(nn.Linear(24, 40), rank=4, alpha=12)
    nn.init.normal_(layer.up)
    return layer


def test_lora_layer_is_that_of_peft_when_alpha_is_not_the_rank(trained: LoraLinear) -> None:
    from peft.tuners.lora import Linear, LoraConfig

    theirs = Linear(trained.frozen, "default", config=LoraConfig(r=4, lora_alpha=12), r=4, lora_alpha=12)
    theirs.lora_A["default"].weight.data = trained.down.data
    theirs.lora_B["default"].weight.data = trained.up.data
    x = torch.randn(5, 24)
    assert torch.allclose(trained(x), theirs(x), **CLOSE)
    assert math.isclose(theirs.scaling["default"], trained.scale)


def test_lora_layer_starts_silent_and_merges_to_the_same(trained: LoraLinear) -> None:
    x = torch.randn(5, 24)
    fresh = LoraLinear(trained.frozen, rank=4, alpha=12)
    assert torch.equal(fresh(x), trained.frozen(x))
    assert torch.allclose(trained.merged()(x), trained(x), **CLOSE)
    assert not torch.allclose(trained(x), trained.frozen(x), atol=1e-2)


def test_first_gradient_reaches_up_alone() -> None:
    layer = LoraLinear(nn.Linear(24, 40), rank=4, alpha=4)
    layer(torch.randn(5, 24)).square().sum().backward()
    assert layer.up.grad is not None
    assert layer.down.grad is not None
    assert layer.up.grad.abs().sum() > 0
    assert layer.down.grad.abs().sum() == 0
    assert layer.frozen.weight.grad is None


@pytest.mark.parametrize("scale", [1.5, 7.5])
def test_guidance_is_that_of_diffusers(scale: float) -> None:
    from diffusers.guiders import ClassifierFreeGuidance

    torch.manual_seed(0)
    latents, text, no_text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 6), torch.randn(2, 5, 6)

    def unet(noisy: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        return noisy * states.mean((1, 2)).view(-1, 1, 1, 1) + timestep / 1000

    timestep = torch.tensor(300)
    mine = guided_prediction(unet, latents, timestep, text, no_text, scale=scale)
    theirs = ClassifierFreeGuidance(guidance_scale=scale)
    theirs.set_state(step=0, num_inference_steps=20, timestep=timestep)
    expected = theirs.forward(unet(latents, timestep, text), unet(latents, timestep, no_text)).pred
    assert torch.allclose(mine, expected, **CLOSE)
