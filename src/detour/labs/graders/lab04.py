"""Grades of lab 4, compose."""

from collections.abc import Mapping
from typing import Any

import torch

from detour.labs.comparing import Mistake, compare
from detour.labs.grading import Grade, Grader, right, wrong

RANK = 4


def _normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _stacked(
    down1: torch.Tensor,
    up1: torch.Tensor,
    scale1: float,
    down2: torch.Tensor,
    up2: torch.Tensor,
    scale2: float,
) -> torch.Tensor:
    return scale1 * up1 @ down1 + scale2 * up2 @ down2


def stack_factors(answer: Any) -> Grade:
    """Factors beside each other, each scale once; any order and any split of the scale between the two factors."""
    generator = torch.Generator().manual_seed(4)
    cases = []
    for rank1, rank2, n_in, n_out, scale1, scale2 in (
        (2, 3, 5, 4, 0.8, 0.3),
        (4, 4, 6, 6, 1.0, -0.5),
        (1, 2, 3, 7, 2, 0),
    ):
        shapes = ((rank1, n_in), (n_out, rank1), (rank2, n_in), (n_out, rank2))
        down1, up1, down2, up2 = (_normal(generator, *shape) for shape in shapes)
        cases.append((down1, up1, scale1, down2, up2, scale2))

    def product(*given: Any) -> Any:
        factors = answer(*given)
        if factors is None or isinstance(factors, torch.Tensor) or len(factors) != 2:
            return factors
        down, up = factors
        if down is None or up is None:
            return None
        ranks, (n_out, n_in) = len(given[0]) + len(given[3]), (len(given[1]), given[0].shape[1])
        rank = len(down)
        if down.shape != (rank, n_in) or up.shape != (n_out, rank) or rank > ranks:
            raise ShapesAreOff(
                f"down is {tuple(down.shape)} and up {tuple(up.shape)}; of ranks {len(given[0])} and {len(given[3])} "
                f"they should be {(ranks, n_in)} and {(n_out, ranks)}"
            )
        return up @ down

    try:
        for given in cases:
            product(*given)
    except ShapesAreOff as error:
        return wrong(
            f"{error}.",
            why="down is (rank, in) and up (out, rank): the rank is down's first and up's second dimension.",
            hint="stack downs along dimension 0 and ups along dimension 1.",
        )
    except RuntimeError as error:
        return wrong(
            f"with ranks 2 and 3 your function stops: {error}",
            why="the two adapters may have different ranks, so their factors cannot be added number by number.",
            hint="put them beside each other with torch.cat, along the rank.",
        )
    return compare(
        product,
        _stacked,
        cases,
        [
            Mistake(
                formula=lambda d1, u1, s1, d2, u2, s2: _stacked(d1, u1, s1**2, d2, u2, s2**2),
                what="each scale is in there twice.",
                why="you scaled both factors, and the product has both: 0.3 becomes 0.09.",
                hint="scale one of the two factors only.",
            ),
            Mistake(
                formula=lambda d1, u1, s1, d2, u2, s2: _stacked(d1, u1, 1, d2, u2, 1),
                what="the scales are not used.",
                why="weight and alpha / rank are part of what the adapter does.",
                hint="multiply one of the factors by its scale.",
            ),
            Mistake(
                formula=lambda d1, u1, s1, d2, u2, s2: _stacked(d1, u1, s2, d2, u2, s1),
                what="the two scales are exchanged.",
                why="the first adapter gets the second one's loudness.",
                hint="scale1 belongs to down1 and up1.",
            ),
            Mistake(
                formula=lambda d1, u1, s1, d2, u2, s2: _stacked(d1, u1, s1, d2, u2, 1),
                what="the second scale is missing.",
                why="weight and alpha / rank are part of what each adapter does.",
                hint="multiply one of the second adapter's factors by scale2.",
            ),
            Mistake(
                formula=lambda d1, u1, s1, d2, u2, s2: _stacked(d1, u1, 1, d2, u2, s2),
                what="the first scale is missing.",
                why="weight and alpha / rank are part of what each adapter does.",
                hint="multiply one of the first adapter's factors by scale1.",
            ),
            Mistake(
                formula=lambda d1, u1, s1, d2, u2, s2: _stacked(d1, u1, s1, d2, u2, -s2),
                what="the second adapter is subtracted.",
                why="the sum was asked for; weights may be negative by themselves.",
                hint="drop the minus.",
            ),
            Mistake(
                formula=lambda d1, u1, s1, d2, u2, s2: torch.cat([s2 * u2, s1 * u1], 1) @ torch.cat([d1, d2]),
                what="the downs stand in one order and the ups in the other.",
                why="each down must meet its own up in the product.",
                hint="keep the order: first then second in both stacks.",
            ),
            Mistake(
                formula=lambda d1, u1, s1, d2, u2, s2: torch.cat([u2, u1], 1) @ torch.cat([s1 * d1, s2 * d2]),
                what="the downs stand in one order and the ups in the other.",
                why="each down must meet its own up in the product.",
                hint="keep the order: first then second in both stacks.",
            ),
        ],
        why="each down must meet its own up in the product, and each scale must be in it once.",
        hint="multiply your up by your down, and compare with scale1 * up1 @ down1 alone by setting scale2 to 0.",
        praise="This is what detour compose writes: the sum, exactly.",
    )


class ShapesAreOff(Exception):
    """The learner's factors do not fit the layer."""


def rank_of_sum(answer: Any) -> Grade:
    """Ranks add up."""
    value = float(answer)
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
        f"{value:g} is not it.",
        why="the stacked down has a row for each direction of both.",
        hint="count the rows of two downs of rank 4.",
    )


def agreement(answer: Any) -> Grade:
    """Cosine of moves of several shapes, sizes and angles, of opposite ones and of equal ones."""
    generator = torch.Generator().manual_seed(5)
    cases = []
    for shape, mixed, size in (
        ((2, 3, 4), -0.8, 1.0),
        ((1, 4, 4, 4), 0.6, 3.0),
        ((5,), 0.0, 0.1),
        ((2, 2), -0.3, 20.0),
    ):
        first, other = _normal(generator, *shape), _normal(generator, *shape)
        cases.append((first, size * (other + mixed * first)))
    same = _normal(generator, 2, 3)
    cases += [(same, 2 * same), (same, -0.5 * same)]

    def dot(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return (first * second).sum()

    return compare(
        answer,
        lambda first, second: dot(first, second) / (first.norm() * second.norm()),
        cases,
        [
            Mistake(
                formula=dot,
                what="you give the dot product, which is no cosine.",
                why="a dot product grows with the size of the moves.",
                hint="divide by both norms.",
            ),
            Mistake(
                formula=lambda first, second: (dot(first, second) / (first.norm() * second.norm())).abs(),
                what="you lose the sign.",
                why="against each other is not the same as together.",
                hint="take no absolute value.",
            ),
            Mistake(
                formula=lambda first, second: (dot(first, second) / (first.norm() * second.norm())).clamp(
                    min=0
                ),
                what="you cut off what is negative.",
                why="against each other is not the same as unrelated.",
                hint="let the cosine be negative.",
            ),
            Mistake(
                formula=lambda first, second: -dot(first, second) / (first.norm() * second.norm()),
                what="your cosine has the other sign.",
                why="1 was to mean the same direction.",
                hint="drop the minus.",
            ),
            Mistake(
                formula=lambda first, second: dot(first, second) / first.norm() ** 2,
                what="you divide by one of the two moves alone, the first.",
                why="that says how much of one is in the other, and is not the same from both sides.",
                hint="divide by the product of both norms.",
            ),
            Mistake(
                formula=lambda first, second: dot(first, second) / second.norm() ** 2,
                what="you divide by one of the two moves alone, the second.",
                why="that says how much of one is in the other, and is not the same from both sides.",
                hint="divide by the product of both norms.",
            ),
            Mistake(
                formula=lambda first, second: dot(first, second) / (first.norm() * second.norm()) ** 2,
                what="you divide by the squares of the norms.",
                why="the dot product grows with each norm once.",
                hint="divide by the product of both norms, not of their squares.",
            ),
            Mistake(
                formula=lambda first, second: torch.nn.functional.cosine_similarity(first, second, dim=-1),
                what="your function returns a cosine for every row.",
                why="the agreement of the whole moves is one number.",
                hint="sum over all dimensions, or flatten both first.",
            ),
            Mistake(
                formula=lambda first, second: torch.nn.functional.cosine_similarity(
                    first, second, dim=-1
                ).mean(),
                what="you take the mean of the cosines of the rows.",
                why="a row in which hardly anything moves then counts as much as one in which everything does.",
                hint="sum over all dimensions, or flatten both first.",
            ),
        ],
        why="a cosine is the dot product over the product of both norms.",
        hint="(move1 * move2).sum() / (move1.norm() * move2.norm())",
        praise="Near 1 they push together, near −1 they undo each other.",
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
    if mine and mine == {pair for pair in pairs if moved[pair] > sum(alone)}:
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
