"""Grades of lab 6, attach."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from detour.adapters.arithmetic import lora_parameters
from detour.adapters.blocks import block_of
from detour.adapters.layers import lora_delta
from detour.adapters.targets import AdaptableLayer, adaptable_layers, select
from detour.bases.base import open_base
from detour.labs.comparing import Mistake, compare
from detour.labs.grading import Grade, Grader, near, right, wrong

SIDES = ("down", "mid", "up")
SD15_SIZES = frozenset({64, 32, 16, 8})


@cache
def _layers(base: str) -> tuple[AdaptableLayer, ...]:
    return tuple(adaptable_layers(open_base(base, weights=False).meta_network()))


def by_side(answer: Mapping[str, Any]) -> Grade:
    """Adapter parameters beside all attention layers, by side of the UNet."""
    rank, found = int(answer["rank"]), answer["by_side"]
    missing = [side for side in SIDES if found.get(side) is None]
    if missing:
        return wrong(
            f"{', '.join(missing)} has no value yet.",
            why="all three sides have attention.",
            hint="block_of gives names such as down.0, mid and up.1; the side is what stands before the dot.",
        )
    layers = _layers(str(answer["base"]))

    def counts(targets: str, rank: int) -> dict[str, int]:
        sums = dict.fromkeys(SIDES, 0)
        for layer in select(layers, targets):
            sums[block_of(f"unet.{layer.path}").partition(".")[0]] += lora_parameters(layer, rank)
        return sums

    expected = counts("attn", rank)
    if all(int(found[side]) == expected[side] for side in SIDES):
        return right("What is wide and comes often holds the most.")
    if all(int(found[side]) == expected[side] // rank for side in SIDES):
        return wrong(
            "these are the counts at rank 1.",
            why=f"each of the {rank} directions of a layer has in + out numbers.",
            hint="lora_parameters(layer, RANK).",
        )
    if dict(found) == counts("cross-attn", rank):
        return wrong(
            "these are the cross-attention layers alone.",
            why="'attn' is self-attention (attn1) too.",
            hint="count every layer of the list.",
        )
    if int(found["down"]) == expected["up"] and int(found["up"]) == expected["down"]:
        return wrong(
            "down and up are exchanged.",
            why="the side is the beginning of the layer's path, not the name of a factor.",
            hint="down_blocks belong to down.",
        )
    odd = next(side for side in SIDES if int(found[side]) != expected[side])
    if all(int(found[side]) == sum(block_of(f"unet.{one.path}").startswith(side) for one in select(layers, "attn"))
           for side in SIDES):  # fmt: skip
        return wrong(
            "these are numbers of layers.",
            why="a wide layer's adapter is larger than a narrow one's.",
            hint="sum lora_parameters over the layers.",
        )
    return wrong(
        f"{odd} has {int(found[odd]):,}, which is not the sum over its layers.",
        why="every attention layer of the side counts, with rank · (in + out).",
        hint="go through `layers`, find the side from block_of, and add lora_parameters.",
    )


def sizes(answer: Any) -> Grade:
    """Sizes of latents at which SD 1.5 has cross-attention."""
    found = {int(size) for size in answer}
    if found == SD15_SIZES:
        return right("At every size that it works on: the claim does not hold.")
    if found == {16, 32}:
        return wrong(
            "16 and 32 are what is copied, not what the settings say.",
            why="down.0 and up.3 have attn2 layers and see latents of 64; so has mid, at 8.",
            hint="go through the printed blocks one by one.",
        )
    if found == SD15_SIZES - {8}:
        return wrong(
            "the middle is missing.",
            why="mid is a block too, and has one transformer with cross-attention.",
            hint="after three halvings the latents are 8 wide.",
        )
    extra = sorted(found - SD15_SIZES)
    if extra:
        return wrong(
            f"no level of SD 1.5 is {extra[0]} wide.",
            why="latents are an eighth of the picture: 512 px gives 64, then each level halves.",
            hint="64, then half of it, and so on.",
        )
    return wrong(
        f"{', '.join(map(str, sorted(SD15_SIZES - found, reverse=True)))} is missing.",
        why="each printed block has cross-attention at the size of its level.",
        hint="down.0 sees 64, down.1 half of that; up.1 sees 16, up.3 sees 64.",
    )


def share(answer: Mapping[str, Any]) -> Grade:
    """Trainable parameters over all of the adapted UNet."""
    counts = [(p.numel(), p.requires_grad) for p in answer["unet"].parameters()]
    trainable = sum(number for number, grad in counts if grad)
    total = sum(number for number, _ in counts)
    found = float(answer["share"])
    if near(found, trainable / total, relative=1e-6):
        return right(f"{trainable:,} of {total:,}.")
    if near(found, trainable / (total - trainable), relative=1e-6):
        return wrong(
            "that is the adapter over the base alone.",
            why="a share is of the whole, and the adapter is a part of it now.",
            hint="divide by all of unet.parameters().",
        )
    if near(found, 100 * trainable / total, relative=1e-6):
        return wrong(
            "that is the share in percent.",
            why="the task asks for a number between 0 and 1.",
            hint="leave the 100 out.",
        )
    if near(found, sum(grad for _, grad in counts) / len(counts), relative=1e-6):
        return wrong(
            "that is a share of tensors.",
            why="an adapter has many small tensors; what matters is how many numbers they hold.",
            hint="sum numel().",
        )
    return wrong(
        f"{found:g} is not trainable over all.",
        why="requires_grad tells the adapter's parameters from the frozen ones.",
        hint="two sums of numel() over unet.parameters(), one of them with a condition.",
    )


def scale(answer: Callable[..., float]) -> Grade:
    """alpha / rank, above, below and at 1."""
    return compare(
        answer,
        lambda rank, alpha: alpha / rank,
        [(8, 4.0), (4, 16.0), (4, 4.0), (1, 1.0), (16, 1.0), (64, 8), (2, 0.5)],
        [
            Mistake(
                formula=lambda rank, alpha: rank / alpha,
                what="that is rank / alpha.",
                why="alpha is the numerator: twice the alpha is twice as loud.",
                hint="turn the fraction round.",
            ),
            Mistake(
                formula=lambda rank, alpha: rank * alpha,
                what="that is the product.",
                why="the rank divides, so that the sum of many directions does not shout.",
                hint="at alpha = rank the scale is 1.",
            ),
            Mistake(
                formula=lambda rank, alpha: alpha,
                what="the rank is missing.",
                why="plain LoRA divides by it.",
                hint="at alpha = rank the scale is 1.",
            ),
            Mistake(
                formula=lambda rank, alpha: alpha / rank**0.5,
                what="that is rank-stabilised LoRA's scale.",
                why="plain LoRA divides by the rank, not by its root.",
                hint="at alpha = rank the scale is 1.",
            ),
            Mistake(
                formula=lambda rank, alpha: alpha // rank,
                what="whatever lies behind the point is cut off.",
                why="a scale of 0.5 becomes 0 like this, and the adapter falls silent.",
                hint="/ in place of //.",
            ),
            Mistake(
                formula=lambda rank, alpha: 1.0,
                what="your scale is 1 whatever rank and alpha are.",
                why="that is so only where they are equal: rank 8 and alpha 4 give 0.5.",
                hint="use both arguments.",
            ),
            Mistake(
                formula=lambda rank, alpha: 1 / rank,
                what="alpha is missing.",
                why="it is how loud the whole adapter speaks.",
                hint="alpha is the numerator.",
            ),
        ],
        why="the adapter's output is multiplied by alpha / rank.",
        hint="at alpha = rank the scale is 1.",
    )


def delta_w(answer: Callable[..., Tensor]) -> Grade:
    """The dense change of layers that are wider on either side, and of a square one."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for rank, n_in, n_out, alpha in ((2, 5, 3, 8.0), (1, 4, 4, 0.5), (4, 3, 6, 4.0), (3, 3, 3, 1.0)):
        down, up = torch.randn(rank, n_in, generator=generator), torch.randn(n_out, rank, generator=generator)
        cases.append((down, up, alpha))
    return compare(
        answer,
        lambda down, up, alpha: lora_delta(down, up, alpha=alpha),
        cases,
        [
            Mistake(
                formula=lambda down, up, alpha: up @ down,
                what="the scale is missing.",
                why="the factors were trained with alpha / rank in front of them.",
                hint="multiply by scale(rank, alpha).",
            ),
            Mistake(
                formula=lambda down, up, alpha: alpha * (up @ down),
                what="the rank is missing from the scale.",
                why="the factors were trained with alpha / rank in front of them.",
                hint="multiply by scale(rank, alpha).",
            ),
            Mistake(
                formula=lambda down, up, alpha: alpha / down.shape[1] * (up @ down),
                what="it divides by the input's width.",
                why="the rank is how many directions the factors share.",
                hint="down has the shape (rank, in).",
            ),
            Mistake(
                formula=lambda down, up, alpha: alpha / up.shape[0] * (up @ down),
                what="it divides by the output's width.",
                why="the rank is how many directions the factors share.",
                hint="down has the shape (rank, in).",
            ),
            Mistake(
                formula=lambda down, up, alpha: len(down) / alpha * (up @ down),
                what="the scale is upside down.",
                why="alpha is the numerator: twice the alpha is twice as loud.",
                hint="alpha / rank.",
            ),
            Mistake(
                formula=lambda down, up, alpha: lora_delta(down, up, alpha=alpha).T,
                what="it gives the transpose: (in, out).",
                why="the change is added to the weight, so it has the weight's shape, (out, in).",
                hint="up @ down: (out, rank) times (rank, in).",
            ),
            Mistake(
                formula=lambda down, up, alpha: (up @ down).T,
                what="it gives the transpose, (in, out), and the scale is missing.",
                why="the change is added to the weight, so it has the weight's shape, (out, in).",
                hint="scale(rank, alpha) times up @ down: (out, rank) times (rank, in).",
            ),
            Mistake(
                formula=lambda down, up, alpha: -lora_delta(down, up, alpha=alpha),
                what="the change has the other sign.",
                why="it is added to the weight; a negative one leads away from what was learned.",
                hint="drop the minus.",
            ),
        ],
        why="the change is scale · up @ down, nothing else, and has the weight's shape (out, in).",
        hint="only one matrix product, and one number in front of it.",
        praise="Added to W, this is what `detour merge` writes.",
    )


def lost_alpha(answer: Callable[..., float]) -> Grade:
    """|rank / alpha − 1|, too loud, too soft and equal."""
    return compare(
        answer,
        lambda rank, alpha: abs(rank / alpha - 1),
        [(4, 16.0), (4, 1.0), (4, 4.0), (8, 1.0), (16, 32.0), (1, 0.5)],
        [
            Mistake(
                formula=lambda rank, alpha: abs(alpha / rank - 1),
                what="that is the error over what was read, not over what was meant.",
                why="the measure is how much of the adapter is wrong: the true change is the denominator.",
                hint="divide by scale(rank, alpha).",
            ),
            Mistake(
                formula=lambda rank, alpha: rank / alpha,
                what="that is how loud the adapter is as it is read, over how loud it was meant.",
                why="a reader that takes alpha = rank is right at alpha = rank, and the error is 0 there.",
                hint="a difference of two scales: the one that is read is 1.",
            ),
            Mistake(
                formula=lambda rank, alpha: rank / alpha - 1,
                what="an error is negative.",
                why="too loud and too soft are both wrong: the size of the difference counts.",
                hint="abs(…) of the difference.",
            ),
            Mistake(
                formula=lambda rank, alpha: 1 - rank / alpha,
                what="an error is negative.",
                why="too loud and too soft are both wrong: the size of the difference counts.",
                hint="abs(…) of the difference.",
            ),
            Mistake(
                formula=lambda rank, alpha: abs(rank - alpha),
                what="that is the difference of rank and alpha.",
                why="rank 4 and alpha 16 are as wrong as 8 and 32: what counts is their ratio.",
                hint="compare scales: scale(rank, alpha), and 1.",
            ),
            Mistake(
                formula=lambda rank, alpha: 100 * abs(rank / alpha - 1),
                what="your error is in per cent.",
                why="a share was asked for: 1 is as if the adapter had not been there.",
                hint="leave the 100 out.",
            ),
            Mistake(
                formula=lambda rank, alpha: min(1.0, abs(rank / alpha - 1)),
                what="you cut the error off at 1.",
                why="lost at alpha 1 and rank 4, the adapter is four times too loud: worse than no adapter.",
                hint="let the error be larger than 1.",
            ),
        ],
        why="the same factors are used with scale 1 instead of alpha / rank.",
        hint="|1 − scale| / scale.",
        praise="Lost at alpha 1 and rank 4 the error is three times the adapter's whole effect.",
    )


TASKS: Mapping[str, Grader] = {
    "by_side": by_side,
    "sizes": sizes,
    "share": share,
    "scale": scale,
    "delta_w": delta_w,
    "lost_alpha": lost_alpha,
}
