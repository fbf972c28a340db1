"""Grades of lab 8, did it move the pixels?"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detour.adapters.adapter import Adapter, LoraLayer
from detour.labs.grading import Grade, Grader, near, right, wrong
from detour.labs.patients import Patient

CAUSES = ("weight is 0", "keys match nothing", "up is zero", "another model", "none")
EXACT = frozenset({"reloaded", "swapped out and in", "taken out again, against the base"})


def mean_abs_diff(answer: Callable[..., float]) -> Grade:
    """Bytes whose difference wraps around, in both directions."""
    first = np.array([[[[10, 100, 0]], [[7, 7, 7]]]], np.uint8)
    second = np.array([[[[20, 200, 0]], [[7, 7, 5]]]], np.uint8)
    found = float(answer(first, second))
    signed = first.astype(float) - second.astype(float)
    if near(found, float(np.abs(signed).mean())):
        other_way = float(answer(second, first))
        if not near(other_way, found):
            return wrong(
                "exchanging the two sets gives another number.",
                why="a distance is the same from both sides.",
                hint="subtract in a signed type first, then np.abs.",
            )
        return right()
    told = {
        float(np.abs(first - second).mean()): (
            "bytes were subtracted as bytes.",
            "3 − 5 as uint8 is 254: small differences turn into the largest.",
            "astype(np.int16) before you subtract.",
        ),
        float(abs(signed.mean())): (
            "the sign was dropped after the mean.",
            "brighter here and darker there cancel out then.",
            "np.abs first, mean afterwards.",
        ),
        float(signed.mean()): (
            "no difference was made absolute.",
            "brighter and darker cancel out.",
            "np.abs.",
        ),
        float(np.sqrt((signed**2).mean())): (
            "that is the root of the mean square.",
            "it counts a few large differences more than many small ones; thresholds here are of the plain mean.",
            "np.abs in place of the square.",
        ),
        float(np.abs(signed).max()): (
            "that is the largest difference.",
            "one pixel decides it.",
            "the mean.",
        ),
        float(np.abs(signed).mean() / 255): (
            "that is a share of 255.",
            "the thresholds here are in steps of 255.",
            "leave the division out.",
        ),
        float(np.abs(signed).sum()): (
            "that is the sum.",
            "it grows with the size of the pictures.",
            "the mean.",
        ),
    }
    for value, (what, why, hint) in told.items():
        if near(found, value):
            return wrong(what, why=why, hint=hint)
    return wrong(
        f"it gives {found:g} for two pictures that are {np.abs(signed).mean():g} apart.",
        why="all pixels and channels count alike.",
        hint="signed difference, absolute, mean.",
    )


def has_effect(answer: Callable[..., bool]) -> Grade:
    """Moved and floor, around both limits."""
    cases = (
        (
            10.0,
            0.0,
            True,
            "10 of 255 without any floor is no effect.",
            "pictures moved, and nothing else did it.",
        ),
        (
            0.001,
            0.0,
            False,
            "0.001 of 255 is an effect.",
            "nobody sees a thousandth of a step, whatever made it.",
        ),
        (
            0.9,
            0.6,
            False,
            "0.9 is an effect where rounding moves 0.6.",
            "a part of it, or all, is the floor itself.",
        ),
        (
            2.0,
            0.6,
            True,
            "2.0 is no effect where rounding moves 0.6.",
            "it is more than three times the floor.",
        ),
        (0.4, 0.1, False, "0.4 is an effect.", "it is above the floor, but less than half a step."),
    )
    for moved, floor, expected, what, why in cases:
        found = answer(moved, floor)
        if found is None:
            return wrong(
                "it returns nothing.",
                why="the question has two answers.",
                hint="return both comparisons, joined by and.",
            )
        if bool(found) != expected:
            return wrong(
                f"with your function {what}",
                why=why,
                hint="both conditions at once: above EFFECT_MIN_DIFF, and above EFFECT_OVER_NOISE times the floor.",
            )
    return right()


def clip_scores(answer: Callable[..., Any]) -> Grade:
    """Three pictures of three prompts in a space of four."""
    generator = torch.Generator().manual_seed(0)
    looks, prompt_features = (
        nn.functional.normalize(torch.randn(3, 4, generator=generator), dim=1) for _ in range(2)
    )
    found = answer(looks, prompt_features)
    if not isinstance(found, Tensor):
        return wrong(
            f"it returns {type(found).__name__}, not one score for each picture.",
            why="the scores of the pictures are compared one by one; their mean can be taken later.",
            hint="a tensor of shape (N,).",
        )
    if found.shape == (3, 3):
        return wrong(
            "it returns every picture with every prompt.",
            why="a picture's score is with its own prompt; the other eight say how well it would do for others.",
            hint="multiply row by row and sum over D, or take the diagonal.",
        )
    if found.shape != (3,):
        return wrong(
            f"it has the shape {tuple(found.shape)}, not (N,).",
            why="one score for each picture.",
            hint="sum over D, the second dimension.",
        )
    if torch.allclose(found, (looks * prompt_features).sum(1), atol=1e-6):
        return right("1 would be the same direction; CLIP's scores of good pictures lie far below it.")
    if torch.allclose(found, (looks @ prompt_features.T).mean(1), atol=1e-6):
        return wrong(
            "each picture is scored with all prompts, and the mean taken.",
            why="a picture that keeps its own prompt should not be like the others.",
            hint="only row i with row i.",
        )
    return wrong(
        "these are not the cosines of the rows.",
        why="rows of length one: their product, summed over D, is the cosine.",
        hint="(a * b).sum(dim=1)",
    )


def diagnose(answer: Callable[[Patient], str]) -> Grade:
    """Patients made here, with small models, some of them nearly ill."""
    for patient, expected, what, why in _patients():
        found = answer(patient)
        if found not in CAUSES:
            return wrong(
                f"it answers {found!r}, which is none of the causes.",
                why="five answers are possible.",
                hint=f"one of {', '.join(CAUSES)}.",
            )
        if found != expected:
            return wrong(f"{what} gets the diagnosis '{found}'.", why=why, hint=_HINTS[expected])
    return right("You would have found all four.")


_HINTS = {
    "weight is 0": "compare patient.weight with 0.",
    "keys match nothing": "a key is 'unet.' and a module's name: is any of them among patient.adapted.named_modules()?",
    "up is zero": "layer.up.any() is False where all is zero; every layer must be so.",
    "another model": "`is` tells whether two names mean one object; == would compare something else.",
    "none": "say a cause only where it switches the whole adapter off.",
}


def _patients() -> list[tuple[Patient, str, str, str]]:
    model, other = (nn.ModuleDict({"to_q": nn.Linear(4, 4), "to_k": nn.Linear(4, 4)}) for _ in range(2))
    other.load_state_dict(model.state_dict())

    def layer(up: float) -> LoraLayer:
        return LoraLayer(down=torch.ones(2, 4), up=torch.full((4, 2), up), alpha=2.0)

    whole = Adapter({"unet.to_q": layer(0.1), "unet.to_k": layer(-0.1)})
    sound = Patient(adapter=whole, weight=1.0, adapted=model, drawing=model)
    half_zero = Adapter({"unet.to_q": layer(0.0), "unet.to_k": layer(0.1)})
    half_named = Adapter({"unet.to_q": layer(0.1), "unet.elsewhere": layer(0.1)})
    all_zero = Adapter({key: layer(0.0) for key in whole.layers})
    strangers = Adapter({"unet.query": layer(0.1), "unet.key": layer(0.1)})
    return [
        (sound, "none", "a sound adapter", "nothing is wrong with it."),
        (replace(sound, weight=0.0), "weight is 0", "an adapter of weight 0", "0 times anything is nothing."),
        (replace(sound, adapter=strangers), "keys match nothing", "an adapter whose names the UNet does not have",
         "a loader that passes over what it does not know has attached nothing."),
        (replace(sound, adapter=all_zero), "up is zero", "an adapter that was never updated",
         "up starts at zero: the product is zero until it has moved."),
        (replace(sound, adapted=other), "another model", "an adapter beside a copy of the UNet that draws",
         "equal weights do not make it the same model: the copy was adapted, the other one draws."),
        (replace(sound, adapter=half_zero), "none", "an adapter with one layer at zero, among others that are not",
         "it changes less than it could, and it changes something."),
        (replace(sound, adapter=half_named), "none", "an adapter of which half the keys match",
         "the other half works. That is worth a warning, but it is no reason for no effect."),
        (replace(sound, weight=-0.5), "none", "an adapter of weight −0.5",
         "a negative weight leads away from the style, visibly."),
    ]  # fmt: skip


def hot_swap(answer: Callable[..., Any]) -> Grade:
    """Live parameters of two layers, and an adapter with other numbers."""
    shapes = {"unet.to_q": (4, 3), "unet.to_k": (5, 6)}
    factors = {key: (_frozen(2, n_in), _frozen(n_out, 2)) for key, (n_in, n_out) in shapes.items()}
    generator = torch.Generator().manual_seed(0)
    layers = {
        key: SimpleNamespace(
            down=torch.randn(2, n_in, generator=generator),
            up=torch.randn(n_out, 2, generator=generator),
            alpha=2.0,
        )
        for key, (n_in, n_out) in shapes.items()
    }
    kept = {key: (down, up) for key, (down, up) in factors.items()}
    places = {key: (down.data_ptr(), up.data_ptr()) for key, (down, up) in kept.items()}
    answer(factors, SimpleNamespace(layers=layers))
    right_down = [torch.equal(kept[key][0], layers[key].down) for key in shapes]
    right_up = [torch.equal(kept[key][1], layers[key].up) for key in shapes]
    if not any(right_down) and not any(right_up):
        return wrong(
            "the live parameters are as they were.",
            why="a name that is bound to another tensor leaves the old one in the model.",
            hint="copy into the memory: parameter.data.copy_(new).",
        )
    if not all(right_down) or not all(right_up):
        half = "up" if all(right_down) else "down" if all(right_up) else "some layer"
        return wrong(
            f"{half} still has the old numbers.",
            why="a down of one adapter with an up of another is neither.",
            hint="both factors of every key.",
        )
    if any((kept[key][0].data_ptr(), kept[key][1].data_ptr()) != places[key] for key in shapes):
        return wrong(
            "the numbers are right, but they lie in other memory.",
            why="an optimizer, a flat buffer or a compiled graph still holds the old memory, and would use that.",
            hint="copy_ instead of assigning to .data.",
        )
    return right("A few copies: milliseconds.")


def _frozen(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape), requires_grad=False)


def must_be_zero(answer: Mapping[str, Any]) -> Grade:
    """Which ways to the same picture are exact."""
    differences, chosen = answer["differences"], answer["must_be_zero"]
    if chosen is None:
        return wrong(
            "there is no set yet.", why="a set of names is asked for.", hint=f"of {', '.join(differences)}."
        )
    chosen = set(chosen)
    unknown = sorted(chosen - set(differences))
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
    missing = sorted(EXACT - chosen)
    if missing:
        return wrong(
            f"'{missing[0]}' must be 0.",
            why="the same numbers go through the same operations: there is nothing to round otherwise.",
            hint="a float32 file keeps float32 numbers; undoing a merge puts the kept weights back.",
        )
    broken = sorted(name for name in EXACT if differences[name] != 0)
    if broken:
        return wrong(
            f"the set is right, and '{broken[0]}' is {differences[broken[0]]}.",
            why="something between the two pictures changed.",
            hint="run the cells from 'Save, reload' on again, in their order.",
        )
    return right("An adapter that passes this is the one that was trained.")


TASKS: Mapping[str, Grader] = {
    "mean_abs_diff": mean_abs_diff,
    "has_effect": has_effect,
    "clip_scores": clip_scores,
    "diagnose": diagnose,
    "hot_swap": hot_swap,
    "must_be_zero": must_be_zero,
}
