"""Grades of lab 19, where along the schedule an adapter acts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from detour.labs.comparing import Mistake, compare
from detour.labs.grading import Grade, Grader
from detour.labs.hints import direction_of

THIRDS = ("early", "middle", "late")


def _rows(seed: int, num: int, *, spread: float = 1.0) -> Tensor:
    """(num, 3, 4, 5) random numbers, each row larger than the one before it."""
    generator = torch.Generator().manual_seed(seed)
    return (
        spread * torch.randn(num, 3, 4, 5, generator=generator) * torch.arange(1, num + 1).view(-1, 1, 1, 1)
    )


def _lengths(rows: Tensor) -> Tensor:
    return rows.flatten(1).norm(dim=1)


def relative_move(answer: Any) -> Grade:
    """Moves of rows of different length, of which one does not move at all."""
    still = _rows(5, 2)
    cases = [
        (_rows(0, 3), _rows(1, 3)),
        (_rows(2, 4, spread=0.3), _rows(3, 4, spread=2.0)),
        (torch.cat([still[:1], _rows(6, 1)]), still),
    ]
    return compare(
        answer,
        lambda with_it, without: _lengths(with_it - without) / _lengths(without),
        cases,
        [
            Mistake(
                formula=lambda with_it, without: _lengths(with_it - without) / _lengths(with_it),
                what="you divide by the answer with the adapter.",
                why="the share is of what the network says without it, the same for every adapter.",
                hint="the length of without below the line.",
            ),
            Mistake(
                formula=lambda with_it, without: _lengths(with_it - without),
                what="you return the length of the move alone.",
                why="answers are longer at one noise level than at another; a share can be compared.",
                hint="divide by the length of without.",
            ),
            Mistake(
                formula=lambda with_it, without: _lengths(with_it) / _lengths(without),
                what="you compare the two lengths.",
                why="an answer can turn without becoming longer.",
                hint="subtract first, then take the length.",
            ),
            Mistake(
                formula=lambda with_it, without: ((with_it - without).norm() / without.norm()).expand(
                    len(with_it)
                ),
                what="you take one length over all rows.",
                why="the largest row would decide for all.",
                hint="flatten(1) keeps the rows apart, norm(dim=1) measures each.",
            ),
            Mistake(
                formula=lambda with_it, without: (
                    _lengths(with_it - without).square() / _lengths(without).square()
                ),
                what="you take squares of lengths.",
                why="half the move would count as a quarter.",
                hint="the length is the root of the sum of squares: norm(dim=1).",
            ),
            Mistake(
                formula=lambda with_it, without: ((with_it - without) / without).abs().flatten(1).mean(dim=1),
                what="you average the shares of single numbers.",
                why="numbers near 0 below the line make that as large as you like.",
                hint="take lengths of whole rows first, and divide then.",
            ),
        ],
        why="a share is the length of the difference over the length of the answer without the adapter, row by row.",
        hint=direction_of(19, "relative_move"),
        praise="Shares can be compared between noise levels; lengths cannot.",
    )


def clean_move(answer: Any) -> Grade:
    """Moves at little noise, at much of it, and of the shares of a flow."""
    cases = []
    for seed, (a, b) in enumerate([(0.95, 0.31), (0.07, 0.9975), (0.6, 0.8), (0.25, 0.75)]):
        shape = (2, 1, 1, 1)
        cases.append((_rows(seed, 2), torch.full(shape, a), torch.full(shape, b)))
    return compare(
        answer,
        lambda move, a, b: -b / a * move,
        cases,
        [
            Mistake(
                formula=lambda move, a, b: b / a * move,
                what="the sign is the other one.",
                why="more noise named is less picture left: b · ε is subtracted.",
                hint="a minus in front.",
            ),
            Mistake(
                formula=lambda move, a, b: -a / b * move,
                what="the two shares are exchanged.",
                why="where noise has the larger share, a small move of it is a large move of the picture.",
                hint="b above the line, a below it.",
            ),
            Mistake(
                formula=lambda move, a, b: -b * move,
                what="you do not divide by the share of the picture.",
                why="what is left after the subtraction is a · x₀, and x₀ is asked for.",
                hint="divide by a.",
            ),
            Mistake(
                formula=lambda move, a, b: -move / a,
                what="you leave the share of the noise out.",
                why="in the noisy latents the noise stands times b.",
                hint="multiply by b.",
            ),
            Mistake(
                formula=lambda move, a, b: -move,
                what="you take the move of the noise for that of the picture.",
                why="the two have different shares of the noisy latents.",
                hint="-b / a times the move.",
            ),
            Mistake(
                formula=lambda move, a, b: -((b / a) ** 2) * move,
                what="you square the ratio.",
                why="a and b are shares of amplitude already; their squares are those of variance.",
                hint="b / a without a power.",
            ),
        ],
        why="both clean pictures are (noisy − b ε) / a with the same noisy latents, so the difference is −b Δε / a.",
        hint=direction_of(19, "clean_move"),
        praise="b / a is 0.3 in clean latents and 14 in noise alone: that is what turns one curve into the other.",
    )


def strength_at(answer: Any) -> Grade:
    """Every step of pictures of 3, 6, 7 and 20 steps, for each third."""
    cases = [(third, step, steps) for steps in (6, 7, 20, 3) for third in THIRDS for step in range(steps)]
    return compare(
        answer,
        lambda third, step, steps: float(THIRDS[3 * step // steps] == third),
        cases,
        [
            Mistake(
                formula=lambda third, step, steps: float(THIRDS[3 * (steps - 1 - step) // steps] == third),
                what="you count from the clean end.",
                why="drawing begins in noise: step 0 is the noisiest, and early.",
                hint="step 0 belongs to 'early'.",
            ),
            Mistake(
                formula=lambda third, step, steps: float(THIRDS[3 * step // steps] != third),
                what="it is off in the third and on in the two others.",
                why="that is the other experiment, of what is missing.",
                hint="1.0 where the step lies in the third.",
            ),
            Mistake(
                formula=lambda third, step, steps: float(THIRDS[min(2, 3 * (step + 1) // steps)] == third),
                what="you ask where a step ends.",
                why="a step belongs to the third in which it begins.",
                hint="step / steps, without adding 1.",
            ),
            Mistake(
                formula=lambda third, step, steps: float(THIRDS[min(2, step // (steps // 3))] == third),
                what="you round the length of a third down.",
                why="7 steps have thirds of 2 1/3: step 2 begins at 2/7, before the first third ends.",
                hint="multiply first: 3 * step // steps.",
            ),
            Mistake(
                formula=lambda third, step, steps: float(THIRDS.index(third) <= 3 * step // steps),
                what="it stays on until the end.",
                why="on from a third on, and on in that third alone, are two things.",
                hint="the two thirds behind it are 0.0 too.",
            ),
            Mistake(
                formula=lambda third, step, steps: float(THIRDS.index(third) >= 3 * step // steps),
                what="it is on from the start.",
                why="on up to a third, and on in that third alone, are two things.",
                hint="the thirds before it are 0.0 too.",
            ),
        ],
        why="step k of n begins when k / n of the steps are done; 3 k // n numbers the third: 0, 1 or 2.",
        hint=direction_of(19, "strength_at"),
        praise="detour generate --lora-steps takes the same pairs.",
    )


def share_of_move(answer: Any) -> Grade:
    """Parts of a move: none, half, all, more than all, sideways and at random."""
    generator = torch.Generator().manual_seed(19)
    plain, full, other = torch.randn(3, 4, 6, generator=generator)
    whole = full - plain
    sideways = other - (other * whole).sum() / whole.square().sum() * whole
    cases = [
        (plain + 0.5 * whole + sideways, plain, full),
        (full, plain, full),
        (plain, plain, full),
        (plain + 1.7 * whole - 2 * sideways, plain, full),
        (other, 3 * plain, full),
    ]

    def share(part: Tensor, start: Tensor, end: Tensor) -> float:
        return float(((part - start) * (end - start)).sum() / (end - start).square().sum())

    return compare(
        answer,
        share,
        cases,
        [
            Mistake(
                formula=lambda part, plain, full: float((part - plain).norm() / (full - plain).norm()),
                what="you compare the lengths of the two moves.",
                why="a picture that moved as far in another direction has not come nearer.",
                hint="multiply the two moves, so that only what lies along the full one counts.",
            ),
            Mistake(
                formula=lambda part, plain, full: (
                    float(
                        ((part - plain) * (full - plain)).sum()
                        / (part - plain).norm()
                        / (full - plain).norm()
                    )
                    if bool((part - plain).any())
                    else 0.0
                ),
                what="that is the cosine of the two moves.",
                why="it says in which direction a picture moved, and not how far.",
                hint="below the line stands the square of the full move.",
            ),
            Mistake(
                formula=lambda part, plain, full: 1 - share(part, plain, full),
                what="you return the share that is missing.",
                why="the move begins at the base's picture; counted from the adapter's, it is what is left to do.",
                hint="subtract plain from both others.",
            ),
            Mistake(
                formula=lambda part, plain, full: float((part * full).sum() / full.square().sum()),
                what="you do not subtract the base's features.",
                why="all pictures have much in common; the move is what is left without it.",
                hint="part - plain and full - plain.",
            ),
            Mistake(
                formula=lambda part, plain, full: float(
                    (((part - plain) * (full - plain)).sum(1) / (full - plain).square().sum(1)).mean()
                ),
                what="you average the shares of single pictures.",
                why="a picture that hardly moves would count as much as one that moves far.",
                hint="sum over everything above the line and below it, and divide once.",
            ),
        ],
        why="the part's move times the full move, over the square of the full move, each summed over everything.",
        hint=direction_of(19, "share_of_move"),
        praise="0 is the base's picture, 1 the adapter's.",
    )


TASKS: Mapping[str, Grader] = {
    "relative_move": relative_move,
    "clean_move": clean_move,
    "strength_at": strength_at,
    "share_of_move": share_of_move,
}
