"""Grades of lab 6, attach."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from detour.adapters.arithmetic import lora_parameters
from detour.adapters.blocks import block_of
from detour.adapters.layers import lora_delta
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.labs.grading import Grade, Grader, near, right, wrong

SIDES = ("down", "mid", "up")
SD15_SIZES = frozenset({64, 32, 16, 8})


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
    layers = adaptable_layers(open_base(str(answer["base"])).meta_network())

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
    """alpha / rank."""
    found = float(answer(8, 4.0))
    if near(found, 0.5):
        return right()
    told = {
        2.0: ("that is rank / alpha.", "alpha is the numerator: twice the alpha is twice as loud."),
        32.0: (
            "that is the product.",
            "the rank divides, so that the sum of many directions does not shout.",
        ),
        4.0: ("the rank is missing.", "plain LoRA divides by it."),
        4.0 / 8.0**0.5: (
            "that is rank-stabilised LoRA's scale.",
            "plain LoRA divides by the rank, not by its root.",
        ),
    }
    for value, (what, why) in told.items():
        if near(found, value):
            return wrong(what, why=why, hint="at alpha = rank the scale is 1; so it is here when alpha is 8.")
    return wrong(
        f"rank 8 and alpha 4 give {found:g}.",
        why="the adapter's output is multiplied by alpha / rank.",
        hint="at alpha = rank the scale is 1.",
    )


def delta_w(answer: Callable[..., Tensor]) -> Grade:
    """The dense change of a layer that is wider on one side."""
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, 5, generator=generator), torch.randn(3, 2, generator=generator)
    found = answer(down, up, 8.0)
    if not isinstance(found, Tensor) or found.shape != (3, 5):
        what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        return wrong(
            f"it gives {what} for a layer of 5 → 3; its weight is (3, 5).",
            why="the change is added to the weight, so it has the weight's shape, (out, in).",
            hint="up @ down: (out, rank) times (rank, in).",
        )
    if torch.allclose(found, lora_delta(down, up, alpha=8.0), atol=1e-5):
        return right("Added to W, this is what `detour merge` writes.")
    if torch.allclose(found, up @ down, atol=1e-5):
        return wrong(
            "the scale is missing.",
            why="the factors were trained with alpha / rank in front of them.",
            hint="multiply by scale(rank, alpha).",
        )
    for rank, name in ((5, "the input's width"), (3, "the output's width")):
        if torch.allclose(found, 8.0 / rank * (up @ down), atol=1e-5):
            return wrong(
                f"it divides by {name}.",
                why="the rank is how many directions the factors share.",
                hint="down has the shape (rank, in).",
            )
    return wrong(
        "the numbers are others.",
        why="the change is scale · up @ down, nothing else.",
        hint="only one matrix product, and one number in front of it.",
    )


def lost_alpha(answer: Callable[..., float]) -> Grade:
    """|rank / alpha − 1|."""
    found = [float(answer(rank, alpha)) for rank, alpha in ((4, 16.0), (4, 1.0), (4, 4.0))]
    if all(near(one, value) for one, value in zip(found, (0.75, 3.0, 0.0), strict=True)):
        return right("Lost at alpha 1 and rank 4 the error is three times the adapter's whole effect.")
    if near(found[0], 3.0) and near(found[1], 0.75):
        return wrong(
            "that is the error over what was read, not over what was meant.",
            why="the measure is how much of the adapter is wrong: the true change is the denominator.",
            hint="divide by scale(rank, alpha).",
        )
    if not near(found[2], 0.0):
        return wrong(
            f"at alpha = rank it gives {found[2]:g}.",
            why="a reader that takes alpha = rank is right there, and the error is 0.",
            hint="a difference of two scales: the one that is read is 1.",
        )
    if found[0] < 0 or found[1] < 0:
        return wrong(
            "an error is negative.",
            why="too loud and too soft are both wrong: the size of the difference counts.",
            hint="abs(…) of the difference.",
        )
    return wrong(
        f"rank 4 and alpha 16 give {found[0]:g}.",
        why="the same factors are used with scale 1 instead of alpha / rank.",
        hint="|1 − scale| / scale.",
    )


TASKS: Mapping[str, Grader] = {
    "by_side": by_side,
    "sizes": sizes,
    "share": share,
    "scale": scale,
    "delta_w": delta_w,
    "lost_alpha": lost_alpha,
}
