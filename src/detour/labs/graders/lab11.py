"""Grades lab 11, a correct training loop."""

import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detour.labs.comparing import Mistake, compare
from detour.labs.grading import Grade, right, wrong

FAULTS: Mapping[str, tuple[frozenset[int], str]] = {
    "precision": (
        frozenset({3}),
        "what is lost when a weight of 0.05 is kept with eight bits of precision and updated by 0.0001?",
    ),
    "parameters": (frozenset({4, 15}), "how often can what line 4 makes be read, and how often is it?"),
    "latents": (frozenset({8}), "what does the UNet work on, and who makes it?"),
    "noise": (frozenset({10}), "what becomes of the variance, and where does the timestep come in?"),
    "text": (frozenset({11}), "what did the UNet read of each picture when it was trained?"),
}
"""Fault → lines that count as finding it, and a question that leads there."""

SAME = 1e-3
"""Largest relative difference of a layer's change: a fused optimizer and other kernels round differently."""


def faulty_lines(answer: Iterable[int]) -> Grade:
    """A set of line numbers."""
    given = list(answer)
    odd = [line for line in given if not isinstance(line, int) or not 1 <= line <= 16]
    if odd:
        return wrong(
            f"{odd[0]!r} is no line of the loop.",
            why="the lines are numbered 1 to 16.",
            hint="write whole numbers, as they stand at the left of the lines.",
        )
    lines = set(given)
    sound = sorted(lines - {line for places, _ in FAULTS.values() for line in places})
    if sound:
        return wrong(
            f"line {sound[0]} is as it should be.",
            why=_sound(sound[0]),
            hint="ask of each line: is this what the base was trained with?",
        )
    missing = [question for places, question in FAULTS.values() if not places & lines]
    if missing:
        return wrong(
            f"{len(FAULTS) - len(missing)} of 5 faults are found.",
            why="a loop with one fault left still trains on the wrong thing, or not at all.",
            hint=missing[0],
        )
    return right("Now fix them one by one.")


def _sound(line: int) -> str:
    sound = {
        1: "rank and alpha are a matter of choice.",
        6: "the loop over the steps is right.",
        7: "which pictures a step sees is a matter of choice.",
        9: "noise and timesteps are drawn anew in each step, as they must be.",
        12: "the UNet is asked with noisy latents, timesteps and text, as it must be.",
        13: "this base predicts the noise, so the noise is the target.",
        14: "backward fills the gradients.",
        16: "the update, then empty gradients.",
    }
    return sound.get(line, "nothing that the UNet sees or that is updated goes wrong there.")


class _Vae(nn.Module):
    """Encodes by averaging 8 × 8 pixels; its factor is not 1, so that its latents must be recognisable."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.config = types.SimpleNamespace(
            scaling_factor=factor, shift_factor=None, block_out_channels=(1, 1, 1, 1)
        )

    def encode(self, pixels: Tensor) -> Any:
        mean = unscaled(pixels)
        spread = types.SimpleNamespace(
            mean=mean, std=torch.zeros_like(mean), sample=lambda *_: mean, mode=lambda: mean
        )
        return types.SimpleNamespace(latent_dist=spread)


def unscaled(pixels: Tensor) -> Tensor:
    """(N, 3, H, W) → (N, 4, H / 8, W / 8)."""
    small = nn.functional.avg_pool2d(pixels, 8)
    return 5.0 * torch.cat([small, small.mean(dim=1, keepdim=True)], dim=1)


def latents_of(answer: Callable[[Any, Tensor], Tensor]) -> Grade:
    """Encode pictures with VAEs whose latents and factors are known."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for factor, num, size in ((0.25, 2, 32), (0.18, 1, 16), (1.5, 3, 24)):
        cases.append((_Vae(factor), torch.rand(num, 3, size, size, generator=generator) * 2 - 1))
    return compare(
        answer,
        lambda vae, pixels: unscaled(pixels) * vae.config.scaling_factor,
        cases,
        [
            Mistake(
                formula=lambda vae, pixels: unscaled(pixels),
                what="these are the VAE's own latents, not scaled.",
                why="the UNet was trained on latents with a spread near one; the schedule's noise has one.",
                hint="multiply by vae.config.scaling_factor.",
            ),
            Mistake(
                formula=lambda vae, pixels: unscaled(pixels) / vae.config.scaling_factor,
                what="they are divided by the scaling factor.",
                why="dividing is the way back, from latents to pixels.",
                hint="the other way round.",
            ),
            Mistake(
                formula=lambda vae, pixels: unscaled(pixels) * 0.18215,
                what="the factor is SD 1.5's, whatever the VAE says of itself.",
                why="other VAEs have other factors; this one's is in its config.",
                hint="vae.config.scaling_factor.",
            ),
            Mistake(
                formula=lambda vae, pixels: pixels,
                what="you hand the pixels back.",
                why="two pictures of 32 pixels have latents of 4 channels and an eighth of the side.",
                hint="let the VAE encode the pixels.",
            ),
            Mistake(
                formula=_shrunken,
                what="these are shrunken pixels.",
                why="a UNet that was trained on latents reads them as latents, of pictures that do not exist.",
                hint="let the VAE encode the pixels.",
            ),
            Mistake(
                formula=lambda vae, pixels: -unscaled(pixels) * vae.config.scaling_factor,
                what="your latents have the other sign.",
                why="the VAE would decode them to another picture.",
                hint="drop the minus.",
            ),
        ],
        why="the UNet knows one space: mean of the VAE's distribution times its scaling factor.",
        hint="latent_dist.mean times vae.config.scaling_factor, and nothing else.",
        praise="These are what the UNet was trained on.",
    )


def _shrunken(_vae: Any, pixels: Tensor) -> Tensor:
    small = nn.functional.interpolate(pixels, pixels.shape[-1] // 8, mode="area")
    return torch.cat([small, torch.zeros_like(small[:, :1])], dim=1)


def _alpha(alphas: Tensor, timesteps: Tensor) -> Tensor:
    return alphas[timesteps].view(-1, 1, 1, 1)


def _noised(latents: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def noisy_of(answer: Callable[..., Tensor]) -> Grade:
    """Noise latents at different timesteps, the first and the last too, in batches of several sizes."""
    generator = torch.Generator().manual_seed(0)
    alphas, cases = torch.linspace(0.99, 0.01, 100), []
    for stops, size in (([20, 80], 3), ([0, 99, 50], 2), ([7], 4)):
        latents, noise = (torch.randn(len(stops), 4, size, size, generator=generator) for _ in range(2))
        cases.append((latents, noise, torch.tensor(stops), alphas))
    mistakes = (
        ("it is x + ε.", lambda x, e, t, a: x + e,
         "its variance is larger by one at every timestep, and the timestep says nothing.",
         "both parts have a factor that depends on ᾱ."),
        ("it is ᾱ·x + (1−ᾱ)·ε, without the roots.", lambda x, e, t, a: _alpha(a, t) * x + (1 - _alpha(a, t)) * e,
         "variances add, not sizes: this has too little of both in the middle of the schedule.",
         "take the root of both factors."),
        ("the two factors are exchanged.", lambda x, e, t, a: _noised(e, x, _alpha(a, t)),
         "ᾱ is what is left of the picture: near one at timestep 0.", "√ᾱ belongs to the picture."),
        ("the noise has no factor.", lambda x, e, t, a: _alpha(a, t).sqrt() * x + e,
         "at timestep 0 there must be hardly any noise.", "√(1−ᾱ) belongs to the noise."),
        ("the picture has no factor.", lambda x, e, t, a: x + (1 - _alpha(a, t)).sqrt() * e,
         "at the last timestep there must be hardly any picture.", "√ᾱ belongs to the picture."),
        ("the noise is subtracted.", lambda x, e, t, a: _noised(x, -e, _alpha(a, t)),
         "what the UNet is asked for is the noise that was added.", "+ in place of −."),
        ("all samples are noised at the first one's timestep.",
         lambda x, e, t, a: _noised(x, e, _alpha(a, t[:1].expand_as(t))),
         "each sample of a batch has a timestep of its own, and the UNet is told that one.",
         "alphas[timesteps] has one ᾱ for each sample."),
        ("the noise's factor is 1 − √ᾱ.", lambda x, e, t, a: _alpha(a, t).sqrt() * x + (1 - _alpha(a, t).sqrt()) * e,
         "the squares of both factors have to sum to one.", "the root goes around 1 − ᾱ as a whole."),
        ("the latents come back as they are.", lambda x, e, t, a: x,
         "there is no noise in them for the UNet to find.", "√ᾱ·latents + √(1−ᾱ)·noise."),
    )  # fmt: skip
    found = compare(
        answer,
        lambda x, e, t, a: _noised(x, e, _alpha(a, t)),
        cases,
        [Mistake(formula=formula, what=what, why=why, hint=hint) for what, formula, why, hint in mistakes],
        why="it is not √ᾱ·x₀ + √(1−ᾱ)·ε, and only this is what the base was trained on.",
        hint="look at lab 9, or at detour.scratch.forward_process.",
        praise="The picture shrinks as the noise grows; the variance is ᾱ·Var(x₀) + 1 − ᾱ.",
    )
    if "RuntimeError" in found.wrong or "of shape" in found.wrong:
        return wrong(
            found.wrong,
            why="each sample has one ᾱ, which must meet all of its channels and places.",
            hint="alphas[timesteps] has the shape (N,): give it the shape (N, 1, 1, 1).",
        )
    return found


def states_of(answer: Callable[[Any, list[str]], Tensor]) -> Grade:
    """Encode with a stage that writes the caption's number into its states."""
    captions = ["one", "three", "fourteen"]

    def encode(prompts: list[str]) -> Any:
        return types.SimpleNamespace(
            states=torch.stack(
                [torch.sin(torch.arange(77.0 * 4).view(77, 4) + len(text)) for text in prompts]
            )
        )

    found = answer(types.SimpleNamespace(encode=encode), captions)
    if not isinstance(found, Tensor) or found.ndim != 3 or len(found) != len(captions):
        return wrong(
            f"it returns {_what(found)}, not states of shape (3, 77, D).",
            why="every picture is shown with its own caption.",
            hint="what you train on is the text encoder's answer to each caption: look at what encode returns.",
        )
    if not found.any() or torch.equal(found, encode([""]).states.expand_as(found)):
        return wrong(
            "the states are zeros, or those of empty prompts.",
            why="the UNet then learns the style for a question that nobody will ask it; prompts are another one.",
            hint="encode the captions.",
        )
    expected = encode(captions).states
    if found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-5, atol=1e-6):
        return right()
    if found.shape == expected.shape and torch.equal(found, expected[:1].expand_as(expected)):
        return wrong(
            "all pictures get the first caption.",
            why="the adapter then learns that this caption means everything.",
            hint="encode all captions, not captions[0].",
        )
    return wrong(
        "these are not the states of the captions in their order.",
        why="a picture with another one's caption teaches the wrong words.",
        hint="what you train on is the text encoder's answer to each caption: look at what encode returns.",
    )


def adapter_dtype(answer: Any) -> Grade:
    """Masters are float32."""
    if answer is torch.float32:
        return right("The frozen base may be in half precision; what is updated may not.")
    if answer in (torch.bfloat16, torch.float16):
        return wrong(
            f"{answer} rounds small updates away.",
            why="AdamW moves a number by about the rate, 1e-4; next to 0.05 bfloat16 has steps of 2e-4, and float16 "
            "loses what is below 6e-8.",
            hint="an adapter is small: its weights in full precision cost a few MB.",
        )
    if answer is torch.float64:
        return wrong(
            "float64 would do, and costs twice as much for nothing.",
            why="steps next to 0.05 are 4e-9 wide in float32 already.",
            hint="one size smaller.",
        )
    return wrong(
        f"{answer!r} is no dtype of torch for weights.",
        why="the loop calls parameter.data.to(dtype).",
        hint="torch.float16, torch.bfloat16, torch.float32, torch.float64: which one?",
    )


def trainable(answer: Callable[[nn.Module], Any]) -> Grade:
    """Read the answer twice."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    expected = {id(parameter) for parameter in model[1].parameters()}
    found = answer(model)
    first, second = ({id(parameter) for parameter in found} for _ in range(2))
    if first != expected:
        frozen = first & {id(parameter) for parameter in model[0].parameters()}
        return wrong(
            f"it gives {len(first)} parameters where {len(expected)} require gradients"
            + (f"; {len(frozen)} of them are frozen." if frozen else "."),
            why="frozen weights belong to the base: an optimizer with weight decay would know them too.",
            hint="keep those with parameter.requires_grad.",
        )
    if not isinstance(found, set) and len(list(found)) > len(first) and second:
        return wrong(
            "a parameter is there more than once.",
            why="the optimizer refuses it, and the clip would count its gradient twice.",
            hint="go over unet.parameters() once.",
        )
    if second != first:
        return wrong(
            "the second reading finds nothing.",
            why="the optimizer uses it up; the clip gets an empty stream, reports 0 and clips nothing.",
            hint="make a list of it.",
        )
    return right("A list can be read as often as one likes.")


def same_as_real(answer: Mapping[str, float]) -> Grade:
    """Relative difference of the weight changes."""
    difference = float(answer["difference"])
    if 0 <= difference <= SAME:
        return right(f"The largest relative difference of a layer's change is {difference:.1e}.")
    if difference < 0:
        return wrong(
            f"a difference of {difference:.2g} is negative.",
            why="it is the size of a difference.",
            hint="hand over what largest_relative_difference returned.",
        )
    return wrong(
        f"a layer's change differs by {difference:.2g} (relative) from that of detour's own loop.",
        why="same pictures, noise, timesteps and start: what is left is another computation.",
        hint="pass the five checks above, run the cells again in their order, then this one.",
    )


def _what(found: Any) -> str:
    return (
        f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"{type(found).__name__}"
    )


TASKS = {
    "faulty_lines": faulty_lines,
    "latents_of": latents_of,
    "noisy_of": noisy_of,
    "states_of": states_of,
    "adapter_dtype": adapter_dtype,
    "trainable": trainable,
    "same_as_real": same_as_real,
}
