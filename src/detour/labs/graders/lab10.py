"""Grades of lab 10, samplers."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detour.labs.grading import Grade, Grader, right, wrong
from detour.scratch.ddim import step as true_step
from detour.scratch.spacing import timesteps

ROWS = (
    {"sampler": "ddpm", "steps": 10, "seconds": 0.5, "clip": 0.76, "distance": 0.060},
    {"sampler": "dpm++", "steps": 10, "seconds": 0.5, "clip": 0.75, "distance": 0.004},
    {"sampler": "euler", "steps": 5, "seconds": 0.2, "clip": 0.74, "distance": 0.020},
    {"sampler": "ddim", "steps": 20, "seconds": 1.0, "clip": 0.75, "distance": 0.006},
    {"sampler": "dpm++", "steps": 50, "seconds": 2.5, "clip": 0.75, "distance": 0.001},
)


def leading(answer: Callable[..., Any]) -> Grade:
    """Stops of 10 and of 30 steps; 30 does not divide 1000."""
    found = [torch.as_tensor(answer(steps)).tolist() for steps in (10, 30)]
    expected = [timesteps(steps, spacing="leading", offset=1).tolist() for steps in (10, 30)]
    if found == expected:
        return right("A walk of ten steps begins at 901, with noise that belongs to 999.")
    ten = found[0]
    if len(ten) != 10:
        return wrong(
            f"ten steps give {len(ten)} stops.",
            why="each step begins at a stop; where the last one leads is not asked of the UNet.",
            hint="ten multiples of 100, from 900 down to 0, before the offset.",
        )
    if ten == expected[0][::-1]:
        return wrong(
            "the stops rise.",
            why="the walk goes from noise to clean, from late to early.",
            hint="turn it round.",
        )
    if ten == [stop - 1 for stop in expected[0]]:
        return wrong(
            "the offset is missing.",
            why="SD's schedule sets steps_offset to 1, so that no stop is 0.",
            hint="add offset to each stop.",
        )
    if ten in (timesteps(10, spacing="trailing").tolist(), timesteps(10, spacing="linspace").tolist()):
        return wrong(
            f"it begins at {ten[0]}: that is another spacing.",
            why="'leading' takes multiples of the stride from 0 on, so the last timesteps are never reached.",
            hint="the stride is trained // steps, and the first stop is (steps − 1) · stride + offset.",
        )
    if ten == expected[0]:
        return wrong(
            "with 30 steps the stops are others.",
            why="the stride is a whole number: 1000 // 30 is 33, and what is left over is never visited.",
            hint="whole division, before anything is multiplied.",
        )
    return wrong(
        f"ten steps begin at {ten[:3]}, …",
        why="multiples of the stride, falling, each raised by the offset: 901, 801, 701, …",
        hint="torch.arange(steps - 1, -1, -1) gives the multiples' numbers.",
    )


def ddim_step(answer: Callable[..., Tensor]) -> Grade:
    """A step between two stops, against the one that is read in detour.scratch."""
    generator = torch.Generator().manual_seed(0)
    noisy, noise = (torch.randn(2, 4, 3, 3, generator=generator) for _ in range(2))
    alpha, following = torch.tensor(0.3), torch.tensor(0.6)
    found = answer(noisy, noise, alpha, following)
    if not isinstance(found, Tensor) or found.shape != noisy.shape:
        return wrong(
            f"it returns {type(found).__name__}, not latents of the same shape.",
            why="a step leads from latents to latents.",
            hint="return the guess with the noise put back.",
        )
    if torch.allclose(found, true_step(noisy, noise, alpha, following), atol=1e-5):
        return right("The same noise, less of it.")
    guess = (noisy - (1 - alpha).sqrt() * noise) / alpha.sqrt()
    told = {
        "it stops at the guess": (guess, "the guess is mush until the end: go only as far as the next stop."),
        "no noise is put back": (following.sqrt() * guess, "the next stop's latents hold √(1 − ᾱ) of noise."),
        "the noise is put back with the share of this stop": (
            following.sqrt() * guess + (1 - alpha).sqrt() * noise, "there is less noise at the next stop.",
        ),
        "the step stays where it is": (noisy, "both the picture's and the noise's share must be those of alpha_next."),
        "the two stops are exchanged": (
            alpha.sqrt() * (noisy - (1 - following).sqrt() * noise) / following.sqrt() + (1 - alpha).sqrt() * noise,
            "alpha is where the latents are, alpha_next where they go.",
        ),
        "shares are used without their roots": (
            following * (noisy - (1 - alpha) * noise) / alpha + (1 - following) * noise,
            "ᾱ is a share of variance; sizes are weighed by its root.",
        ),
    }  # fmt: skip
    for what, (value, why) in told.items():
        if torch.allclose(found, value, atol=1e-5):
            return wrong(
                f"{what}.", why=why, hint="√ᾱ' · guess + √(1 − ᾱ') · noise_pred, with ᾱ' of the next stop."
            )
    return wrong(
        "the latents are others than DDIM's.",
        why="a step guesses the clean latents and puts the same noise back.",
        hint="first the guess, as in lab 9; then lab 9's jump with noise_pred as the noise.",
    )


def same_as_ddim(answer: Mapping[str, Any]) -> Grade:
    """Two pictures; one step of 255 is rounding."""
    mine, theirs = np.asarray(answer["mine"]), np.asarray(answer["theirs"])
    if mine.shape != theirs.shape:
        return wrong(
            f"your picture has the shape {mine.shape}, diffusers' {theirs.shape}.",
            why="they cannot be compared.",
            hint="one picture at the base's own size.",
        )
    difference = np.abs(mine.astype(int) - theirs.astype(int))
    if difference.max(initial=0) <= 1:
        return right("Your sampler is diffusers' DDIM.")
    return wrong(
        f"they differ by up to {difference.max()} of 255 ({difference.mean():.2f} on average).",
        why="same noise, same UNet: stops or steps are others.",
        hint="pass both checks above first, then run this cell again.",
    )


def sweet_spot(answer: Callable[..., Any]) -> Grade:
    """Choose from a table whose answers are known."""
    rows = [dict(row) for row in ROWS]
    chosen = answer(rows, 1.2)
    found = tuple(chosen) if chosen is not None else None
    told = {
        ("dpm++", 50): ("it takes 2.5 s where 1.2 s are allowed.", "a budget is a limit, not a wish."),
        ("euler", 5): ("that is the quickest.", "within the budget time costs nothing: the picture counts."),
        ("ddim", 20): ("that is the one with the most steps.", "a step of one sampler may be worth two of another."),
        ("ddpm", 10): (
            "that is the one with the best score.",
            "the CLIP score of good pictures is scatter; DDPM draws another picture than the reference.",
        ),
    }  # fmt: skip
    if found in told:
        what, why = told[found]
        return wrong(what, why=why, hint="first keep the rows within the budget, then the smallest distance.")
    if found != ("dpm++", 10):
        return wrong(
            f"it chooses {found} from a table in which dpm++ with 10 steps is the answer for 1.2 s.",
            why="the nearest to the reference among those that fit.",
            hint="return (row['sampler'], row['steps']).",
        )
    if answer(rows, 0.1) is not None:
        return wrong(
            f"with 0.1 s it chooses {answer(rows, 0.1)}, and nothing is that quick.",
            why="a service that promises what it cannot keep fails later, and louder.",
            hint="return None when no row fits.",
        )
    if tuple(answer(rows, 9.0)) != ("dpm++", 50):
        return wrong(
            "with 9 s it does not take the nearest.",
            why="everything fits then.",
            hint="the smallest distance of all rows that fit.",
        )
    return right()


TASKS: Mapping[str, Grader] = {
    "leading": leading,
    "ddim_step": ddim_step,
    "same_as_ddim": same_as_ddim,
    "sweet_spot": sweet_spot,
}
