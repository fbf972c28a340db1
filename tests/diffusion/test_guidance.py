import torch

from detour.diffusion.guidance import guided


def test_scale_one_is_the_prompt_and_zero_is_the_unconditional() -> None:
    text, uncond = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(guided(text, uncond, 1.0), text)
    torch.testing.assert_close(guided(text, uncond, 0.0), uncond)


def test_scale_above_one_goes_beyond_the_prompt() -> None:
    assert guided(torch.tensor(2.0), torch.tensor(1.0), 7.5).item() == 8.5
