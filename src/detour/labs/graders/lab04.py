"""Grades of lab 4, compose."""

from collections.abc import Mapping
from typing import Any

import torch

from detour.labs.grading import Grade, Grader, near, right, wrong

RANK = 4


def _normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def stack_factors(answer: Any) -> Grade:
    """Factors side by side, each scale once."""
    generator = torch.Generator().manual_seed(4)
    down1, down2 = _normal(generator, 2, 5), _normal(generator, 3, 5)
    up1, up2 = _normal(generator, 4, 2), _normal(generator, 4, 3)
    scales = (0.8, 0.3)
    try:
        given = answer(down1, up1, scales[0], down2, up2, scales[1])
    except RuntimeError as error:
        return wrong(
            f"with ranks 2 and 3 your function stops: {error}",
            why="the two adapters may have different ranks, so their factors cannot be added number by number.",
            hint="put them beside each other with torch.cat, along the rank.",
        )
    if given is None or any(one is None for one in given):
        return wrong(
            "your function returns nothing.", why="it still has its placeholder.", hint="fill in the TODO."
        )
    down, up = given
    if down.shape != (5, 5) or up.shape != (4, 5):
        return wrong(
            f"down is {tuple(down.shape)} and up {tuple(up.shape)}; of ranks 2 and 3 they should be (5, 5) and (4, 5).",
            why="down is (rank, in) and up (out, rank): the rank is down's first and up's second dimension.",
            hint="stack downs along dimension 0 and ups along dimension 1.",
        )
    product, first, second = up @ down, up1 @ down1, up2 @ down2
    if torch.allclose(product, scales[0] * first + scales[1] * second):
        return right("This is what detour compose writes: the sum, exactly.")
    if torch.allclose(product, scales[0] ** 2 * first + scales[1] ** 2 * second):
        return wrong(
            "each scale is in there twice.",
            why="you scaled both factors, and the product has both: 0.3 becomes 0.09.",
            hint="scale one of the two factors only.",
        )
    if torch.allclose(product, first + second):
        return wrong(
            "the scales are not used.",
            why="weight and alpha / rank are part of what the adapter does.",
            hint="multiply one of the factors by its scale.",
        )
    return wrong(
        f"the product is off by up to {float((product - scales[0] * first - scales[1] * second).abs().max()):.3f}.",
        why="each down must meet its own up in the product.",
        hint="keep the order: first then second in both stacks.",
    )


def rank_of_sum(answer: Any) -> Grade:
    """Ranks add up."""
    value = int(answer)
    if value == 2 * RANK:
        return right("Ranks add up; resize brings it down again, with a stated loss.")
    if value == RANK:
        return wrong(
            "you say that the rank stays 4.",
            why="a change of rank 4 can be any four directions; two adapters have four each, and hardly share them.",
            hint="look at the shape of your stacked down.",
        )
    if value == RANK**2:
        return wrong(
            "you multiply the ranks.",
            why="the changes are added, not multiplied.",
            hint="look at the shape of your stacked down.",
        )
    return wrong(
        f"{value} is not it.",
        why="the stacked down has a row for each direction of both.",
        hint="count the rows of two downs of rank 4.",
    )


def agreement(answer: Any) -> Grade:
    """Cosine."""
    generator = torch.Generator().manual_seed(5)
    first, second = _normal(generator, 2, 3, 4), _normal(generator, 2, 3, 4)
    second = second - 0.8 * first
    given = answer(first, second)
    if given is None:
        return wrong(
            "your function returns nothing.", why="it still has its placeholder.", hint="fill in the TODO."
        )
    if not isinstance(given, float) and getattr(given, "numel", lambda: 1)() != 1:
        return wrong(
            f"your function returns {tuple(given.shape)} numbers.",
            why="the agreement of the whole moves is one number.",
            hint="sum over all dimensions, or flatten both first.",
        )
    value, dot = float(given), float((first * second).sum())
    true = dot / float(first.norm() * second.norm())
    if near(value, true):
        return right("Near 1 they push together, near −1 they undo each other.")
    if near(value, dot):
        return wrong(
            f"you get {value:.2f}, which is no cosine.",
            why="a dot product grows with the size of the moves.",
            hint="divide by both norms.",
        )
    if near(value, abs(true)):
        return wrong(
            "you lose the sign.",
            why="against each other is not the same as together.",
            hint="take no absolute value.",
        )
    if near(value, dot / float(first.norm() ** 2)) or near(value, dot / float(second.norm() ** 2)):
        return wrong(
            "you divide by one of the two moves alone.",
            why="that says how much of one is in the other, and is not the same from both sides.",
            hint="divide by the product of both norms.",
        )
    return wrong(
        f"you get {value:.3f}, {true:.3f} was expected.",
        why="a cosine is the dot product over the product of both norms.",
        hint="(move1 * move2).sum() / (move1.norm() * move2.norm())",
    )


def louder(answer: Mapping[str, Any]) -> Grade:
    """Pairs that move more than the stronger adapter alone."""
    moved = {tuple(map(float, pair)): value for pair, value in answer["moved"].items()}
    given = answer["pairs"]
    if given is None:
        return wrong(
            "there is no list yet.", why="it may be empty, but it has to be there.", hint="fill in the TODO."
        )
    alone = (moved[1.0, 0.0], moved[0.0, 1.0])
    pairs = [pair for pair in moved if all(pair)]
    true = {pair for pair in pairs if moved[pair] > max(alone)}
    mine = {tuple(map(float, pair)) for pair in given}
    if mine == true:
        names = ", ".join(f"({a:g}, {b:g})" for a, b in sorted(true)) or "none"
        return right(f"Louder than the stronger one alone: {names}.")
    if mine - set(pairs):
        return wrong(
            f"{sorted(mine - set(pairs))} has not both adapters in it.",
            why="the question is what they do together.",
            hint="choose among the pairs without a zero.",
        )
    if min(alone) != max(alone) and mine == {pair for pair in pairs if moved[pair] > min(alone)}:
        return wrong(
            "you compare with the weaker adapter.",
            why="the stronger one alone moves the pictures more than that already.",
            hint="take the larger of moved[1, 0] and moved[0, 1].",
        )
    if mine == {pair for pair in pairs if moved[pair] > sum(alone)}:
        return wrong(
            "you compare with the sum of both.",
            why="in pixels moves hardly ever add up; the question is whether both are louder than one.",
            hint="take the larger of moved[1, 0] and moved[0, 1].",
        )
    off = sorted(mine ^ true)[0]
    return wrong(
        f"({off[0]:g}, {off[1]:g}) moves the pictures by {moved[off]:.1f}, the stronger adapter alone by "
        f"{max(alone):.1f}.",
        why="a pair is louder where its figure is the larger one.",
        hint="compare moved[pair] with the larger of moved[1, 0] and moved[0, 1].",
    )


PLACES = ("at 1 and 1", "lower weights", "the prediction")


def seen(answer: Mapping[str, str]) -> Grade:
    """Three observations, in the learner's own words."""
    missing = [place for place in PLACES if not str(answer.get(place) or "").strip()]
    if missing:
        return wrong(
            f"nothing is written about: {', '.join(missing)}.",
            why="what is not written down is remembered as one expected it.",
            hint="a sentence of what you see in the grid is enough.",
        )
    short = [place for place in PLACES if len(str(answer[place]).split()) < 4]
    if short:
        return wrong(
            f"a word or two about: {', '.join(short)}.",
            why="in a week you would not know what it meant.",
            hint="say what is to be seen, in a sentence.",
        )
    if len({str(answer[place]).strip() for place in PLACES}) < len(PLACES):
        return wrong(
            "two of your sentences are the same.",
            why="the three questions are different ones.",
            hint="look at another column of the grid.",
        )
    return right("Written down. Compare it with what you predicted.")


TASKS: Mapping[str, Grader] = {
    "stack_factors": stack_factors,
    "rank_of_sum": rank_of_sum,
    "agreement": agreement,
    "louder": louder,
    "seen": seen,
}
