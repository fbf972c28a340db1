"""Answers to lab 8."""

from typing import Any

import numpy as np
import torch

from detour.labs.patients import Patient
from tests.labs.answers import AlsoRight, Answers

DIFFERENCES = {
    "reloaded": 0,
    "swapped out, against the base": 0,
    "swapped out and in": 0,
    "merged": 1,
    "taken out again, against the base": 0,
}
EXACT = set(DIFFERENCES) - {"merged"}


def signed(first: Any, second: Any) -> Any:
    return first.astype(np.int16) - second.astype(np.int16)


def examined(
    patient: Patient,
    *,
    left_out: str = "",
    any_zero: bool = False,
    all_keys: bool = False,
    weight_sign: bool = False,
) -> str:
    names = {f"unet.{name}" for name, _ in patient.adapted.named_modules()}
    known = [key in names for key in patient.adapter.layers]
    zeros = [not layer.tensors["up"].any() for layer in patient.adapter.layers.values()]
    found = {
        "weight is 0": patient.weight <= 0 if weight_sign else patient.weight == 0,
        "keys match nothing": not all(known) if all_keys else not any(known),
        "up is zero": any(zeros) if any_zero else all(zeros),
        "another model": patient.adapted is not patient.drawing,
    }
    return next((cause for cause, there in found.items() if there and cause != left_out), "none")


def swap(
    factors: Any, adapter: Any, *, parts: str = "du", rebind: bool = False, memory: bool = False
) -> None:
    for key, (down, up) in factors.items():
        if rebind:
            factors[key] = (adapter.layers[key].down, adapter.layers[key].up)
        elif memory:
            down.data, up.data = adapter.layers[key].down.clone(), adapter.layers[key].up.clone()
        else:
            if "d" in parts:
                down.data.copy_(adapter.layers[key].down)
            if "u" in parts:
                up.data.copy_(adapter.layers[key].up)


def swap_back(factors: Any, adapter: Any) -> None:
    for key, (down, up) in factors.items():
        adapter.layers[key].down.copy_(down)
        adapter.layers[key].up.copy_(up)


def added(factors: Any, adapter: Any) -> None:
    for key, (down, up) in factors.items():
        down.data.add_(adapter.layers[key].down)
        up.data.add_(adapter.layers[key].up)


def scaled(factors: Any, adapter: Any, factor: float) -> None:
    for key, (down, up) in factors.items():
        down.data.copy_(factor * adapter.layers[key].down)
        up.data.copy_(factor * adapter.layers[key].up)


def emptied(factors: Any, adapter: Any) -> None:
    swap(factors, adapter)
    for layer in adapter.layers.values():
        layer.up.zero_()


def by_slices(factors: Any, adapter: Any) -> None:
    for key in adapter.layers:
        for live, name in zip(factors[key], ("down", "up"), strict=True):
            live[...] = getattr(adapter.layers[key], name)


def chosen(names: Any, **changed: int) -> dict[str, Any]:
    return {"differences": DIFFERENCES | changed, "must_be_zero": names}


ANSWERS: Answers = {
    "mean_abs_diff": (
        lambda first, second: np.abs(signed(first, second)).mean(),
        [
            (lambda first, second: np.abs(first - second).mean(), "3 − 5 as uint8"),
            (lambda first, second: abs(signed(first, second).mean()), "after the mean"),
            (lambda first, second: signed(first, second).mean(), "made absolute"),
            (lambda first, second: np.sqrt((signed(first, second).astype(float) ** 2).mean()), "mean square"),
            (lambda first, second: np.abs(signed(first, second)).max(), "largest difference"),
            (lambda first, second: np.abs(signed(first, second)).mean() / 255, "share of 255"),
            (lambda first, second: np.abs(signed(first, second)).sum(), "the sum"),
            (lambda first, second: 3.0, "whatever it is given"),
        ],
    ),
    "has_effect": (
        lambda moved, floor: moved > 0.5 and moved > 3 * floor,
        [
            (lambda moved, floor: moved > floor, "thousandth"),
            (lambda moved, floor: moved > 0.5, "ignore the floor"),
            (lambda moved, floor: moved > 0.5 + floor, "add the floor"),
            (lambda moved, floor: moved > 0.5 and moved > 6 * floor, "EFFECT_OVER_NOISE"),
            (lambda moved, floor: moved > 0.5 and moved > 2 * floor, "twice the floor"),
            (lambda moved, floor: moved > 3 * floor, "thousandth"),
            (lambda moved, floor: moved > 0.01 and moved > 3 * floor, "joined by"),
            (lambda moved, floor: moved > 0.5 and moved > 5 * floor, "EFFECT_OVER_NOISE"),
            (lambda moved, floor: False, "whatever it is given"),
            (lambda moved, floor: None, "nothing"),
        ],
    ),
    "clip_scores": (
        lambda looks, prompt_features: (looks * prompt_features).sum(1),
        [
            (lambda looks, prompt_features: looks @ prompt_features.T, "every picture with every prompt"),
            (lambda looks, prompt_features: (looks @ prompt_features.T).mean(1), "row i with row i"),
            (lambda looks, prompt_features: float((looks * prompt_features).sum(1).mean()), "one by one"),
            (lambda looks, prompt_features: looks * prompt_features, "second dimension"),
            (lambda looks, prompt_features: torch.zeros(3), "of shape"),
        ],
    ),
    "diagnose": (
        examined,
        [
            (lambda patient: "none", "0 times anything"),
            (lambda patient: examined(patient, left_out="keys match nothing"), "passes over"),
            (lambda patient: examined(patient, left_out="up is zero"), "starts at zero"),
            (lambda patient: examined(patient, left_out="another model"), "the copy was adapted"),
            (lambda patient: examined(patient, any_zero=True), "changes something"),
            (lambda patient: examined(patient, all_keys=True), "other half works"),
            (lambda patient: examined(patient, weight_sign=True), "negative weight"),
            (lambda patient: "rate was 0", "none of the causes"),
            (lambda patient: "weight is 0", "nothing is wrong"),
        ],
    ),
    "hot_swap": (
        swap,
        [
            (lambda factors, adapter: swap(factors, adapter, parts="d"), "up still has"),
            (lambda factors, adapter: swap(factors, adapter, parts="u"), "down still has"),
            (lambda factors, adapter: swap(factors, adapter, rebind=True), "bound to another"),
            (lambda factors, adapter: swap(factors, adapter, memory=True), "other memory"),
            (lambda factors, adapter: swap_back(factors, adapter), "wrong direction"),
            (lambda factors, adapter: added(factors, adapter), "added to the old"),
            (lambda factors, adapter: swap(dict([next(iter(factors.items()))]), adapter), "some layer"),
            (lambda factors, adapter: scaled(factors, adapter, 2.0), "as they are"),
            (lambda factors, adapter: scaled(factors, adapter, 0.0), "as they are"),
            (lambda factors, adapter: emptied(factors, adapter), "own factors were changed"),
            (lambda factors, adapter: None, "as they were"),
        ],
    ),
    "must_be_zero": (
        chosen(EXACT),
        [
            (chosen(set(DIFFERENCES)), "rounded otherwise"),
            (chosen(EXACT - {"reloaded"}), "'reloaded' must be 0"),
            (chosen({"retrained"}), "none of the names"),
            (chosen(EXACT, reloaded=3), "'reloaded' is 3"),
            (chosen(None), "no set yet"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "mean_abs_diff": [
        lambda first, second: np.mean(np.maximum(first, second) - np.minimum(first, second)),
        lambda first, second: float(np.abs(first.astype(np.float32) - second).mean()),
        lambda first, second: np.float32(np.abs(np.subtract(first, second, dtype=np.int16)).mean()),
    ],
    "has_effect": [
        lambda moved, floor: moved > max(0.5, 3 * floor),
        lambda moved, floor: np.bool_(min(moved - 0.5, moved - 3 * floor) > 0),
    ],
    "clip_scores": [
        lambda looks, prompts: (looks @ prompts.T).diagonal(),
        lambda looks, prompts: torch.nn.functional.cosine_similarity(looks, prompts),
        lambda looks, prompts: torch.einsum("nd,nd->n", looks, prompts),
    ],
    "diagnose": [lambda patient: examined(patient)],
    "hot_swap": [by_slices],
    "must_be_zero": [chosen(list(EXACT)), chosen(EXACT, merged=0)],
}
