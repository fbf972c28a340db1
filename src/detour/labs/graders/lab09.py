"""Grades of lab 9, noise and back."""

from collections.abc import Mapping
from typing import Any

import torch

from detour.diffusion.schedule import alphas_cumprod, snr
from detour.labs.comparing import Mistake, compare
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
    """The closed form, on random tensors, at several ᾱ and at both ends."""
    generator = torch.Generator().manual_seed(9)
    cases = []
    for size, value in ((8, 0.3), (4, 0.9), (2, 1.0), (3, 0.0)):
        clean, noise = (torch.randn(2, 4, size, size, generator=generator) for _ in range(2))
        cases.append((0.5 * clean, noise, torch.tensor(value)))
    return compare(
        answer,
        in_one_jump,
        cases,
        [
            Mistake(
                formula=lambda clean, noise, alpha: clean + noise,
                what="your function computes x + ε.",
                why="the variance grows with every step, and ᾱ has no say.",
                hint="weigh both parts.",
            ),
            Mistake(
                formula=lambda clean, noise, alpha: alpha * clean + (1 - alpha) * noise,
                what="your function computes ᾱ·x + (1 − ᾱ)·ε.",
                why="the weights of amplitudes are the roots; like this, too little of both is left.",
                hint="take the root of both weights.",
            ),
            Mistake(
                formula=lambda clean, noise, alpha: in_one_jump(noise, clean, alpha),
                what="your function computes √(1 − ᾱ)·x + √ᾱ·ε.",
                why="ᾱ is what is left of the picture; you gave it to the noise.",
                hint="swap the weights.",
            ),
            Mistake(
                formula=lambda clean, noise, alpha: in_one_jump(clean, -noise, alpha),
                what="your function subtracts the noise.",
                why="the noise is added; the way back takes it out again with the same sign.",
                hint="+ in place of −.",
            ),
            Mistake(
                formula=lambda clean, noise, alpha: alpha.sqrt() * clean + noise,
                what="your noise has no weight.",
                why="near ᾱ = 1 there must be hardly any noise.",
                hint="√(1 − ᾱ) belongs to the noise.",
            ),
            Mistake(
                formula=lambda clean, noise, alpha: clean + (1 - alpha).sqrt() * noise,
                what="your picture has no weight.",
                why="the picture has to shrink as the noise grows, or the variance grows.",
                hint="√ᾱ belongs to the picture.",
            ),
            Mistake(
                formula=lambda clean, noise, alpha: alpha.sqrt() * clean + (1 - alpha.sqrt()) * noise,
                what="the noise's weight is 1 − √ᾱ.",
                why="the squares of both weights have to sum to one.",
                hint="the root goes around 1 − ᾱ as a whole.",
            ),
            Mistake(
                formula=lambda clean, noise, alpha: alpha.sqrt() * clean + (1 - alpha) * noise,
                what="the noise's weight is 1 − ᾱ, without its root.",
                why="the squares of both weights have to sum to one.",
                hint="take the root of 1 − ᾱ too.",
            ),
        ],
        why="the jump is √ᾱ · clean + √(1 − ᾱ) · noise.",
        hint="check both weights at ᾱ = 1, where the picture must come back unchanged.",
        praise="This is all that training does to a picture.",
    )


def variance(answer: Any) -> Grade:
    """ᾱ·Var(x₀) + 1 − ᾱ, for small and large variances and at both ends."""
    return compare(
        answer,
        lambda alpha, clean: alpha * clean + 1 - alpha,
        [(0.25, 0.6), (0.9, 2.0), (0.5, 0.0), (1.0, 0.7), (0.0, 3.0), (0.1, 1.0), (0.64, 0.04)],
        [
            Mistake(
                formula=lambda alpha, clean: 1.0,
                what="your variance is one whatever the picture.",
                why="that holds only for a picture of variance one; latents have their own.",
                hint="keep the picture's variance in the formula, weighed by ᾱ.",
            ),
            Mistake(
                formula=lambda alpha, clean: alpha + (1 - alpha) * clean,
                what="you weighed the picture's variance by 1 − ᾱ.",
                why="ᾱ is what is left of the picture's variance, 1 − ᾱ that of the noise.",
                hint="swap the two weights.",
            ),
            Mistake(
                formula=lambda alpha, clean: alpha**0.5 * clean + (1 - alpha) ** 0.5,
                what="you took roots of the weights.",
                why="roots weigh amplitudes; a variance is a square, so the roots are squared again.",
                hint="use ᾱ and 1 − ᾱ themselves.",
            ),
            Mistake(
                formula=lambda alpha, clean: alpha**2 * clean + (1 - alpha) ** 2,
                what="you took squares of the weights.",
                why="the amplitudes' weights are √ᾱ and √(1 − ᾱ); squaring those gives ᾱ and 1 − ᾱ.",
                hint="use ᾱ and 1 − ᾱ themselves.",
            ),
            Mistake(
                formula=lambda alpha, clean: alpha * clean,
                what="the noise's variance is missing.",
                why="the noise is half of the sum, and its own variance is one.",
                hint="add 1 − ᾱ.",
            ),
            Mistake(
                formula=lambda alpha, clean: alpha * clean + 1,
                what="the noise's variance has no weight.",
                why="the noise was weighed by √(1 − ᾱ) before it was added.",
                hint="add 1 − ᾱ, not 1.",
            ),
            Mistake(
                formula=lambda alpha, clean: (alpha * clean + 1 - alpha) ** 0.5,
                what="that is the standard deviation.",
                why="the variance was asked for.",
                hint="leave the root out.",
            ),
            Mistake(
                formula=lambda alpha, clean: clean,
                what="your variance is the picture's own.",
                why="noise is added, and the picture is made smaller: the variances of both parts add up.",
                hint="weigh the picture's variance by ᾱ, and add that of the noise.",
            ),
        ],
        why="variances of independent parts add up, each weighed by the square of its factor.",
        hint="the factor of the picture is √ᾱ, that of the noise √(1 − ᾱ), and the noise has variance one.",
        praise="It is one only where Var(x₀) is one, or where no picture is left.",
    )


def clean_guess(answer: Any) -> Grade:
    """The jump solved for the clean latents, at several ᾱ."""
    generator = torch.Generator().manual_seed(10)
    cases = []
    for size, value in ((8, 0.3), (4, 0.9), (2, 1.0), (3, 0.05)):
        clean, noise = (torch.randn(1, 4, size, size, generator=generator) for _ in range(2))
        alpha = torch.tensor(value)
        cases.append((in_one_jump(clean, noise, alpha), noise, alpha))
    return compare(
        answer,
        true_guess,
        cases,
        [
            Mistake(
                formula=lambda noisy, noise, alpha: noisy - noise,
                what="you subtract the noise as it is.",
                why="the noise was added with weight √(1 − ᾱ), and what is left of the picture has weight √ᾱ.",
                hint="weigh the noise before you subtract it, then divide.",
            ),
            Mistake(
                formula=lambda noisy, noise, alpha: noisy - (1 - alpha).sqrt() * noise,
                what="your guess is √ᾱ times too small.",
                why="what is left when the noise is gone is √ᾱ · x₀, not x₀.",
                hint="divide by √ᾱ at the end.",
            ),
            Mistake(
                formula=lambda noisy, noise, alpha: (noisy - (1 - alpha) * noise) / alpha,
                what="you use ᾱ and 1 − ᾱ without their roots.",
                why="the jump weighs amplitudes by √ᾱ and √(1 − ᾱ).",
                hint="take the root of both.",
            ),
            Mistake(
                formula=lambda noisy, noise, alpha: (noisy + (1 - alpha).sqrt() * noise) / alpha.sqrt(),
                what="you add the noise once more.",
                why="it is in the noisy latents with a plus, so it has to be taken out.",
                hint="− in place of +.",
            ),
            Mistake(
                formula=lambda noisy, noise, alpha: (noisy - (1 - alpha).sqrt() * noise) * alpha.sqrt(),
                what="you multiply by √ᾱ at the end.",
                why="what is left when the noise is gone is √ᾱ · x₀: too small already.",
                hint="divide by √ᾱ.",
            ),
            Mistake(
                formula=lambda noisy, noise, alpha: (noisy - noise) / alpha.sqrt(),
                what="you subtract the noise without its weight.",
                why="it was added with the weight √(1 − ᾱ).",
                hint="multiply the noise by √(1 − ᾱ) before you subtract it.",
            ),
            Mistake(
                formula=lambda noisy, noise, alpha: (noisy - alpha.sqrt() * noise) / (1 - alpha).sqrt(),
                what="the two weights are swapped.",
                why="√ᾱ belongs to the picture and √(1 − ᾱ) to the noise.",
                hint="swap them.",
            ),
            Mistake(
                formula=lambda noisy, noise, alpha: noisy / alpha.sqrt() - (1 - alpha).sqrt() * noise,
                what="only the noisy latents are divided by √ᾱ.",
                why="the noise is a part of them, so it has to be divided with them.",
                hint="put brackets around the difference, then divide.",
            ),
        ],
        why="the guess must be exact when the noise is.",
        hint="bring √(1 − ᾱ) · ε to the other side, then divide by √ᾱ.",
        praise="With the true noise it finds the picture exactly; the UNet's noise is a guess, and so is this.",
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
