"""Grades of lab 14, fast drawing."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from detour.labs.comparing import Mistake, compare
from detour.labs.grading import Grade, Grader
from detour.labs.hints import direction_of


def _shares(t: float) -> tuple[float, float]:
    s = 10 * t
    return 0.25 / (s**2 + 0.25), s / (s**2 + 0.25) ** 0.5


def shares(answer: Any) -> Grade:
    """Both shares at the boundary, near it and far from it."""
    return compare(
        answer,
        _shares,
        [(0.0,), (0.02,), (0.05,), (0.3,), (1.0,)],
        [
            Mistake(
                formula=lambda t: (0.25 / (t**2 + 0.25), t / (t**2 + 0.25) ** 0.5),
                what="the time is not multiplied by 10.",
                why="the published files were distilled with s = 10 t; with another factor their answers do not fit.",
                hint="s = 10 * t, and s in both formulas.",
            ),
            Mistake(
                formula=lambda t: _shares(t)[::-1],
                what="the two shares are exchanged.",
                why="at time 0 everything is the noisy latents themselves: c_skip is 1 there.",
                hint="return c_skip first.",
            ),
            Mistake(
                formula=lambda t: (_shares(t)[0], 1 - _shares(t)[0]),
                what="c_out is what c_skip leaves of 1.",
                why="the two do not add up to 1: c_out has a square root.",
                hint="s / (s**2 + 0.25) ** 0.5",
            ),
            Mistake(
                formula=lambda t: (_shares(t)[0], 10 * t / (100 * t**2 + 0.25)),
                what="c_out lacks its square root.",
                why="without it c_out goes to 0 where it should go to 1, and noisy times have no answer.",
                hint="(s**2 + 0.25) ** 0.5 below the line.",
            ),
            Mistake(
                formula=lambda t: (0.5 / (100 * t**2 + 0.25), _shares(t)[1]),
                what="c_skip is 2 at time 0.",
                why="f(x, 0) has to be x, so c_skip is 1 there.",
                hint="0.25 above and below the line.",
            ),
            Mistake(
                formula=lambda t: (0.25 / (100 * t**2 + 0.25) ** 0.5, _shares(t)[1]),
                what="c_skip has a square root.",
                why="the square root belongs to c_out alone; c_skip is not 1 at time 0 with it.",
                hint="0.25 / (s**2 + 0.25)",
            ),
        ],
        why="c_skip is 0.25 / (s² + 0.25) and c_out s / √(s² + 0.25), with s = 10 t.",
        hint=direction_of(14, "shares"),
        praise="At time 0 the network has no say, and a moment later it has nearly all of it.",
    )


def _guided_step(
    noisy: Tensor, of_text: Tensor, of_none: Tensor, scale: float, alpha_t: Tensor, alpha_s: Tensor
) -> Tensor:
    noise = of_none + scale * (of_text - of_none)
    clean = (noisy - (1 - alpha_t).sqrt() * noise) / alpha_t.sqrt()
    return alpha_s.sqrt() * clean + (1 - alpha_s).sqrt() * noise


def guided_step(answer: Any) -> Grade:
    """Steps of several guidance scales and lengths, on random latents."""
    cases = []
    for seed, (scale, begin, end) in enumerate(
        [(2.0, 0.1, 0.3), (7.5, 0.4, 0.5), (1.0, 0.02, 0.6), (3.0, 0.3, 0.9)]
    ):
        noisy, of_text, of_none = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
        cases.append((noisy, of_text, of_none, scale, torch.tensor(begin), torch.tensor(end)))

    def with_noise(noise: Any) -> Any:
        def formula(x: Tensor, text: Tensor, none: Tensor, g: float, t: Tensor, s: Tensor) -> Tensor:
            guided = noise(text, none, g)
            return s.sqrt() * (x - (1 - t).sqrt() * guided) / t.sqrt() + (1 - s).sqrt() * guided

        return formula

    return compare(
        answer,
        _guided_step,
        cases,
        [
            Mistake(
                formula=with_noise(lambda text, none, g: text),
                what="there is no guidance in your step.",
                why="the base would be distilled as it draws at guidance 1.",
                hint="of_none + scale * (of_text - of_none) in place of of_text.",
            ),
            Mistake(
                formula=with_noise(lambda text, none, g: text + g * (text - none)),
                what="you push away from the prompt's own prediction.",
                why="that is guidance of scale + 1: the paper's w is the scale less 1.",
                hint="begin with of_none.",
            ),
            Mistake(
                formula=with_noise(lambda text, none, g: text + g * (none - text)),
                what="you push towards the prediction without the prompt.",
                why="guidance pushes away from it.",
                hint="of_none + scale * (of_text - of_none)",
            ),
            Mistake(
                formula=lambda x, text, none, g, t, s: (
                    (x - (1 - t).sqrt() * (none + g * (text - none))) / t.sqrt()
                ),
                what="you return the clean latents.",
                why="that is a step to time 0; the answer is compared at the end of this step.",
                hint="mix clean and noise at alpha_s.",
            ),
            Mistake(
                formula=lambda x, text, none, g, t, s: (
                    t.sqrt() * (x - (1 - t).sqrt() * (none + g * (text - none))) / t.sqrt()
                    + (1 - t).sqrt() * (none + g * (text - none))
                ),
                what="you mix at the time where the step began.",
                why="clean latents and noise mixed there are what you began with.",
                hint="alpha_s in the last line.",
            ),
            Mistake(
                formula=lambda x, text, none, g, t, s: (
                    s.sqrt() * (x - (1 - t).sqrt() * (none + g * (text - none))) / t.sqrt()
                    + (1 - s).sqrt() * text
                ),
                what="the noise that you mix in is not guided.",
                why="clean latents and noise have to be of one prediction.",
                hint="use the guided noise in both places.",
            ),
            Mistake(
                formula=lambda x, text, none, g, t, s: (
                    s * (x - (1 - t) * (none + g * (text - none))) / t + (1 - s) * (none + g * (text - none))
                ),
                what="the square roots are missing.",
                why="ᾱ is a share of the variance; amplitudes take its root.",
                hint="alpha.sqrt() and (1 - alpha).sqrt().",
            ),
        ],
        why="guide the noise, take the clean latents out, mix both at alpha_s.",
        hint=direction_of(14, "guided_step"),
        praise="The base's guidance is in what the adapter learns from, so that its pictures need none.",
    )


def drawing_times(answer: Any) -> Grade:
    """Times of several numbers of steps, also of some that do not divide fifty."""
    return compare(
        answer,
        lambda steps: [999 - 20 * (50 * place // steps) for place in range(steps)],
        [(4,), (1,), (2,), (8,), (3,), (7,)],
        [
            Mistake(
                formula=lambda steps: [999 - 1000 * place // steps for place in range(steps)],
                what="your times are spread over all thousand.",
                why="the model was taught at fifty times only; 749 is not among them.",
                hint="choose places of the list of fifty.",
            ),
            Mistake(
                formula=lambda steps: [999 - 20 * (50 * place // steps) for place in range(steps)][::-1],
                what="you begin at the clean end.",
                why="drawing begins in pure noise.",
                hint="999 comes first.",
            ),
            Mistake(
                formula=lambda steps: [999 - 20 * (50 // steps) * place for place in range(steps)],
                what="you go down by the rounded distance.",
                why="50 // 4 is 12, and 25 is not 2 · 12: the rounding comes after the multiplication.",
                hint="50 * place // steps",
            ),
            Mistake(
                formula=lambda steps: [1000 - 20 * (50 * place // steps) for place in range(steps)],
                what="you begin at 1000.",
                why="timesteps run from 0 to 999.",
                hint="999 - …",
            ),
            Mistake(
                formula=lambda steps: [999 - 20 * round(50 * place / steps) for place in range(steps)],
                what="you round to the nearest place.",
                why="the places are rounded down, as diffusers' sampler does.",
                hint="// in place of round.",
            ),
            Mistake(
                formula=lambda steps: [50 * place // steps for place in range(steps)],
                what="you return the places, not the times.",
                why="place 0 of the list is time 999.",
                hint="999 - 20 * place",
            ),
            Mistake(
                formula=lambda steps: [999 - 20 * (50 * (place + 1) // steps) for place in range(steps)],
                what="you begin one place too late.",
                why="the first answer is asked for in pure noise, at 999.",
                hint="place 0 belongs to it.",
            ),
        ],
        why="place k of n is 50 k // n of the list 999, 979, …",
        hint=direction_of(14, "drawing_times"),
        praise="The last answer is given at a noisy time, and is the picture.",
    )


def _kept(before: Sequence[bool], after: Sequence[bool]) -> float:
    now = [late for early, late in zip(before, after, strict=True) if early]
    return sum(now) / len(now) if now else 0.0


def kept(answer: Any) -> Grade:
    """Lists in which right ones are lost, wrong ones become right, and nothing was right before."""
    yes, no = True, False
    return compare(
        answer,
        _kept,
        [
            ([yes, yes, yes, yes, no], [yes, no, yes, yes, yes]),
            ([yes, no, yes, no, yes, no], [no, yes, yes, yes, no, no]),
            ([yes, yes], [yes, yes]),
            ([no, yes, no], [yes, yes, yes]),
            ([no, no, no], [yes, no, yes]),
        ],
        [
            Mistake(
                formula=lambda before, after: sum(after) / len(after),
                what="you take the share that is right after.",
                why="what became right later was not kept, and what was wrong before could not be.",
                hint="look at the places alone where before is True.",
            ),
            Mistake(
                formula=lambda before, after: (
                    sum(a and b for a, b in zip(before, after, strict=True)) / len(before)
                ),
                what="you divide by all of them.",
                why="what was wrong before cannot be kept, and counts against nobody.",
                hint="divide by the number that was right before.",
            ),
            Mistake(
                formula=lambda before, after: sum(after) / sum(before) if sum(before) else 0.0,
                what="you divide the one count by the other.",
                why="with it one that was lost and one that was won cancel out.",
                hint="count those that were right both times.",
            ),
            Mistake(
                formula=lambda before, after: (
                    sum(a == b for a, b in zip(before, after, strict=True)) / len(before)
                ),
                what="you count all that did not change.",
                why="wrong before and wrong after is nothing that was kept.",
                hint="where before is True, and after too.",
            ),
            Mistake(
                formula=lambda before, after: 1 - _kept(before, after),
                what="you return the share that was lost.",
                why="the task asks for what was kept.",
                hint="1 less it.",
            ),
            Mistake(
                formula=lambda before, after: _kept(after, before),
                what="before and after are exchanged.",
                why="that asks which of today's right ones were right already.",
                hint="the first list says where to look.",
            ),
        ],
        why="the share of True in after, at the places where before is True; 0 where there is no such place.",
        hint=direction_of(14, "kept"),
        praise="What the many steps got wrong is no fault of the few.",
    )


TASKS: Mapping[str, Grader] = {
    "shares": shares,
    "guided_step": guided_step,
    "drawing_times": drawing_times,
    "kept": kept,
}
