"""Grades of lab 2, one training step by hand."""

import contextlib
import re
from collections.abc import Callable, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch

from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.labs.comparing import Mistake, compare
from detour.labs.grading import Grade, Grader, right, wrong


def shapes(answer: Mapping[str, Any]) -> Grade:
    """Pixels, latents, text, prediction."""
    base, given = open_base(answer["base"], weights=False), answer["shapes"]
    size, channels = base.native_size_px, base.latent_channels
    side = size // base.latent_factor
    latents = (1, channels, side, side)
    true = {
        "pixels": (1, 3, size, size),
        "latents": latents,
        "text": (1, base.text_length, base.cross_attention_width),
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
            why="each size follows from the numbers that are printed.",
            hint=f"it has {len(shape)} dimensions, the batch of 1 first.",
        )
    return right(
        f"The UNet sees {channels * side * side:,} numbers where the picture has {3 * size * size:,}."
    )


def _toy_vae(mean: torch.Tensor, std: torch.Tensor, scale: float) -> Any:
    distribution = SimpleNamespace(
        mean=mean,
        std=std,
        var=std**2,
        logvar=2 * std.log(),
        sample=lambda *_: mean + std * torch.randn_like(mean),
        mode=lambda: mean,
    )
    return SimpleNamespace(
        encode=lambda _pixels: SimpleNamespace(latent_dist=distribution),
        config=SimpleNamespace(scaling_factor=scale, shift_factor=None),
    )


def _draw(vae: Any, noise: torch.Tensor) -> torch.Tensor:
    spread = vae.encode(None).latent_dist
    drawn: torch.Tensor = spread.mean + spread.std * noise
    return drawn


def _mean(vae: Any) -> torch.Tensor:
    mean: torch.Tensor = vae.encode(None).latent_dist.mean
    return mean


def to_latents(answer: Any) -> Grade:
    """(mean + std · noise) · scaling factor, on toy VAEs with other factors and spreads."""
    generator = torch.Generator().manual_seed(2)
    cases = []
    for scale, size in ((0.18, 2), (1.0, 3), (0.13, 2)):
        mean, noise = (torch.randn(1, 4, size, size, generator=generator) for _ in range(2))
        std = torch.rand(1, 4, size, size, generator=generator) + 0.2
        pixels = torch.rand(1, 3, 8 * size, 8 * size, generator=generator)
        cases.append((_toy_vae(mean, std, scale), pixels, noise))
    return compare(
        answer,
        lambda vae, _pixels, noise: _draw(vae, noise) * vae.config.scaling_factor,
        cases,
        [
            Mistake(
                formula=lambda vae, _pixels, noise: _draw(vae, noise),
                what="your latents are not scaled.",
                why="the UNet was trained on scaled ones; without the factor they have another size than in its own "
                "training, and nothing complains.",
                hint="multiply by vae.config.scaling_factor.",
            ),
            Mistake(
                formula=lambda vae, _pixels, noise: _draw(vae, noise) / vae.config.scaling_factor,
                what="you divide by the scaling factor.",
                why="decoding divides, encoding multiplies.",
                hint="multiply instead.",
            ),
            Mistake(
                formula=lambda vae, _pixels, noise: _mean(vae) * vae.config.scaling_factor,
                what="your latents are the mean of the distribution; the noise is not used.",
                why="training draws anew at every step, so that the adapter does not learn one "
                "exact encoding by heart.",
                hint="add std · noise before scaling.",
            ),
            Mistake(
                formula=lambda vae, _pixels, noise: (
                    _draw(vae, noise) - _mean(vae) + _mean(vae) * vae.config.scaling_factor
                ),
                what="you scale the mean alone.",
                why="the draw as a whole is scaled, its spread too.",
                hint="put brackets around mean + std · noise.",
            ),
            Mistake(
                formula=lambda vae, _pixels, noise: (_mean(vae) + noise) * vae.config.scaling_factor,
                what="you add the noise without the distribution's own spread.",
                why="the encoder is surer of some places than of others, and says so by .std.",
                hint="multiply the noise by .std.",
            ),
            Mistake(
                formula=lambda vae, _pixels, noise: (
                    (_mean(vae) + (_draw(vae, noise) - _mean(vae)) ** 2 / noise) * vae.config.scaling_factor
                ),
                what="you use the variance as if it were the spread.",
                why="a draw is mean + std · noise; the variance is the square of std.",
                hint="use .std.",
            ),
            Mistake(
                formula=lambda _vae, pixels, _noise: pixels,
                what="you hand the pixels back.",
                why="those are pixels; the UNet works on what the VAE makes of them.",
                hint="start from vae.encode(pixels).latent_dist.",
            ),
        ],
        why="a draw is mean + std · noise, with the noise that is given, and then the factor.",
        hint="use the given noise, not .sample(), whose noise nobody can repeat.",
        praise="Forget the factor, and the UNet sees latents of another size than in its own training.",
    )


def _noised(latents: torch.Tensor, noise: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def _squared(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first - second).square().mean()


def diffusion_loss(answer: Any) -> Grade:
    """Noise in, noise asked for, mean squared difference; on a toy UNet whose answer depends on all it is shown."""
    generator = torch.Generator().manual_seed(3)
    alphas, asked = torch.tensor([0.95, 0.7, 0.5, 0.1]), []

    def unet(noisy: torch.Tensor, timestep: Any) -> torch.Tensor:
        asked.append(timestep)
        return 0.6 * noisy + 0.1 * noisy**2 - 0.05 * float(timestep)

    cases = [
        (unet, *(torch.randn(1, 4, size, size, generator=generator) for _ in range(2)), timestep, alphas)
        for size, timestep in ((4, 1), (4, 3), (2, 0))
    ]
    found = compare(
        answer,
        lambda ask, x, e, t, a: _squared(ask(_noised(x, e, a[t]), t), e),
        cases,
        [
            Mistake(
                formula=lambda ask, x, e, t, a: _squared(ask(x + e, t), e),
                what="the UNet is shown x + ε.",
                why="its variance grows, and the UNet was never trained on it.",
                hint="weigh by √ᾱ and √(1 − ᾱ).",
            ),
            Mistake(
                formula=lambda ask, x, e, t, a: _squared(ask(x, t), e),
                what="the UNet is shown clean latents.",
                why="there is no noise in them to find.",
                hint="make noisy latents first.",
            ),
            Mistake(
                formula=lambda ask, x, e, t, a: _squared(ask(_noised(x, e, a[t] ** 2), t), e),
                what="the UNet is shown latents whose weights are not the roots.",
                why="they are √ᾱ · latents + √(1 − ᾱ) · noise, with ᾱ = alphas[timestep].",
                hint="take the roots of ᾱ and of 1 − ᾱ.",
            ),
            Mistake(
                formula=lambda ask, x, e, t, a: _squared(ask(a[t] * x + (1 - a[t]) * e, t), e),
                what="the UNet is shown ᾱ·x + (1 − ᾱ)·ε, without the roots.",
                why="variances are weighed by ᾱ, amplitudes by its root.",
                hint="take the roots of ᾱ and of 1 − ᾱ.",
            ),
            Mistake(
                formula=lambda ask, x, e, t, a: _squared(ask(_noised(e, x, a[t]), t), e),
                what="the two weights of the noisy latents are swapped.",
                why="ᾱ is what is left of the picture.",
                hint="√ᾱ belongs to the latents, √(1 − ᾱ) to the noise.",
            ),
            Mistake(
                formula=lambda ask, x, e, t, a: _squared(ask(_noised(x, e, a[t]), t), x),
                what="you compare the answer with the clean latents.",
                why="this base predicts the noise.",
                hint="compare with the noise that you added.",
            ),
            Mistake(
                formula=lambda ask, x, e, t, a: _squared(ask(_noised(x, e, a[t]), t), _noised(x, e, a[t])),
                what="you compare the answer with the noisy latents.",
                why="this base predicts the noise.",
                hint="compare with the noise that you added.",
            ),
            Mistake(
                formula=lambda ask, x, e, t, a: (ask(_noised(x, e, a[t]), t) - e).square().sum(),
                what="you sum over all numbers.",
                why="the loss would grow with the picture's size, and with it the best learning rate.",
                hint="take the mean.",
            ),
            Mistake(
                formula=lambda ask, x, e, t, a: (ask(_noised(x, e, a[t]), t) - e).abs().mean(),
                what="you take absolute differences.",
                why="the objective is the squared error: its best answer is the mean of what could be true.",
                hint="square the differences.",
            ),
            Mistake(
                formula=lambda ask, x, e, t, a: (ask(_noised(x, e, a[t]), t) - e).mean(),
                what="you take the mean of the differences as they are.",
                why="too much here and too little there cancel out.",
                hint="square the differences before the mean.",
            ),
            Mistake(
                formula=lambda ask, x, e, t, a: _squared(ask(_noised(x, e, a[t]), t), e).sqrt(),
                what="you take the root of the mean square.",
                why="the objective is the mean squared error itself; its root has another gradient.",
                hint="leave the root out.",
            ),
            Mistake(
                formula=lambda ask, x, e, t, a: (ask(_noised(x, e, a[t]), t) - e).square(),
                what="the loss has the shape of the latents.",
                why="backward needs one number.",
                hint="take the mean.",
            ),
        ],
        why="it is the mean squared difference of answer and noise, the UNet asked at the given timestep.",
        hint="(predict_noise(noisy, timestep) - noise).square().mean()",
        praise="This is the whole objective.",
    )
    asked.clear()
    if not found.passed and "returns nothing" not in found.wrong:
        with contextlib.suppress(Exception):
            answer(*cases[0])
            if not asked:
                return wrong(
                    "your function never asks the UNet.",
                    why="the loss is about its answer.",
                    hint="call predict_noise(noisy, timestep).",
                )
    return found


@cache
def _num_attention(base: str) -> int:
    """Attention layers that a gradient can reach."""
    opened = open_base(base, weights=False)
    chosen = select(adaptable_layers(opened.meta_network()), "attn")
    keys = [f"{opened.family.network_part}.{layer.path}" for layer in chosen]
    return sum(not any(re.fullmatch(one, key) for one in opened.dead_by_structure()) for key in keys)


def gradients(answer: Mapping[str, Any]) -> Grade:
    """None in the base, none in the downs, all ups."""
    num, given = _num_attention(str(answer["base"])), answer["counts"]
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


Factors = tuple[torch.Tensor, torch.Tensor]


def _by_autograd(
    x: torch.Tensor, g: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float
) -> Factors:
    down, up = down.detach().requires_grad_(), up.detach().requires_grad_()
    first, second = torch.autograd.grad((g * (scale * (x @ down.T @ up.T))).sum(), (down, up))
    return first, second


def hand_gradients(answer: Any) -> Grade:
    """Both gradients, held against autograd, with batches and ranks of several sizes."""
    generator = torch.Generator().manual_seed(4)
    cases = []
    for num, n_in, n_out, rank, scale in ((6, 5, 3, 2, 0.7), (1, 4, 4, 1, 2.0), (3, 2, 6, 4, -1.5)):
        shapes = ((num, n_in), (num, n_out), (rank, n_in), (n_out, rank))
        cases.append((*(torch.randn(shape, generator=generator) for shape in shapes), scale))

    def changed(down: Callable[..., Any], up: Callable[..., Any]) -> Callable[..., Any]:
        def formula(x: Any, g: Any, *factors: Any) -> Any:
            first, second = _by_autograd(x, g, *factors)
            return down(first, x, factors), up(second, x, factors)

        return formula

    def kept(gradient: Any, *_: Any) -> Any:
        return gradient

    def unscaled(gradient: Any, _x: Any, factors: Any) -> Any:
        return gradient / factors[2]

    def averaged(gradient: Any, x: Any, _factors: Any) -> Any:
        return gradient / len(x)

    mistakes = []
    for names, down, up in (
        ("both gradients", unscaled, unscaled),
        ("the gradient of down", unscaled, kept),
        ("the gradient of up", kept, unscaled),
    ):
        mistakes.append(
            Mistake(
                formula=changed(down, up),
                what=f"{names} of yours lacks the scale.",
                why="the detour's output is multiplied by s = alpha / rank, and so is every gradient in it.",
                hint="multiply by scale.",
            )
        )
    return compare(
        answer,
        _by_autograd,
        cases,
        [
            *mistakes,
            Mistake(
                formula=changed(averaged, averaged),
                what="your gradients are averaged over the batch.",
                why="g already holds what the loss does with the batch; the rows add up.",
                hint="drop the division by N.",
            ),
            Mistake(
                formula=lambda *given: _by_autograd(*given)[::-1],
                what="your pair is the wrong way round.",
                why="down's gradient has down's shape.",
                hint="return the gradient of down first.",
            ),
            Mistake(
                formula=changed(lambda one, *_: one.T, kept),
                what="your gradient of down has the shape of its transpose.",
                why="a gradient has the shape of its parameter, (rank, in).",
                hint="transpose the product: (A B)ᵀ = Bᵀ Aᵀ.",
            ),
            Mistake(
                formula=changed(kept, lambda one, *_: one.T),
                what="your gradient of up has the shape of its transpose.",
                why="a gradient has the shape of its parameter, (out, rank).",
                hint="transpose the product: (A B)ᵀ = Bᵀ Aᵀ.",
            ),
            Mistake(
                formula=changed(lambda one, *_: -one, lambda one, *_: -one),
                what="your gradients have the other sign.",
                why="a gradient points uphill; it is the optimizer that subtracts it.",
                hint="drop the minus.",
            ),
        ],
        why="∂loss/∂up = s · gᵀ (x downᵀ) and ∂loss/∂down = s · upᵀ gᵀ x, with rows as samples.",
        hint="check which of the two factors stands in which gradient: each has the other one in it.",
        praise="down's gradient has up in it, and up starts at zero.",
    )


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
