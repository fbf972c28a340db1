"""Answers to lab 14, fast drawing."""

import math
from typing import Any

import numpy as np
import torch

from tests.labs.answers import AlsoRight, Answers


def shares(t: Any) -> tuple[Any, Any]:
    s = 10 * t
    return 0.25 / (s**2 + 0.25), s / (s**2 + 0.25) ** 0.5


def step(x: Any, text: Any, none: Any, g: Any, t: Any, s: Any, noise: Any = None) -> Any:
    guided = none + g * (text - none) if noise is None else noise
    return s.sqrt() * (x - (1 - t).sqrt() * guided) / t.sqrt() + (1 - s).sqrt() * guided


def times(steps: int) -> list[int]:
    return [999 - 20 * (50 * place // steps) for place in range(steps)]


def kept(before: Any, after: Any) -> float:
    both = sum(a and b for a, b in zip(before, after, strict=True))
    return both / sum(before) if any(before) else 0.0


ANSWERS: Answers = {
    "shares": (
        shares,
        [
            (lambda t: shares(t / 10), "not multiplied by 10"),
            (lambda t: shares(t)[::-1], "exchanged"),
            (lambda t: (shares(t)[0], 1 - shares(t)[0]), "leaves of 1"),
            (lambda t: (shares(t)[0], 10 * t / ((10 * t) ** 2 + 0.25)), "lacks its square root"),
            (lambda t: (0.5 / ((10 * t) ** 2 + 0.25), shares(t)[1]), "is 2 at time 0"),
            (lambda t: (0.25 / math.sqrt((10 * t) ** 2 + 0.25), shares(t)[1]), "c_skip has a square root"),
            (lambda t: shares(t)[0], "list or tuple"),
            (lambda t: (1.0, 0.0), "whatever it is given"),
        ],
    ),
    "guided_step": (
        step,
        [
            (lambda x, text, none, g, t, s: step(x, text, none, 1.0, t, s), "no guidance"),
            (lambda x, text, none, g, t, s: step(x, text, none, g + 1, t, s), "prompt's own prediction"),
            (
                lambda x, text, none, g, t, s: step(x, text, none, g, t, s, text + g * (none - text)),
                "without the prompt",
            ),
            (lambda x, text, none, g, t, s: step(x, text, none, g, t, torch.ones(())), "clean latents"),
            (lambda x, text, none, g, t, s: step(x, text, none, g, t, t), "where the step began"),
            (
                lambda x, text, none, g, t, s: (
                    step(x, text, none, g, t, s) + (1 - s).sqrt() * (1 - g) * (text - none)
                ),
                "is not guided",
            ),
            (
                lambda x, text, none, g, t, s: step(x, text, none, g, t**2, s**2),
                "off by up to",
            ),
            (lambda x, text, none, g, t, s: None, "returns nothing"),
        ],
    ),
    "drawing_times": (
        times,
        [
            (lambda steps: [999 - 1000 * k // steps for k in range(steps)], "all thousand"),
            (lambda steps: times(steps)[::-1], "clean end"),
            (lambda steps: [999 - 20 * (50 // steps) * k for k in range(steps)], "rounded distance"),
            (lambda steps: [one + 1 for one in times(steps)], "begin at 1000"),
            (lambda steps: [999 - 20 * round(50 * k / steps) for k in range(steps)], "nearest place"),
            (lambda steps: [50 * k // steps for k in range(steps)], "not the times"),
            (lambda steps: [999 - 20 * (50 * (k + 1) // steps) for k in range(steps)], "one place too late"),
            (lambda steps: 999, "list or tuple"),
        ],
    ),
    "kept": (
        kept,
        [
            (lambda before, after: sum(after) / len(after), "right after"),
            (
                lambda before, after: sum(a and b for a, b in zip(before, after, strict=True)) / len(before),
                "divide by all",
            ),
            (
                lambda before, after: sum(after) / sum(before) if any(before) else 0.0,
                "one count by the other",
            ),
            (
                lambda before, after: sum(a == b for a, b in zip(before, after, strict=True)) / len(before),
                "did not change",
            ),
            (lambda before, after: 1 - kept(before, after), "was lost"),
            (lambda before, after: kept(after, before), "exchanged"),
            (
                lambda before, after: sum(a and b for a, b in zip(before, after, strict=True)) / sum(before),
                "ZeroDivisionError",
            ),
            (lambda before, after: 0.75, "whatever it is given"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "shares": [
        lambda t: [1 / (1 + (20 * t) ** 2), 20 * t / math.hypot(1, 20 * t)],
        lambda t: (np.float64(0.5**2 / ((10 * t) ** 2 + 0.5**2)), 10 * t * ((10 * t) ** 2 + 0.25) ** -0.5),
    ],
    "guided_step": [
        lambda x, text, none, g, t, s: torch.lerp(
            step(x, text, none, 0.0, t, s), step(x, text, none, 1.0, t, s), g
        ),
        lambda x, text, none, g, t, s: (
            (s / t).sqrt() * x + ((1 - s).sqrt() - (s / t * (1 - t)).sqrt()) * (g * text + (1 - g) * none)
        ),
    ],
    "drawing_times": [
        lambda steps: [
            int(np.arange(999, 0, -20)[int(place)]) for place in np.linspace(0, 50, steps, endpoint=False)
        ],
        lambda steps: tuple(float(one) for one in times(steps)),
    ],
    "kept": [
        lambda before, after: float(np.mean(np.array(after)[np.array(before)])) if any(before) else 0,
    ],
}
