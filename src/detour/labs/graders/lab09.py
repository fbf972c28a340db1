"""Grades of lab 9, noise and back."""

from collections.abc import Mapping
from typing import Any

import torch

from detour.diffusion.schedule import alphas_cumprod, snr
from detour.labs.grading import Grade, Grader, near, right, wrong
from detour.scratch.ddpm import clean_guess as true_guess
from detour.scratch.forward_process import in_one_jump, joined_noise, step_by_step
from detour.verbs.explain.forward_figure import OTHERS

PIXEL, BETAS, NOISES = 0.8, (0.1, 0.2), (0.5, -1.0)

SCHEDULES = {
    "scaled_linear": "scaled linear (Stable Diffusion)",
    "linear": "linear (DDPM)",
}


def one_pixel(answer: Mapping[str, Any]) -> Grade:
    """Two steps of one pixel, and the one noise that does the same."""
    clean = torch.tensor(PIXEL, dtype=torch.float64)
    noises = [torch.tensor(value, dtype=torch.float64) for value in NOISES]
    betas = torch.tensor(BETAS, dtype=torch.float64)
    alphas = torch.cumprod(1 - betas, 0)
    first, second = (float(value) for value in step_by_step(clean, noises, betas))
    joined = float(joined_noise(noises, alphas))
    missing = [name for name in ("x1", "x2", "alpha_bar", "noise") if answer.get(name) is None]
    if missing:
        return wrong(
            f"no value yet: {', '.join(missing)}.",
            why="all four numbers belong to the answer.",
            hint="start with x1: put the numbers into √(1 − β₁) · x₀ + √β₁ · ε₁.",
        )
    if near(answer["x1"], PIXEL + NOISES[0]):
        return wrong(
            f"x1 = {float(answer['x1']):.4f} is x₀ + ε₁.",
            why="plain adding lets the variance grow; a step keeps √(1 − β) and adds √β.",
            hint="weigh both parts before you add them.",
        )
    if near(answer["x1"], (1 - BETAS[0]) * PIXEL + BETAS[0] * NOISES[0]):
        return wrong(
            f"x1 = {float(answer['x1']):.4f} uses 1 − β and β without their roots.",
            why="variances are weighed by β, and amplitudes by its root: Var(c·ε) = c²·Var(ε).",
            hint="take the square root of both factors.",
        )
    if not near(answer["x1"], first):
        return wrong(
            f"x1 = {float(answer['x1']):.4f} is not what one step gives.",
            why="x₁ = √(1 − β₁) · x₀ + √β₁ · ε₁.",
            hint="√0.9 is about 0.949 and √0.1 about 0.316.",
        )
    if not near(answer["x2"], second):
        return wrong(
            f"x2 = {float(answer['x2']):.4f} does not follow from your x1.",
            why="the second step starts from x₁, with β₂ and ε₂ = −1.",
            hint="mind the sign of ε₂, and start from x₁, not from x₀.",
        )
    if not near(answer["alpha_bar"], float(alphas[-1])):
        return wrong(
            f"alpha_bar = {float(answer['alpha_bar']):.4f}.",
            why="ᾱ is the product of what each step keeps, (1 − β₁)(1 − β₂), not 1 − β₁ − β₂ and not one step's alone.",
            hint="multiply 0.9 by 0.8.",
        )
    if not near(answer["noise"], joined):
        return wrong(
            f"with the noise {float(answer['noise']):.4f} the jump lands on "
            f"{float(in_one_jump(clean, torch.tensor(float(answer['noise'])), alphas[-1])):.4f}, not on x2.",
            why="the two noises have been weighed by different steps, so their plain sum or mean is not it.",
            hint="solve x₂ = √ᾱ₂ · x₀ + √(1 − ᾱ₂) · ε for ε.",
        )
    return right(f"One jump with ε = {joined:.4f} lands where the two steps do.")


def jump(answer: Any) -> Grade:
    """The closed form, on random tensors."""
    generator = torch.Generator().manual_seed(9)
    clean, noise = (torch.randn(2, 4, 8, 8, generator=generator) * size for size in (0.5, 1.0))
    alpha = torch.tensor(0.3)
    given, true = answer(clean, noise, alpha), in_one_jump(clean, noise, alpha)
    if given is None:
        return wrong(
            "your function returns nothing.", why="it still has its placeholder.", hint="fill in the TODO."
        )
    if torch.allclose(given, true, atol=1e-5):
        return right("This is all that training does to a picture.")
    guesses = {
        "x + ε": (clean + noise, "the variance grows with every step, and ᾱ has no say", "weigh both parts"),
        "ᾱ·x + (1 − ᾱ)·ε": (
            alpha * clean + (1 - alpha) * noise,
            "the weights of amplitudes are the roots; like this, too little of both is left",
            "take the root of both weights",
        ),
        "√(1 − ᾱ)·x + √ᾱ·ε": (
            in_one_jump(noise, clean, alpha),
            "ᾱ is what is left of the picture; you gave it to the noise",
            "swap the weights",
        ),
    }
    for name, (value, why, hint) in guesses.items():
        if given.shape == value.shape and torch.allclose(given, value, atol=1e-5):
            return wrong(f"your function computes {name}.", why=f"{why}.", hint=f"{hint}.")
    return wrong(
        f"at ᾱ = 0.3 your tensor is off by up to {float((given - true).abs().max()):.3f}.",
        why="the jump is √ᾱ · clean + √(1 − ᾱ) · noise.",
        hint="check both weights at ᾱ = 1, where the picture must come back unchanged.",
    )


def variance(answer: Any) -> Grade:
    """ᾱ·Var(x₀) + 1 − ᾱ."""
    given = answer(0.25, 0.6)
    if given is None:
        return wrong(
            "your function returns nothing.", why="it still has its placeholder.", hint="fill in the TODO."
        )
    value = float(given)
    if near(value, 0.25 * 0.6 + 0.75):
        return right("It is one only where Var(x₀) is one, or where no picture is left.")
    if near(value, 1.0):
        return wrong(
            "your variance is one whatever the picture.",
            why="that holds only for a picture of variance one; latents have their own.",
            hint="keep the picture's variance in the formula, weighed by ᾱ.",
        )
    if near(value, 0.25 + 0.75 * 0.6):
        return wrong(
            "you weighed the picture's variance by 1 − ᾱ.",
            why="ᾱ is what is left of the picture's variance, 1 − ᾱ that of the noise.",
            hint="swap the two weights.",
        )
    if near(value, 0.25**0.5 * 0.6 + 0.75**0.5):
        return wrong(
            "you took roots of the weights.",
            why="roots weigh amplitudes; a variance is a square, so the roots are squared again.",
            hint="use ᾱ and 1 − ᾱ themselves.",
        )
    return wrong(
        f"at ᾱ = 0.25 and Var(x₀) = 0.6 you get {value:.4f}.",
        why="variances of independent parts add up, each weighed by the square of its factor.",
        hint="the factor of the picture is √ᾱ, that of the noise √(1 − ᾱ), and the noise has variance one.",
    )


def clean_guess(answer: Any) -> Grade:
    """The jump solved for the clean latents."""
    generator = torch.Generator().manual_seed(10)
    clean, noise = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    alpha = torch.tensor(0.3)
    noisy = in_one_jump(clean, noise, alpha)
    given = answer(noisy, noise, alpha)
    if given is None:
        return wrong(
            "your function returns nothing.", why="it still has its placeholder.", hint="fill in the TODO."
        )
    if torch.allclose(given, true_guess(noisy, noise, alpha), atol=1e-4):
        return right(
            "With the true noise it finds the picture exactly; the UNet's noise is a guess, and so is this."
        )
    if torch.allclose(given, noisy - noise, atol=1e-4):
        return wrong(
            "you subtract the noise as it is.",
            why="the noise was added with weight √(1 − ᾱ), and what is left of the picture has weight √ᾱ.",
            hint="weigh the noise before you subtract it, then divide.",
        )
    if torch.allclose(given, noisy - (1 - alpha).sqrt() * noise, atol=1e-4):
        return wrong(
            "your guess is √ᾱ times too small.",
            why="what is left when the noise is gone is √ᾱ · x₀, not x₀.",
            hint="divide by √ᾱ at the end.",
        )
    if torch.allclose(given, (noisy - (1 - alpha) * noise) / alpha, atol=1e-4):
        return wrong(
            "you use ᾱ and 1 − ᾱ without their roots.",
            why="the jump weighs amplitudes by √ᾱ and √(1 − ᾱ).",
            hint="take the root of both.",
        )
    return wrong(
        f"with the true noise your guess is off by up to {float((given - clean).abs().max()):.3f}.",
        why="the guess must be exact when the noise is.",
        hint="bring √(1 − ᾱ) · ε to the other side, then divide by √ᾱ.",
    )


def first_below(answer: Mapping[str, Any]) -> Grade:
    """Where noise outweighs picture."""
    for name, title in SCHEDULES.items():
        alphas = alphas_cumprod(OTHERS[title])
        true = int((snr(alphas) < 1).nonzero()[0])
        given = answer.get(name)
        if given is None:
            return wrong(
                f"'{name}' has no value yet.",
                why="both schedules belong to the answer.",
                hint="(snr(alphas) < 1) is False, False, … True: you want the index of the first True.",
            )
        if int(given) == true - 1:
            return wrong(
                f"{name}: at timestep {int(given)} the ratio is still {float(snr(alphas)[int(given)]):.4f}.",
                why="you named the last timestep where the picture outweighs the noise.",
                hint="timesteps count from zero, and so do indices: one further.",
            )
        if int(given) == int((alphas.sqrt() < 0.5).nonzero()[0]):
            return wrong(
                f"{name}: timestep {int(given)} is where √ᾱ falls below one half.",
                why="the ratio is ᾱ / (1 − ᾱ), which is one where ᾱ is one half.",
                hint="use snr(alphas), and compare it with 1.",
            )
        if int(given) != true:
            return wrong(
                f"{name}: timestep {int(given)} is not the first with a ratio below 1.",
                why=f"its ratio is {float(snr(alphas)[min(max(int(given), 0), len(alphas) - 1)]):.3f}.",
                hint="(snr(alphas) < 1).nonzero()[0] is the first index where it holds.",
            )
    return right(
        "The linear schedule drowns the picture much sooner; a base trained on one cannot be drawn with another."
    )


TASKS: Mapping[str, Grader] = {
    "one_pixel": one_pixel,
    "jump": jump,
    "variance": variance,
    "clean_guess": clean_guess,
    "first_below": first_below,
}
