"""Grades of lab 2, one training step by hand."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch

from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.labs.grading import Grade, Grader, near, right, wrong

TOKENS = 77


def shapes(answer: Mapping[str, Any]) -> Grade:
    """Pixels, latents, text, prediction."""
    base, given = open_base(answer["base"], weights=False), answer["shapes"]
    size, channels = base.native_size_px, base.latent_channels
    side = size // base.latent_factor
    latents = (1, channels, side, side)
    true = {
        "pixels": (1, 3, size, size),
        "latents": latents,
        "text": (1, TOKENS, base.cross_attention_width),
        "prediction": latents,
    }
    for name, shape in true.items():
        if given.get(name) is None:
            return wrong(
                f"'{name}' has no shape yet.", why="all four are needed.", hint="write a tuple of ints."
            )
        mine = tuple(given[name])
        if mine == shape:
            continue
        if mine == (1, size, size, 3):
            return wrong(
                f"{name}: {mine} has the channels last.",
                why="PyTorch's pictures are (batch, channels, height, width).",
                hint="move the 3 to the second place.",
            )
        if name in ("latents", "prediction") and mine[1:] == (3, side, side):
            return wrong(
                f"{name}: {mine} has three channels.",
                why="latents are not small pictures: the VAE has channels of its own.",
                hint="use latent_channels.",
            )
        if name in ("latents", "prediction") and size in mine:
            return wrong(
                f"{name}: {mine} has the side of the picture.",
                why="the UNet works on latents, whose sides are divided by latent_factor.",
                hint=f"divide {size} by {base.latent_factor}.",
            )
        if name == "text" and len(mine) == 2:
            return wrong(
                f"text: {mine} has no place for the tokens.",
                why="the UNet's cross-attention reads every token, not one vector of the whole prompt.",
                hint="(batch, tokens, width).",
            )
        return wrong(
            f"{name}: {mine} is not it.",
            why="each size follows from the four numbers that are printed.",
            hint=f"it has {len(shape)} dimensions, the batch of 1 first.",
        )
    return right(
        f"The UNet sees {channels * side * side:,} numbers where the picture has {3 * size * size:,}."
    )


def _toy_vae(mean: torch.Tensor, std: torch.Tensor, scale: float) -> Any:
    distribution = SimpleNamespace(
        mean=mean, std=std, sample=lambda: mean + std * torch.randn_like(mean), mode=lambda: mean
    )
    return SimpleNamespace(
        encode=lambda _pixels: SimpleNamespace(latent_dist=distribution),
        config=SimpleNamespace(scaling_factor=scale, shift_factor=None),
    )


def to_latents(answer: Any) -> Grade:
    """(mean + std · noise) · scaling factor, on a toy VAE."""
    generator = torch.Generator().manual_seed(2)
    mean, noise = (torch.randn(1, 4, 2, 2, generator=generator) for _ in range(2))
    std, scale = torch.full_like(mean, 0.5), 0.18
    pixels = torch.rand(1, 3, 16, 16, generator=generator)
    given = answer(_toy_vae(mean, std, scale), pixels, noise)
    if given is None:
        return wrong(
            "your function returns nothing.", why="it still has its placeholder.", hint="fill in the TODO."
        )
    draw = mean + std * noise
    if given.shape != mean.shape:
        return wrong(
            f"your latents have the shape {tuple(given.shape)}.",
            why="those are pixels, or something of their size; the UNet works on what the VAE makes of them.",
            hint="start from vae.encode(pixels).latent_dist.",
        )
    if torch.allclose(given, draw * scale, atol=1e-6):
        return right("Forget the factor, and the UNet sees latents of another size than in its own training.")
    if torch.allclose(given, draw, atol=1e-6):
        return wrong(
            "your latents are not scaled.",
            why="the UNet was trained on scaled ones; without the factor they are "
            f"{1 / scale:.1f} times too large here, and nothing complains.",
            hint="multiply by vae.config.scaling_factor.",
        )
    if torch.allclose(given, draw / scale, atol=1e-6):
        return wrong(
            "you divide by the scaling factor.",
            why="decoding divides, encoding multiplies.",
            hint="multiply instead.",
        )
    if torch.allclose(given, mean * scale, atol=1e-6):
        return wrong(
            "your latents are the mean of the distribution; the noise is not used.",
            why="training draws anew at every step, so that the adapter does not learn one exact encoding by heart.",
            hint="add std · noise before scaling.",
        )
    if torch.allclose(given, mean * scale + std * noise, atol=1e-6):
        return wrong(
            "you scale the mean alone.",
            why="the draw as a whole is scaled, its spread too.",
            hint="put brackets around mean + std · noise.",
        )
    return wrong(
        "your latents are not a scaled draw of the distribution.",
        why="a draw is mean + std · noise, with the noise that is given.",
        hint="use the given noise, not .sample(), whose noise nobody can repeat.",
    )


def diffusion_loss(answer: Any) -> Grade:
    """Noise in, noise asked for, mean squared difference; on a toy UNet that remembers what it was shown."""
    generator = torch.Generator().manual_seed(3)
    latents, noise, said = (torch.randn(1, 4, 4, 4, generator=generator) for _ in range(3))
    alphas, seen = torch.tensor([0.9, 0.5, 0.1]), []

    def predict_noise(noisy: torch.Tensor, timestep: Any) -> torch.Tensor:
        seen.append((noisy, int(timestep)))
        return said

    given = answer(predict_noise, latents, noise, 1, alphas)
    if given is None:
        return wrong(
            "your function returns nothing.", why="it still has its placeholder.", hint="fill in the TODO."
        )
    if not seen:
        return wrong(
            "your function never asks the UNet.",
            why="the loss is about its answer.",
            hint="call predict_noise(noisy, timestep).",
        )
    noisy, true_noisy = seen[0][0], 0.5**0.5 * (latents + noise)
    if torch.allclose(noisy, latents + noise, atol=1e-5):
        return wrong(
            "the UNet is shown x + ε.",
            why="its variance grows, and the UNet was never trained on it.",
            hint="weigh by √ᾱ and √(1 − ᾱ).",
        )
    if torch.allclose(noisy, latents, atol=1e-5):
        return wrong(
            "the UNet is shown clean latents.",
            why="there is no noise in them to find.",
            hint="make noisy latents first.",
        )
    if not torch.allclose(noisy, true_noisy, atol=1e-5):
        return wrong(
            f"the noisy latents are off by up to {float((noisy - true_noisy).abs().max()):.3f}.",
            why="they are √ᾱ · latents + √(1 − ᾱ) · noise, with ᾱ = alphas[timestep].",
            hint="take the roots of ᾱ and of 1 − ᾱ.",
        )
    if given.numel() != 1:
        return wrong(
            f"the loss has the shape {tuple(given.shape)}.",
            why="backward needs one number.",
            hint="take the mean.",
        )
    value, squares = float(given), (said - noise).square()
    if near(value, float(squares.mean())):
        return right("This is the whole objective.")
    if near(value, float((said - latents).square().mean())):
        return wrong(
            "you compare the answer with the clean latents.",
            why="this base predicts the noise.",
            hint="compare with the noise that you added.",
        )
    if near(value, float(squares.sum())):
        return wrong(
            "you sum over all numbers.",
            why="the loss would grow with the picture's size, and with it the best learning rate.",
            hint="take the mean.",
        )
    if near(value, float((said - noise).abs().mean())):
        return wrong(
            "you take absolute differences.",
            why="the objective is the squared error: its best answer is the mean of what could be true.",
            hint="square the differences.",
        )
    return wrong(
        f"the loss is {value:.4f}, {float(squares.mean()):.4f} was expected.",
        why="it is the mean squared difference of answer and noise.",
        hint="(predict_noise(noisy, timestep) - noise).square().mean()",
    )


def gradients(answer: Mapping[str, Any]) -> Grade:
    """None in the base, none in the downs, all ups."""
    layers = adaptable_layers(open_base(answer["base"], weights=False).meta_network())
    num, given = len(select(layers, "attn")), answer["counts"]
    if any(given.get(name) is None for name in ("base", "down", "up")):
        return wrong("a count is missing.", why="three were asked for.", hint="base, down and up are ints.")
    if given["base"]:
        return wrong(
            f"{given['base']} base tensors have a gradient by your count.",
            why="the base is frozen (requires_grad is False), so backward never writes to it.",
            hint="count parameters whose .grad is not None, among those that are not the adapter's.",
        )
    if given["down"] == num and given["up"] == num:
        return wrong(
            f"you count {num} downs with a gradient.",
            why="a gradient tensor is there for each, and it is all zeros: .grad is not None is not enough.",
            hint="ask whether grad.abs().max() > 0.",
        )
    if given["down"] == num and given["up"] == 0:
        return wrong(
            "you have them the wrong way round.",
            why="factors gives (down, up), and it is down's gradient that is multiplied by up = 0.",
            hint="swap the two counts.",
        )
    if (given["down"], given["up"]) == (0, num):
        return right(
            f"Half of the adapter's {2 * num} tensors move in the first step, and that is as it should be."
        )
    return wrong(
        f"you count {given['down']} downs and {given['up']} ups; there are {num} of each.",
        why="one backward pass reaches every adapted layer.",
        hint="go over attached.factors.values() and look at each .grad.",
    )


def hand_gradients(answer: Any) -> Grade:
    """Both gradients, held against autograd."""
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x, g, scale = normal(6, 5), normal(6, 3), 0.7
    down, up = normal(2, 5).requires_grad_(), normal(3, 2).requires_grad_()
    (g * (scale * (x @ down.T @ up.T))).sum().backward()
    given = answer(x, g, down.detach(), up.detach(), scale)
    if given is None or any(one is None for one in given):
        return wrong(
            "your function returns nothing.", why="it still has its placeholder.", hint="fill in the TODO."
        )
    mine = dict(zip(("down", "up"), given, strict=True))
    true = {"down": down.grad, "up": up.grad}
    if mine["down"].shape == up.shape and mine["up"].shape == down.shape:
        return wrong(
            "your pair is the wrong way round.",
            why="down's gradient has down's shape.",
            hint="return the gradient of down first.",
        )
    for name, value in mine.items():
        expected = true[name]
        assert expected is not None
        if value.shape != expected.shape:
            return wrong(
                f"your gradient of {name} has the shape {tuple(value.shape)}, {name} has {tuple(expected.shape)}.",
                why="a gradient has the shape of its parameter.",
                hint="transpose the factors so that the sizes fit: the batch is summed over.",
            )
        if torch.allclose(value, expected, atol=1e-4):
            continue
        if torch.allclose(value * scale, expected, atol=1e-4):
            return wrong(
                f"your gradient of {name} lacks the scale.",
                why="the detour's output is multiplied by s = alpha / rank, and so is every gradient in it.",
                hint="multiply by scale.",
            )
        if torch.allclose(value, expected / len(x), atol=1e-4):
            return wrong(
                f"your gradient of {name} is averaged over the batch.",
                why="g already holds what the loss does with the batch; the rows add up.",
                hint="drop the division by N.",
            )
        return wrong(
            f"your gradient of {name} is off by up to {float((value - expected).abs().max()):.3f}.",
            why="∂loss/∂up = s · gᵀ (x downᵀ) and ∂loss/∂down = s · upᵀ gᵀ x, with rows as samples.",
            hint="check which of the two factors stands in which gradient: each has the other one in it.",
        )
    return right("down's gradient has up in it, and up starts at zero.")


SAME: Mapping[str, tuple[bool, str]] = {
    "form of the adapter": (True, "W x + s · up (down x) stands beside any linear layer."),
    "frozen base": (True, "in both the base gets no gradient."),
    "down has no gradient at first": (True, "you saw it in the UNet and in the language model."),
    "loss function": (False, "one is cross-entropy over tokens, the other a squared error over latents."),
    "random numbers in every step": (
        False,
        "diffusion draws timestep, noise and latents anew; a text is as it is.",
    ),
}


def same(answer: Mapping[str, Any]) -> Grade:
    """What both trainings share."""
    unanswered = [name for name in SAME if answer.get(name) is None]
    if unanswered:
        return wrong(
            f"no answer yet to: {', '.join(unanswered)}.",
            why="each is True or False.",
            hint="read the table, and what the two cells printed.",
        )
    missed = [name for name, (true, _) in SAME.items() if bool(answer[name]) != true]
    if missed:
        return wrong(
            f"{len(missed)} of {len(SAME)} are not so: {', '.join(missed)}.",
            why=SAME[missed[0]][1],
            hint="look at the row of the table, and at what was printed under both steps.",
        )
    return right("The detour is the same; what is asked of the base, and what is random, is not.")


TASKS: Mapping[str, Grader] = {
    "shapes": shapes,
    "to_latents": to_latents,
    "diffusion_loss": diffusion_loss,
    "gradients": gradients,
    "hand_gradients": hand_gradients,
    "same": same,
}
