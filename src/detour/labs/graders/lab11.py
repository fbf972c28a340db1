"""Grades lab 11, a correct training loop."""

import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detour.labs.grading import Grade, right, wrong

FAULTS: Mapping[str, tuple[frozenset[int], str]] = {
    "precision": (
        frozenset({3}),
        "what is lost when a weight of 0.05 is kept in eight bits and updated by 0.0001?",
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
    lines = {int(line) for line in answer}
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
    return right("Now mend them one by one.")


def _sound(line: int) -> str:
    reasons = {
        12: "the UNet is asked with noisy latents, timesteps and text, as it must be.",
        13: "this base predicts the noise, so the noise is the target.",
        14: "backward fills the gradients.",
        16: "the update, then empty gradients.",
    }
    return reasons.get(line, "nothing that the UNet sees or that is updated goes wrong there.")


class _Vae(nn.Module):
    """Encodes by averaging 8 × 8 pixels; scaled by 0.25, so that its latents must be recognisable."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.config = types.SimpleNamespace(
            scaling_factor=0.25, shift_factor=None, block_out_channels=(1, 1, 1, 1)
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
    """Encode two pictures with a VAE whose latents are known."""
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found, mean = answer(_Vae(), pixels), unscaled(pixels)
    if not isinstance(found, Tensor) or found.shape != mean.shape:
        return wrong(
            f"it returns {_what(found)}, not latents of shape {tuple(mean.shape)}.",
            why="two pictures of 32 pixels have latents of 4 channels and an eighth of the side.",
            hint="vae.encode(pixels).latent_dist.mean is a tensor of that shape.",
        )
    if torch.allclose(found, mean * 0.25, atol=1e-6):
        return right("These are what the UNet was trained on.")
    if torch.allclose(found, mean, atol=1e-6):
        return wrong(
            "these are the VAE's own latents, not scaled.",
            why="the UNet was trained on latents with a spread near one; the schedule's noise has one.",
            hint="multiply by vae.config.scaling_factor.",
        )
    if torch.allclose(found, mean / 0.25, atol=1e-5):
        return wrong(
            "they are divided by the scaling factor.",
            why="dividing is the way back, from latents to pixels.",
            hint="the other way round.",
        )
    if torch.allclose(found[:, :3], nn.functional.interpolate(pixels, 4, mode="area"), atol=1e-4):
        return wrong(
            "these are shrunken pixels.",
            why="a UNet that was trained on latents reads them as latents, of pictures that do not exist.",
            hint="let the VAE encode the pixels.",
        )
    return wrong(
        "these are not the VAE's latents in the UNet's scale.",
        why="the UNet knows one space: mean of the VAE's distribution times its scaling factor.",
        hint="latent_dist.mean times vae.config.scaling_factor, and nothing else.",
    )


def noisy_of(answer: Callable[..., Tensor]) -> Grade:
    """Noise two latents at different timesteps and name the formula that was written instead."""
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(2, 4, 3, 3, generator=generator) for _ in range(2))
    alphas, timesteps = torch.linspace(0.99, 0.01, 100), torch.tensor([20, 80])
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    found = answer(latents, noise, timesteps, alphas)
    if not isinstance(found, Tensor) or found.shape != latents.shape:
        return wrong(
            f"it returns {_what(found)}, not noisy latents of shape {tuple(latents.shape)}.",
            why="each sample has one ᾱ, which must meet all of its channels and places.",
            hint="alphas[timesteps] has the shape (N,): give it the shape (N, 1, 1, 1).",
        )
    if torch.allclose(found, alpha.sqrt() * latents + (1 - alpha).sqrt() * noise, atol=1e-5):
        return right("The picture shrinks as the noise grows; the variance is ᾱ·Var(x₀) + 1 − ᾱ.")
    if torch.allclose(found, latents + noise, atol=1e-5):
        return wrong(
            "it is x + ε.",
            why="its variance is larger by one at every timestep, and the timestep says nothing.",
            hint="both parts have a factor that depends on ᾱ.",
        )
    if torch.allclose(found, alpha * latents + (1 - alpha) * noise, atol=1e-5):
        return wrong(
            "it is ᾱ·x + (1−ᾱ)·ε, without the roots.",
            why="variances add, not sizes: this has too little of both in the middle of the schedule.",
            hint="take the root of both factors.",
        )
    if torch.allclose(found, (1 - alpha).sqrt() * latents + alpha.sqrt() * noise, atol=1e-5):
        return wrong(
            "the two factors are exchanged.",
            why="ᾱ is what is left of the picture: near one at timestep 0.",
            hint="√ᾱ belongs to the picture.",
        )
    if torch.allclose(found, alpha.sqrt() * latents + noise, atol=1e-5):
        return wrong(
            "the noise has no factor.",
            why="at timestep 0 there must be hardly any noise.",
            hint="√(1−ᾱ) belongs to the noise.",
        )
    one = alphas[timesteps[0]]
    if torch.allclose(found, one.sqrt() * latents + (1 - one).sqrt() * noise, atol=1e-5):
        return wrong(
            "all samples are noised at the first one's timestep.",
            why="each sample of a batch has a timestep of its own, and the UNet is told that one.",
            hint="alphas[timesteps] has one ᾱ for each sample.",
        )
    return wrong(
        "it is not √ᾱ·x₀ + √(1−ᾱ)·ε.",
        why="only this is what the base was trained on.",
        hint="look at lab 9, or at detour.scratch.forward_process.",
    )


def states_of(answer: Callable[[Any, list[str]], Tensor]) -> Grade:
    """Encode with a stage that writes the caption's number into its states."""
    captions = ["one", "three", "fourteen"]

    def encode(prompts: list[str]) -> Any:
        return types.SimpleNamespace(
            states=torch.stack([torch.full((77, 4), float(len(text))) for text in prompts])
        )

    found = answer(types.SimpleNamespace(encode=encode), captions)
    if not isinstance(found, Tensor) or found.ndim != 3 or len(found) != len(captions):
        return wrong(
            f"it returns {_what(found)}, not states of shape (3, 77, D).",
            why="every picture is shown with its own caption.",
            hint="text_stage.encode(captions).states",
        )
    if not found.any():
        return wrong(
            "the states are zeros (or those of empty prompts).",
            why="the UNet then learns the style for a question that nobody will ask it; prompts are another one.",
            hint="encode the captions.",
        )
    expected = encode(captions).states
    if torch.equal(found, expected):
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
        hint="text_stage.encode(captions).states",
    )


def adapter_dtype(answer: Any) -> Grade:
    """Masters are float32."""
    if answer is torch.float32:
        return right("The frozen base may be in half precision; what is updated may not.")
    if answer in (torch.bfloat16, torch.float16):
        return wrong(
            f"{answer} rounds small updates away.",
            why="AdamW moves a number by about the rate, 1e-4; half precision has steps of 2e-4 and more next to 0.05.",
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
    if difference <= SAME:
        return right(f"The largest relative difference of a layer's change is {difference:.1e}.")
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
