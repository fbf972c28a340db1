"""Answers to lab 18, the same on a flow model."""

from typing import Any

import numpy as np
import torch

from tests.labs.answers import AlsoRight, Answers

PICTURES = np.random.default_rng(18).integers(3, 250, (1, 8, 8, 3)).astype(np.uint8)
DIFFERENCES = {"fresh adapter": 0, "weight 0": 0, "merged": 1, "taken out again": 0}
EXACT = {"fresh adapter", "weight 0", "taken out again"}


def level(sigma: Any) -> Any:
    return sigma.view(-1, 1, 1, 1)


def mix(clean: Any, noise: Any, sigma: Any) -> Any:
    return (1 - level(sigma)) * clean + level(sigma) * noise


def shift_of(sigma: float, shift: float) -> float:
    return shift * sigma / (1 + (shift - 1) * sigma)


def step(noisy: Any, velocity: Any, sigma: float, sigma_next: float) -> Any:
    return noisy + (sigma_next - sigma) * velocity


def count(layers: Any, rank: int) -> int:
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)


def pair(mine: Any) -> dict[str, Any]:
    return {"mine": mine, "theirs": PICTURES}


def chosen(names: Any, differences: Any = None) -> dict[str, Any]:
    return {"differences": differences or DIFFERENCES, "must_be_zero": names}


ANSWERS: Answers = {
    "flow_mix": (
        mix,
        [
            (lambda clean, noise, sigma: mix(noise, clean, sigma), "other way"),
            (
                lambda clean, noise, sigma: (1 - level(sigma)).sqrt() * clean + level(sigma).sqrt() * noise,
                "lab 9's roots",
            ),
            (
                lambda clean, noise, sigma: (1 - level(sigma) ** 2).sqrt() * clean + level(sigma) * noise,
                "variance at 1",
            ),
            (lambda clean, noise, sigma: clean + level(sigma) * noise, "keep the whole picture"),
            (lambda clean, noise, sigma: mix(clean, noise, sigma[:1]), "first one's level"),
            (lambda clean, noise, sigma: (level(sigma) - 1) * clean + level(sigma) * noise, "wrong sign"),
            (lambda clean, noise: clean, "3 arguments"),
            (lambda clean, noise, sigma: mix(clean, noise, sigma).tolist(), "a tensor of shape"),
        ],
    ),
    "flow_target": (
        lambda clean, noise: noise - clean,
        [
            (lambda clean, noise: clean - noise, "points to the picture"),
            (lambda clean, noise: noise, "bases of lab 9"),
            (lambda clean, noise: clean, "that is the picture"),
            (lambda clean, noise: noise + clean, "add the picture"),
            (lambda clean, noise: (noise - clean) / 2, "halve"),
            (lambda clean, noise: noise.sub_(clean), "second argument in place"),
            (lambda clean, noise: float((noise - clean).mean()), "a tensor of shape"),
            (lambda clean, noise: (noise - clean)[:, :1], "one of shape"),
        ],
    ),
    "shifted": (
        shift_of,
        [
            (lambda sigma, shift: min(1.0, shift * sigma), "multiply and cut"),
            (lambda sigma, shift: shift * sigma, "division is missing"),
            (lambda sigma, shift: shift_of(sigma, 1 / shift), "towards the picture"),
            (lambda sigma, shift: shift * sigma / (1 + shift * sigma), "the − 1"),
            (lambda sigma, shift: sigma / (1 + (shift - 1) * sigma), "factor in the numerator"),
            (lambda sigma, shift: shift * sigma / 1 + (shift - 1) * sigma, "brackets"),
            (lambda sigma, shift: sigma, "was expected"),
            (lambda sigma, shift: "0.75", "one number"),
        ],
    ),
    "euler_step": (
        step,
        [
            (lambda noisy, velocity, sigma, following: noisy + (sigma - following) * velocity, "more noise"),
            (lambda noisy, velocity, sigma, following: noisy - sigma * velocity, "all the way"),
            (lambda noisy, velocity, sigma, following: noisy - following * velocity, "next level itself"),
            (lambda noisy, velocity, sigma, following: noisy - velocity, "whole velocity"),
            (lambda noisy, velocity, sigma, following: (following - sigma) * velocity, "return the step"),
            (
                lambda noisy, velocity, sigma, following: noisy + (following - sigma) * (velocity - noisy),
                "not as a velocity",
            ),
            (
                lambda noisy, velocity, sigma, following: noisy.add_(velocity * (following - sigma)),
                "in place",
            ),
            (lambda noisy, velocity, sigma, following: noisy, "off by up to"),
        ],
    ),
    "same_as_engine": (
        pair(PICTURES),
        [
            (pair(PICTURES[:, ::-1]), "differ by up to"),
            (pair(PICTURES.astype(float)), "are float64"),
            (pair(PICTURES[0]), "have the shape"),
            (pair(np.zeros_like(PICTURES)), "differ by up to"),
            (pair(255 - PICTURES), "differ by up to"),
            (pair(PICTURES + np.uint8(2)), "differ by up to 2"),
            (pair(np.repeat(PICTURES, 2, axis=0)), "have the shape"),
            (pair(PICTURES[..., ::-1]), "differ by up to"),
        ],
    ),
    "text_side": (
        lambda path: "add_" in path,
        [
            (lambda path: "attn2" in path, "cross-attention"),
            (lambda path: path.endswith(("to_k", "to_v")), "keys and values of the picture"),
            (lambda path: path.endswith("_proj"), "to_add_out is missing"),
            (lambda path: path.endswith(("add_k_proj", "add_v_proj")), "keys and values of the text"),
            (lambda path: "add" not in path, "picture's"),
            (lambda path: True, "whatever it is given"),
            (lambda path: False, "whatever it is given"),
            (lambda path: path, "True or False"),
        ],
    ),
    "adapter_parameters": (
        count,
        [
            (
                lambda layers, rank: sum(one.in_features * one.out_features for one in layers),
                "layers themselves",
            ),
            (
                lambda layers, rank: sum(rank * one.in_features * one.out_features for one in layers),
                "multiply the two sides",
            ),
            (lambda layers, rank: sum(rank * one.in_features for one in layers), "up is missing"),
            (lambda layers, rank: sum(rank * one.out_features for one in layers), "down is missing"),
            (lambda layers, rank: sum(2 * rank * one.in_features for one in layers), "square one"),
            (lambda layers, rank: count(layers, 1), "rank is not in"),
            (lambda layers, rank: [count(layers, rank)], "one number"),
            (lambda layers, rank: rank * len(layers), "was expected"),
        ],
    ),
    "must_be_zero": (
        chosen(EXACT),
        [
            (chosen(None), "no set yet"),
            (chosen({*EXACT, "merged"}), "merged model need not"),
            (chosen({"merged"}), "merged model need not"),
            (chosen(EXACT - {"weight 0"}), "'weight 0' must be 0"),
            (chosen(EXACT - {"fresh adapter"}), "'fresh adapter' must be 0"),
            (chosen(set()), "must be 0"),
            (chosen({*EXACT, "reloaded"}), "none of the names"),
            (chosen(EXACT, {**DIFFERENCES, "weight 0": 2}), "the set is right, and 'weight 0' is 2"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "flow_mix": [
        lambda clean, noise, sigma: clean + level(sigma) * (noise - clean),
        lambda clean, noise, sigma: torch.lerp(clean, noise, level(sigma)),
        lambda clean, noise, sigma: torch.stack(
            [(1 - s) * one + s * other for one, other, s in zip(clean, noise, sigma, strict=True)]
        ),
    ],
    "flow_target": [lambda clean, noise: -(clean - noise), torch.rsub],
    "shifted": [
        lambda sigma, shift: 1 - (1 - sigma) / (1 - sigma + shift * sigma),
        lambda sigma, shift: np.float32(shift_of(sigma, shift)),
    ],
    "euler_step": [
        lambda noisy, velocity, sigma, following: noisy - (sigma - following) * velocity,
        lambda noisy, velocity, sigma, following: torch.add(noisy, velocity, alpha=following - sigma),
    ],
    "same_as_engine": [pair(PICTURES + np.uint8(1)), pair(PICTURES - np.uint8(1))],
    "text_side": [
        lambda path: any(
            path.endswith(name) for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
        ),
        lambda path: "add" in path,
    ],
    "adapter_parameters": [
        lambda layers, rank: (
            sum(one.in_features for one in layers) * rank + sum(one.out_features for one in layers) * rank
        ),
        lambda layers, rank: np.int64(count(layers, rank)),
    ],
    "must_be_zero": [
        chosen(sorted(EXACT)),
        chosen(frozenset(EXACT)),
        chosen(EXACT, {**DIFFERENCES, "merged": 0}),
    ],
}
