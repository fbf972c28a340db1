"""Grades of lab 18, the same on a flow model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detour.diffusion.process import shifted as true_shifted
from detour.labs.comparing import Mistake, compare, same_pictures
from detour.labs.grading import Grade, Grader, right, wrong
from detour.labs.hints import direction_of


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _mix(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    level = sigma.view(-1, 1, 1, 1)
    return (1 - level) * clean + level * noise


def flow_mix(answer: Any) -> Grade:
    """Several samples at their own levels, both ends, and non-square latents."""
    cases = [
        (_normal(3, 2, 4, 5, seed=1), _normal(3, 2, 4, 5, seed=2), torch.tensor([0.1, 0.5, 0.8])),
        (_normal(2, 4, 3, 3, seed=3), _normal(2, 4, 3, 3, seed=4), torch.tensor([0.0, 1.0])),
        (_normal(1, 3, 2, 6, seed=5), _normal(1, 3, 2, 6, seed=6), torch.tensor([0.3])),
    ]

    def by(share: Callable[[Tensor], Tensor], rest: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        def formula(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
            level = sigma.view(-1, 1, 1, 1)
            return share(level) * clean + rest(level) * noise

        return formula

    return compare(
        answer,
        _mix,
        cases,
        [
            Mistake(
                formula=lambda clean, noise, sigma: _mix(noise, clean, sigma),
                what="your line runs the other way: at σ = 0 there is noise alone.",
                why="σ is the share of the noise.",
                hint="(1 − σ) · clean + σ · noise.",
            ),
            Mistake(
                formula=by(lambda level: (1 - level).sqrt(), lambda level: level.sqrt()),
                what="you took lab 9's roots.",
                why="they keep the variance at 1; here the line is straight, and the shares themselves sum to one.",
                hint="no roots.",
            ),
            Mistake(
                formula=by(lambda level: (1 - level.square()).sqrt(), lambda level: level),
                what="you keep the variance at 1.",
                why="that is lab 9's process with another name for its time; a flow's line is straight.",
                hint="1 − σ for the clean latents.",
            ),
            Mistake(
                formula=by(torch.ones_like, lambda level: level),
                what="you add noise and keep the whole picture.",
                why="at σ = 1 nothing of the picture is left.",
                hint="1 − σ for the clean latents.",
            ),
            Mistake(
                formula=lambda clean, noise, sigma: _mix(clean, noise, sigma[:1].expand(len(sigma))),
                what="all samples get the first one's level.",
                why="every sample of a batch has a level of its own.",
                hint="sigma.view(-1, 1, 1, 1).",
            ),
            Mistake(
                formula=by(lambda level: level - 1, lambda level: level),
                what="the clean latents have the wrong sign.",
                why="at σ = 0 they come back as they were.",
                hint="1 − σ, not σ − 1.",
            ),
        ],
        why="the shares of clean latents and noise are 1 − σ and σ.",
        hint=direction_of(18, "flow_mix"),
        praise="A straight line. Half way it has half of the variance, so a flow's latents are quieter in the middle.",
    )


def flow_target(answer: Any) -> Grade:
    """Latents of two different shapes."""
    return compare(
        answer,
        lambda clean, noise: noise - clean,
        [
            (_normal(2, 3, 4, 4, seed=1), _normal(2, 3, 4, 4, seed=2)),
            (_normal(1, 4, 2, 5, seed=3), _normal(1, 4, 2, 5, seed=4)),
        ],
        [
            Mistake(
                formula=lambda clean, noise: clean - noise,
                what="your velocity points to the picture.",
                why="σ grows towards the noise, and the velocity is what changes when σ grows.",
                hint="noise − clean. (Drawing walks against it: its steps of σ are negative.)",
            ),
            Mistake(
                formula=lambda clean, noise: noise,
                what="that is the target of the bases of lab 9.",
                why="a flow is asked for the velocity along its line.",
                hint="the derivative of (1 − σ) · clean + σ · noise.",
            ),
            Mistake(
                formula=lambda clean, noise: clean,
                what="that is the picture.",
                why="a flow is asked for the velocity along its line.",
                hint="the derivative of (1 − σ) · clean + σ · noise.",
            ),
            Mistake(
                formula=lambda clean, noise: noise + clean,
                what="you add the picture.",
                why="its share is 1 − σ: it shrinks while σ grows.",
                hint="noise − clean.",
            ),
            Mistake(
                formula=lambda clean, noise: (noise - clean) / 2,
                what="you halve the velocity.",
                why="it is the change for a whole unit of σ, from picture to noise.",
                hint="noise − clean.",
            ),
        ],
        why="it is the derivative of (1 − σ) · clean + σ · noise by σ.",
        hint=direction_of(18, "flow_target"),
        praise="The same at every noise level: one target along the whole line.",
    )


def shifted(answer: Any) -> Grade:
    """Levels inside and at both ends, with shifts below, at and above 1."""
    cases = [(0.5, 3.0), (0.25, 3.0), (0.9, 1.5), (0.5, 1.0), (0.0, 3.0), (1.0, 3.0), (0.75, 0.5)]
    return compare(
        answer,
        lambda sigma, shift: true_shifted(sigma, shift),
        cases,
        [
            Mistake(
                formula=lambda sigma, shift: min(1.0, shift * sigma),
                what="you multiply and cut.",
                why="then a third of the schedule would be pure noise; the formula bends instead of cutting.",
                hint="divide by 1 + (shift − 1) · σ.",
            ),
            Mistake(
                formula=lambda sigma, shift: shift * sigma,
                what="the division is missing.",
                why="a level above 1 does not exist: 1 has to stay 1.",
                hint="divide by 1 + (shift − 1) · σ.",
            ),
            Mistake(
                formula=lambda sigma, shift: true_shifted(sigma, 1 / shift),
                what="you move the levels towards the picture.",
                why="that is the shift's inverse.",
                hint="shift stands in the numerator.",
            ),
            Mistake(
                formula=lambda sigma, shift: shift * sigma / (1 + shift * sigma),
                what="you left out the − 1.",
                why="with a shift of 1 nothing may move.",
                hint="1 + (shift − 1) · σ.",
            ),
            Mistake(
                formula=lambda sigma, shift: sigma / (1 + (shift - 1) * sigma),
                what="the factor in the numerator is missing.",
                why="1 has to stay 1.",
                hint="shift · σ in the numerator.",
            ),
            Mistake(
                formula=lambda sigma, shift: shift * sigma / 1 + (shift - 1) * sigma,
                what="brackets are missing.",
                why="the sum stands below the line.",
                hint="… / (1 + (shift - 1) * sigma).",
            ),
        ],
        why="s σ / (1 + (s − 1) σ): 0 and 1 stay, a shift of 1 changes nothing.",
        hint=direction_of(18, "shifted"),
        praise="The same formula moves training's levels and drawing's.",
    )


def euler_step(answer: Any) -> Grade:
    """Long and short steps, to the end, with levels as numbers."""
    cases = [
        (_normal(1, 2, 3, 3, seed=1), _normal(1, 2, 3, 3, seed=2), 1.0, 0.75),
        (_normal(2, 1, 2, 4, seed=3), _normal(2, 1, 2, 4, seed=4), 0.6, 0.2),
        (_normal(1, 4, 2, 2, seed=5), _normal(1, 4, 2, 2, seed=6), 0.3, 0.0),
    ]
    return compare(
        answer,
        lambda noisy, velocity, sigma, sigma_next: noisy + (sigma_next - sigma) * velocity,
        cases,
        [
            Mistake(
                formula=lambda noisy, velocity, sigma, sigma_next: noisy + (sigma - sigma_next) * velocity,
                what="your step leads towards more noise.",
                why="the velocity points from the picture to the noise; drawing walks against it.",
                hint="sigma_next − sigma, which is negative.",
            ),
            Mistake(
                formula=lambda noisy, velocity, sigma, sigma_next: noisy - sigma * velocity,
                what="you go all the way to the picture at once.",
                why="that is the guess of the clean latents; a step ends at the next level.",
                hint="only as far as the levels are apart.",
            ),
            Mistake(
                formula=lambda noisy, velocity, sigma, sigma_next: noisy - sigma_next * velocity,
                what="you move by the next level itself.",
                why="what counts is how far the two levels are apart.",
                hint="sigma_next − sigma.",
            ),
            Mistake(
                formula=lambda noisy, velocity, sigma, sigma_next: noisy - velocity,
                what="you take the whole velocity.",
                why="that is the way from noise to picture in one step.",
                hint="times sigma_next − sigma.",
            ),
            Mistake(
                formula=lambda noisy, velocity, sigma, sigma_next: (sigma_next - sigma) * velocity,
                what="you return the step and not where it leads.",
                why="the latents at the next level are asked for.",
                hint="add it to noisy.",
            ),
            Mistake(
                formula=lambda noisy, velocity, sigma, sigma_next: (
                    noisy + (sigma_next - sigma) * (velocity - noisy)
                ),
                what="you treat the answer as a place, not as a velocity.",
                why="a velocity is a difference already.",
                hint="times velocity alone.",
            ),
        ],
        why="a step along the velocity, as long as the two levels are apart.",
        hint=direction_of(18, "euler_step"),
        praise="That is all of Euler's sampler: no ᾱ, no root, nothing to rescale.",
    )


def same_as_engine(answer: Mapping[str, Any]) -> Grade:
    """The learner's walk against the engine's."""
    return same_pictures(
        answer,
        "the engine's",
        praise="The same levels, the same steps, the same picture.",
        why="the levels are the engine's own, so one of your pieces must be off.",
        hint=direction_of(18, "same_as_engine"),
    )


PATHS = tuple(
    f"transformer_blocks.{block}.{layer}"
    for block, layer in (
        (0, "attn.to_q"), (0, "attn.to_k"), (1, "attn.to_v"), (2, "attn.to_out.0"), (0, "attn.add_q_proj"),
        (1, "attn.add_k_proj"), (11, "attn.add_v_proj"), (3, "attn.to_add_out"), (5, "attn2.to_q"),
        (5, "attn2.to_out.0"),
    )
)  # fmt: skip


def text_side(answer: Any) -> Grade:
    """The eight names of attention, and those of SD 3.5's second attention, which reads the picture."""

    def of_text(path: str) -> bool:
        return path.endswith(("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"))

    return compare(
        answer,
        of_text,
        [(path,) for path in PATHS],
        [
            Mistake(
                formula=lambda path: "attn2" in path,
                what="you look for cross-attention.",
                why="a UNet reads the text in attn2; here attn2, where it exists, reads the picture alone.",
                hint="the text's names: add_q_proj, add_k_proj, add_v_proj, to_add_out.",
            ),
            Mistake(
                formula=lambda path: path.endswith(("to_k", "to_v")),
                what="you name keys and values of the picture.",
                why="in a UNet's cross-attention those read the text; here each side has its own.",
                hint="the names with add in them.",
            ),
            Mistake(
                formula=lambda path: path.endswith("_proj"),
                what="to_add_out is missing.",
                why="it is what the text's answer goes through.",
                hint="add_ is in all four names.",
            ),
            Mistake(
                formula=lambda path: path.endswith(("add_k_proj", "add_v_proj")),
                what="you name keys and values of the text alone.",
                why="the text asks, too, and has an output of its own: all four are its side.",
                hint="add_ is in all four names.",
            ),
            Mistake(
                formula=lambda path: not of_text(path),
                what="those are the picture's.",
                why="True was to mean the text's side.",
                hint="drop the not.",
            ),
        ],
        why="four names of each block belong to the text: they have add in them.",
        hint=direction_of(18, "text_side"),
        praise="A recipe that names attn2 finds nothing here, and one that names to_k trains the picture's side alone.",
    )


@dataclass(frozen=True)
class _Layer:
    path: str
    in_features: int
    out_features: int


def adapter_parameters(answer: Any) -> Grade:
    """Square and oblong layers, several ranks, and none at all."""

    def layers(*shapes: tuple[int, int]) -> list[_Layer]:
        return [_Layer(f"layer{index}", *shape) for index, shape in enumerate(shapes)]

    def total(count: Callable[[_Layer, int], float]) -> Callable[..., float]:
        return lambda layers, rank: sum(count(layer, rank) for layer in layers)

    return compare(
        answer,
        total(lambda layer, rank: rank * (layer.in_features + layer.out_features)),
        [
            (layers((8, 8), (8, 8)), 4),
            (layers((5, 7), (3, 11), (2, 2)), 3),
            (layers((16, 4)), 1),
            (layers(), 4),
        ],
        [
            Mistake(
                formula=total(lambda layer, rank: layer.in_features * layer.out_features),
                what="you count the layers themselves.",
                why="they stay frozen; the adapter is two thin matrices beside each.",
                hint="rank · in and out · rank.",
            ),
            Mistake(
                formula=total(lambda layer, rank: rank * layer.in_features * layer.out_features),
                what="you multiply the two sides.",
                why="the product of the matrices has that size, but it is never stored.",
                hint="rank · (in + out).",
            ),
            Mistake(
                formula=total(lambda layer, rank: rank * layer.in_features),
                what="up is missing.",
                why="an adapter has two matrices: down and up.",
                hint="rank · in and out · rank.",
            ),
            Mistake(
                formula=total(lambda layer, rank: rank * layer.out_features),
                what="down is missing.",
                why="an adapter has two matrices: down and up.",
                hint="rank · in and out · rank.",
            ),
            Mistake(
                formula=total(lambda layer, rank: 2 * rank * layer.in_features),
                what="you take every layer for a square one.",
                why="layers of feed-forward and text are oblong.",
                hint="in_features + out_features.",
            ),
            Mistake(
                formula=total(lambda layer, rank: layer.in_features + layer.out_features),
                what="the rank is not in your sum.",
                why="it is the other side of both matrices.",
                hint="times rank.",
            ),
        ],
        why="each layer has a down of rank × in and an up of out × rank.",
        hint=direction_of(18, "adapter_parameters"),
        praise="The arithmetic of lab 1: what a layer is for makes no difference to it.",
    )


EXACT = ("fresh adapter", "taken out again", "weight 0")


def must_be_zero(answer: Mapping[str, Any]) -> Grade:
    """Which ways to the same picture are exact."""
    differences, chosen = answer["differences"], answer["must_be_zero"]
    if chosen is None:
        return wrong(
            "there is no set yet.", why="a set of names is asked for.", hint=f"of {', '.join(differences)}."
        )
    chosen = set(chosen)
    unknown = sorted(chosen - set(differences), key=str)
    if unknown:
        return wrong(
            f"'{unknown[0]}' is none of the names.", why="see the table.", hint=f"{', '.join(differences)}."
        )
    if "merged" in chosen:
        return wrong(
            "the merged model need not be exact.",
            why="(W + ΔW) x and W x + ΔW x are equal on paper and rounded otherwise: other operations.",
            hint="which of the four go through the same operations with the same numbers?",
        )
    missing: Sequence[str] = sorted(set(EXACT) - chosen)
    if missing:
        return wrong(
            f"'{missing[0]}' must be 0.",
            why="adding an exact zero, or nothing at all, leaves every number as it is.",
            hint="up starts at zero; weight 0 multiplies by zero; taking out leaves the frozen weights.",
        )
    broken = sorted(name for name in EXACT if differences[name] != 0)
    if broken:
        return wrong(
            f"the set is right, and '{broken[0]}' is {differences[broken[0]]}.",
            why="something between the two pictures changed.",
            hint="run the cells from 'The same proofs' on again, in their order.",
        )
    return right("The proofs of lab 8 know nothing of the process: they hold on a flow as they are.")


TASKS: Mapping[str, Grader] = {
    "flow_mix": flow_mix,
    "flow_target": flow_target,
    "shifted": shifted,
    "euler_step": euler_step,
    "same_as_engine": same_as_engine,
    "text_side": text_side,
    "adapter_parameters": adapter_parameters,
    "must_be_zero": must_be_zero,
}
