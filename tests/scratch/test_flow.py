"""The pages on rectified flow and joint attention against diffusers' own."""

import pytest
import torch
from torch import Tensor

from detour.scratch import rectified_flow as flow
from detour.scratch.joint_attention import JointAttention

CLOSE = {"rtol": 0.0, "atol": 1e-5}
SHAPE = (2, 4, 8, 8)


def pair(seed: int = 0) -> tuple[Tensor, Tensor]:
    clean, noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return clean, noise


def model(point: Tensor, timestep: Tensor) -> Tensor:
    """A velocity that depends on both, so that a wrong timestep is seen."""
    return torch.tanh(point) + timestep / 1000


def test_the_line_is_diffusers_scale_noise() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    clean, noise = pair()
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    for timestep, sigma in zip(theirs.timesteps[::250], theirs.sigmas[::250], strict=True):
        expected = theirs.scale_noise(clean, timestep[None], noise)
        assert torch.allclose(flow.on_the_line(clean, noise, sigma), expected, **CLOSE)


@pytest.mark.parametrize("shift", [1.0, 1.88, 3.0])
@pytest.mark.parametrize("num_steps", [2, 20])
def test_walk_is_diffusers(shift: float, num_steps: int) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(num_steps)
    assert torch.allclose(flow.levels(num_steps, shift=shift), theirs.sigmas, **CLOSE)
    point = start = pair()[1]
    for timestep in theirs.timesteps:
        point = theirs.step(model(point, timestep), timestep, point).prev_sample
    assert torch.allclose(flow.sample(model, start, num_steps=num_steps, shift=shift), point, **CLOSE)


def test_one_step_with_the_true_velocity_arrives() -> None:
    clean, noise = (side.double() for side in pair())
    sigma = torch.tensor(0.7, dtype=torch.float64)
    point = flow.on_the_line(clean, noise, sigma)
    straight = flow.velocity(clean, noise)
    assert torch.allclose(flow.clean_guess(point, straight, sigma), clean, **CLOSE)
    assert torch.allclose(flow.step(point, straight, sigma, torch.tensor(0.0)), clean, **CLOSE)


def test_the_loss_on_the_picture_is_sigma_squared_times_the_loss_on_the_velocity() -> None:
    clean, noise = pair()
    sigma, wrong = torch.tensor(0.3), flow.velocity(clean, noise) + pair(1)[0]
    point = flow.on_the_line(clean, noise, sigma)
    of_picture = (flow.clean_guess(point, wrong, sigma) - clean).square().mean()
    of_velocity = (wrong - flow.velocity(clean, noise)).square().mean()
    assert torch.allclose(of_picture, sigma**2 * of_velocity, **CLOSE)


@pytest.mark.parametrize("is_last", [False, True])
def test_joint_attention_is_that_of_stable_diffusion_3(is_last: bool) -> None:
    from diffusers.models.attention import JointTransformerBlock

    torch.manual_seed(0)
    theirs = JointTransformerBlock(64, 4, 16, context_pre_only=is_last, qk_norm="rms_norm").attn
    for norm in (theirs.norm_q, theirs.norm_k, theirs.norm_added_q, theirs.norm_added_k):
        torch.nn.init.normal_(norm.weight)
    mine = JointAttention(64, heads=4, is_last=is_last)
    mine.load_state_dict(theirs.state_dict(), strict=True)
    picture, words = torch.randn(2, 30, 64), torch.randn(2, 7, 64)
    seen, said = mine(picture, words)
    expected_seen, expected_said = theirs(picture, words)
    assert torch.allclose(seen, expected_seen, **CLOSE)
    if not is_last:
        assert said is not None
        assert torch.allclose(said, expected_said, **CLOSE)


def test_what_the_words_ask_for_has_no_effect_in_the_last_block() -> None:
    torch.manual_seed(0)
    layer = JointAttention(64, heads=4, is_last=True)
    layer(torch.randn(1, 5, 64), torch.randn(1, 3, 64))[0].square().sum().backward()
    assert layer.add_q_proj.weight.grad.abs().max() == 0
    assert layer.add_k_proj.weight.grad.abs().max() > 0
