"""Grades of lab 10, samplers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detour.labs.comparing import Mistake, compare, same_pictures
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


def _best(rows: Sequence[Mapping[str, Any]], budget_s: float) -> tuple[str, int] | None:
    fitting = [row for row in rows if row["seconds"] <= budget_s]
    if not fitting:
        return None
    best = min(fitting, key=lambda row: row["distance"])
    return best["sampler"], best["steps"]


def _tables() -> list[list[dict[str, Any]]]:
    """Random tables; no two rows of one are equally far away."""
    generator = np.random.default_rng(10)
    names = ("ddpm", "ddim", "pndm", "euler", "dpm++")
    return [
        [
            {
                "sampler": str(generator.choice(names)),
                "steps": int(generator.choice([5, 10, 20, 50])),
                "seconds": round(float(generator.uniform(0.2, 3)), 2),
                "clip": float(generator.uniform(0.6, 0.9)),
                "distance": float(generator.uniform(0.001, 0.1)),
            }
            for _ in range(num)
        ]
        for num in (1, 3, 8, 8, 15)
    ]


def leading(answer: Callable[..., Any]) -> Grade:
    """Stops of several numbers of steps, offsets and schedules; 30 does not divide 1000."""
    if not callable(answer):
        return compare(answer, max, [], why="", hint="")

    def stops(steps: int, offset: int, trained: int) -> list[int]:
        return [int(stop) for stop in timesteps(steps, spacing="leading", offset=offset, trained=trained)]

    def given(*arguments: int) -> Any:
        found = answer(*arguments)
        return found.tolist() if isinstance(found, torch.Tensor | np.ndarray) else found

    def other(spacing: Any) -> Callable[..., list[int]]:
        return lambda steps, offset, trained: [
            int(stop) for stop in timesteps(steps, spacing=spacing, trained=trained)
        ]

    return compare(
        given,
        stops,
        [(10, 1, 1000), (30, 1, 1000), (20, 0, 1000), (1, 1, 1000), (7, 2, 500), (50, 1, 1000)],
        [
            Mistake(
                formula=lambda steps, offset, trained: stops(steps, offset, trained)[::-1],
                what="the stops rise.",
                why="the walk goes from noise to clean, from late to early.",
                hint="turn it round.",
            ),
            Mistake(
                formula=lambda steps, offset, trained: stops(steps, 0, trained),
                what="the offset is missing.",
                why="SD's schedule sets steps_offset to 1, so that no stop is 0.",
                hint="add offset to each stop.",
            ),
            Mistake(
                formula=lambda steps, offset, trained: stops(steps, 1, 1000),
                what="your stops are those of offset 1 and 1000 timesteps whatever is asked for.",
                why="other bases have other schedules: the arguments say which.",
                hint="use offset and trained.",
            ),
            Mistake(
                formula=lambda steps, offset, trained: stops(steps, 1, trained),
                what="your offset is 1 whatever is asked for.",
                why="other bases have other schedules: the arguments say which.",
                hint="add offset, not 1.",
            ),
            Mistake(
                formula=lambda steps, offset, trained: stops(steps, offset, 1000),
                what="your schedule has 1000 timesteps whatever is asked for.",
                why="other bases have other schedules: the arguments say which.",
                hint="the stride is trained // steps.",
            ),
            Mistake(
                formula=other("trailing"),
                what="that is another spacing, trailing.",
                why="'leading' takes multiples of the stride from 0 on, so the last timesteps are never reached.",
                hint="the stride is trained // steps, and the first stop is (steps − 1) · stride + offset.",
            ),
            Mistake(
                formula=other("linspace"),
                what="that is another spacing, linspace.",
                why="'leading' takes multiples of the stride from 0 on, so the last timesteps are never reached.",
                hint="the stride is trained // steps, and the first stop is (steps − 1) · stride + offset.",
            ),
            Mistake(
                formula=lambda steps, offset, trained: [
                    round(number * trained / steps + offset) for number in reversed(range(steps))
                ],
                what="with 30 steps the stops are others: your stride is no whole number.",
                why="the stride is a whole number: 1000 // 30 is 33, and what is left over is never visited.",
                hint="whole division, before anything is multiplied.",
            ),
            Mistake(
                formula=lambda steps, offset, trained: [
                    int(number * trained / steps + offset) for number in reversed(range(steps))
                ],
                what="with 30 steps the stops are others: your stride is no whole number.",
                why="the stride is a whole number: 1000 // 30 is 33, and what is left over is never visited.",
                hint="whole division, before anything is multiplied.",
            ),
            Mistake(
                formula=lambda steps, offset, trained: [
                    number * (trained // steps) + offset for number in range(steps, 0, -1)
                ],
                what="your walk begins one stride too late and ends one too early.",
                why="the multiples are those of steps − 1 down to 0: the last stop is the offset itself.",
                hint="torch.arange(steps - 1, -1, -1) gives the multiples' numbers.",
            ),
            Mistake(
                formula=lambda steps, offset, trained: [
                    number * (trained // steps) + offset for number in range(steps, -1, -1)
                ],
                what="you make one stop too many.",
                why="each step begins at a stop; where the last one leads is not asked of the UNet.",
                hint="ten multiples of 100, from 900 down to 0, before the offset.",
            ),
        ],
        why="multiples of the stride, falling, each raised by the offset: 901, 801, 701, … for ten steps.",
        hint="torch.arange(steps - 1, -1, -1) gives the multiples' numbers; as many stops as there are steps.",
        praise="A walk of ten steps begins at 901, with noise that belongs to 999.",
    )


def _guess(noisy: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    return (noisy - (1 - alpha).sqrt() * noise) / alpha.sqrt()


def ddim_step(answer: Callable[..., Tensor]) -> Grade:
    """Steps between several stops, the last one too, against the step that is read in detour.scratch."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for size, alpha, following in ((3, 0.3, 0.6), (2, 0.05, 0.1), (4, 0.9, 1.0)):
        noisy, noise = (torch.randn(2, 4, size, size, generator=generator) for _ in range(2))
        cases.append((noisy, noise, torch.tensor(alpha), torch.tensor(following)))
    hint = "√ᾱ' · guess + √(1 − ᾱ') · noise_pred, with ᾱ' of the next stop."
    mistakes = (
        ("it stops at the guess.", lambda x, e, a, b: _guess(x, e, a),
         "the guess is mush until the end: go only as far as the next stop."),
        ("no noise is put back.", lambda x, e, a, b: b.sqrt() * _guess(x, e, a),
         "the next stop's latents hold √(1 − ᾱ) of noise."),
        ("the noise is put back with the share of this stop.",
         lambda x, e, a, b: b.sqrt() * _guess(x, e, a) + (1 - a).sqrt() * e, "there is less noise at the next stop."),
        ("the step stays where it is.", lambda x, e, a, b: x,
         "both the picture's and the noise's share must be those of alpha_next."),
        ("the two stops are exchanged.", lambda x, e, a, b: a.sqrt() * _guess(x, e, b) + (1 - a).sqrt() * e,
         "alpha is where the latents are, alpha_next where they go."),
        ("shares are used without their roots.", lambda x, e, a, b: b * (x - (1 - a) * e) / a + (1 - b) * e,
         "ᾱ is a share of variance; sizes are weighed by its root."),
        ("the noise is subtracted instead of put back.",
         lambda x, e, a, b: b.sqrt() * _guess(x, e, a) - (1 - b).sqrt() * e,
         "the next stop's latents hold noise, with a plus."),
        ("the guess is put back whole, without its share.",
         lambda x, e, a, b: _guess(x, e, a) + (1 - b).sqrt() * e, "the picture's share at the next stop is √ᾱ'."),
        ("the noise is put back with the share 1 − ᾱ', without its root.",
         lambda x, e, a, b: b.sqrt() * _guess(x, e, a) + (1 - b) * e,
         "ᾱ is a share of variance; sizes are weighed by its root."),
    )  # fmt: skip
    return compare(
        answer,
        true_step,
        cases,
        [Mistake(formula=formula, what=what, why=why, hint=hint) for what, formula, why in mistakes],
        why="a step guesses the clean latents and puts the same noise back.",
        hint="first the guess, as in lab 9; then lab 9's jump with noise_pred as the noise.",
        praise="The same noise, less of it.",
    )


def same_as_ddim(answer: Mapping[str, Any]) -> Grade:
    """Two pictures; one step of 255 is rounding."""
    return same_pictures(
        answer,
        "diffusers'",
        praise="Your sampler is diffusers' DDIM.",
        why="same noise, same UNet: stops or steps are others.",
        hint="pass both checks above first, then run this cell again.",
    )


def sweet_spot(answer: Callable[..., Any]) -> Grade:
    """Choose from tables whose answers are known: one to talk about, and random ones."""
    rows = [dict(row) for row in ROWS]
    chosen = answer(rows, 1.2)
    found = tuple(chosen) if isinstance(chosen, tuple | list) else chosen
    mistakes = {
        ("dpm++", 50): ("it takes 2.5 s where 1.2 s are allowed.", "a budget is a limit, not a wish."),
        ("euler", 5): ("that is the quickest.", "within the budget time costs nothing: the picture counts."),
        ("ddim", 20): ("that is the one with the most steps.", "a step of one sampler may be worth two of another."),
        ("ddpm", 10): (
            "that is the one with the best score, or the one furthest from the reference.",
            "the CLIP score of good pictures is scatter; DDPM draws another picture than the reference.",
        ),
    }  # fmt: skip
    if found in mistakes:
        what, why = mistakes[found]
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
    if answer(rows, 0.2) is None:
        return wrong(
            "with 0.2 s it finds nothing, and one row takes exactly that long.",
            why="within the budget is up to and with it.",
            hint="<= in place of <.",
        )
    for table in [*_tables(), rows]:
        for budget in (0.2, 0.5, 1.0, 2.0, 9.0):
            given, true = answer([dict(row) for row in table], budget), _best(table, budget)
            if (tuple(given) if isinstance(given, tuple | list) else given) != true:
                return wrong(
                    f"from {len(table)} rows it chooses {given} for {budget:g} s, where {true} is the nearest.",
                    why="the nearest to the reference among those that fit, whatever the table and the budget.",
                    hint="compute it from rows and budget_s alone: keep what fits, then the smallest distance.",
                )
    return right()


TASKS: Mapping[str, Grader] = {
    "leading": leading,
    "ddim_step": ddim_step,
    "same_as_ddim": same_as_ddim,
    "sweet_spot": sweet_spot,
}
