"""Times, targets and attention of the transformer's training."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor, nn

from detour.pocket.pretrain.flow.conditioning import TextStates, WeightedJointAttention, t5_bias
from detour.pocket.pretrain.flow.parts import JOINT_WIDTH, SCHEDULE, TRANSFORMER_CONFIG, new_transformer
from detour.pocket.pretrain.flow.velocity import draw_sigmas, velocity_loss
from tests.pocket.pretrain.flow.conftest import SMALL_TRANSFORMER


def test_noise_levels_are_logit_normal_and_every_batch_covers_them() -> None:
    sigmas = draw_sigmas(64, torch.Generator().manual_seed(1)).sort().values
    shares = torch.special.ndtr(sigmas.logit())  # uniform if logit-normal
    assert torch.equal((shares * 64).floor().long().clamp(max=63), torch.arange(64))
    assert sigmas.dtype == torch.float32


class Recorder(nn.Module):
    """Stands for the transformer: keeps what it was given and predicts a fixed velocity."""

    def __init__(self, velocity: Tensor) -> None:
        super().__init__()
        self.config = SimpleNamespace(patch_size=2)
        self.velocity = velocity

    def forward(self, **given: Tensor) -> SimpleNamespace:
        self.given = given
        return SimpleNamespace(sample=self.velocity)


def test_the_flow_is_the_one_of_the_scheduler() -> None:
    """The noisy latents are the scheduler's, and its Euler step with the target gives back the picture."""
    torch.manual_seed(0)
    latents = torch.randn(6, 16, 16, 16)
    text = TextStates(joint=torch.zeros(6, 33, JOINT_WIDTH), pooled=torch.zeros(6, 256))
    model = Recorder(torch.zeros_like(latents))
    loss, _ = velocity_loss(model, latents, text, torch.Generator().manual_seed(3))
    noisy, times = model.given["hidden_states"], model.given["timestep"]
    scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULE)
    target = (noisy - latents) / (times / 1000)[:, None, None, None]  # ε − x, from x_σ = x + σ (ε − x)
    torch.testing.assert_close(loss, target.square().mean(), rtol=1e-4, atol=0)
    scheduler.set_timesteps(sigmas=[float(times[0]) / 1000])
    cleaned = scheduler.step(target[:1], scheduler.timesteps[0], noisy[:1]).prev_sample
    torch.testing.assert_close(cleaned, latents[:1], rtol=0, atol=1e-5)
    assert times.dtype == torch.float32
    perfect = Recorder(target)
    assert velocity_loss(perfect, latents, text, torch.Generator().manual_seed(3))[0] < 1e-9


def test_weights_say_how_much_the_error_of_each_latent_counts() -> None:
    torch.manual_seed(0)
    latents = torch.randn(2, 16, 16, 16)
    text = TextStates(joint=torch.zeros(2, 33, JOINT_WIDTH), pooled=torch.zeros(2, 256))
    model = Recorder(torch.zeros_like(latents))

    def loss(weights: Tensor | None) -> Tensor:
        return velocity_loss(model, latents, text, torch.Generator().manual_seed(3), weights=weights)[0]

    left = torch.zeros(2, 1, 16, 16)
    left[..., :8] = 2.0
    torch.testing.assert_close(loss(torch.ones(2, 1, 16, 16)), loss(None))
    torch.testing.assert_close((loss(left) + loss(2 - left)) / 2, loss(None))
    assert not torch.isclose(loss(left), loss(None), rtol=1e-4)


@pytest.mark.parametrize("num_t5", [0, 1, 7, 256])
def test_one_weighted_token_is_as_many_equal_ones(num_t5: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in SMALL_TRANSFORMER.items():
        monkeypatch.setitem(TRANSFORMER_CONFIG, key, value)
    torch.manual_seed(0)
    transformer: SD3Transformer2DModel = new_transformer().eval()
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.1)
    latents, pooled, times = torch.randn(2, 16, 16, 16), torch.randn(2, 256), torch.tensor([100.0, 900.0])
    said, none = torch.randn(2, 5, JOINT_WIDTH), torch.zeros(2, num_t5, JOINT_WIDTH)
    with torch.no_grad():
        expected = transformer(latents, torch.cat([said, none], dim=1), pooled, times).sample
        transformer.set_attn_processor(WeightedJointAttention())
        one = torch.cat([said, torch.zeros(2, 1, JOINT_WIDTH)], dim=1)
        bias = t5_bias(torch.full((2,), num_t5), num_keys=64 + 6)
        made = transformer(latents, one, pooled, times, joint_attention_kwargs={"key_bias": bias}).sample
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
