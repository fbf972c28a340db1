"""Grades of lab 8, did it move the pixels?"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detour.adapters.adapter import Adapter, LoraLayer
from detour.labs.comparing import Mistake, compare
from detour.labs.grading import Grade, Grader, right, wrong
from detour.labs.patients import Patient

CAUSES = ("weight is 0", "keys match nothing", "up is zero", "another model", "none")
EXACT = frozenset(
    {
        "reloaded",
        "swapped out, against the base",
        "swapped out and in",
        "taken out again, against the base",
    }
)


def mean_abs_diff(answer: Callable[..., float]) -> Grade:
    """Random bytes, bytes at both ends, equal pictures, and each pair in both directions."""
    generator = np.random.default_rng(8)
    cases = []
    for shape, low, high in (((2, 3, 3, 3), 0, 256), ((1, 2, 4, 3), 100, 140), ((3, 1, 2, 3), 0, 2)):
        first, second = (generator.integers(low, high, shape).astype(np.uint8) for _ in range(2))
        cases += [(first, second), (second, first)]
    black, white = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 255, np.uint8)
    cases += [(black, white), (white, black), (white, white.copy())]

    def signed(first: Any, second: Any, kind: type = np.int32) -> Any:
        return first.astype(kind) - second.astype(kind)

    return compare(
        answer,
        lambda first, second: float(np.abs(signed(first, second)).mean()),
        cases,
        [
            Mistake(
                formula=lambda first, second: np.abs(first - second).mean(),
                what="bytes were subtracted as bytes.",
                why="3 − 5 as uint8 is 254: small differences turn into the largest.",
                hint="astype(np.int16) before you subtract.",
            ),
            Mistake(
                formula=lambda first, second: np.abs(signed(first, second, np.int8).astype(float)).mean(),
                what="int8 has no room for the differences.",
                why="it ends at 127: a difference of 200 comes out as 56.",
                hint="np.int16 has room for −255 to 255.",
            ),
            Mistake(
                formula=lambda first, second: np.abs(signed(first, second, np.int8)).mean(),
                what="int8 has no room for the differences.",
                why="it ends at 127: a difference of 200 comes out as 56.",
                hint="np.int16 has room for −255 to 255.",
            ),
            Mistake(
                formula=lambda first, second: abs(signed(first, second).mean()),
                what="the sign was dropped after the mean.",
                why="brighter here and darker there cancel out then.",
                hint="np.abs first, mean afterwards.",
            ),
            Mistake(
                formula=lambda first, second: signed(first, second).mean(),
                what="no difference was made absolute.",
                why="brighter and darker cancel out.",
                hint="np.abs.",
            ),
            Mistake(
                formula=lambda first, second: np.sqrt((signed(first, second) ** 2).mean()),
                what="that is the root of the mean square.",
                why="it counts a few large differences more than many small ones; thresholds here "
                "are of the plain mean.",
                hint="np.abs in place of the square.",
            ),
            Mistake(
                formula=lambda first, second: (signed(first, second) ** 2).mean(),
                what="that is the mean of the squares.",
                why="it is in squares of steps; thresholds here are of the plain mean.",
                hint="np.abs in place of the square.",
            ),
            Mistake(
                formula=lambda first, second: np.abs(signed(first, second)).max(),
                what="that is the largest difference.",
                why="one pixel decides it.",
                hint="the mean.",
            ),
            Mistake(
                formula=lambda first, second: np.median(np.abs(signed(first, second))),
                what="that is the median.",
                why="it says nothing of changes in less than half of the picture.",
                hint="the mean.",
            ),
            Mistake(
                formula=lambda first, second: np.abs(signed(first, second)).mean() / 255,
                what="that is a share of 255.",
                why="the thresholds here are in steps of 255.",
                hint="leave the division out.",
            ),
            Mistake(
                formula=lambda first, second: np.abs(signed(first, second)).sum(),
                what="that is the sum.",
                why="it grows with the size of the pictures.",
                hint="the mean.",
            ),
            Mistake(
                formula=lambda first, second: np.maximum(signed(first, second), 0).mean(),
                what="only what became darker counts.",
                why="a distance is the same from both sides.",
                hint="np.abs in place of cutting off.",
            ),
        ],
        why="all pixels and channels count alike, whichever picture is the brighter one.",
        hint="signed difference, absolute, mean.",
    )


def _effect(moved: float, floor: float) -> bool:
    return moved > 0.5 and moved > 3 * floor


def has_effect(answer: Callable[..., bool]) -> Grade:
    """Moved and floor on a grid around both limits, and on them."""
    movements = (0.0, 0.001, 0.3, 0.4, 0.5, 0.51, 0.6, 0.9, 1.2, 1.5, 1.8, 1.9, 2.0, 2.6, 6.0, 10.0, 61.0)
    return compare(
        answer,
        _effect,
        [(moved, floor) for moved in movements for floor in (0.0, 0.1, 0.25, 0.5, 0.6, 3.0, 20.0)],
        [
            Mistake(
                formula=lambda moved, floor: moved > 0.5,
                what="with your function 0.9 is an effect where rounding moves 0.6: you ignore the floor.",
                why="a part of it, or all, is the floor itself.",
                hint="both conditions at once: above EFFECT_MIN_DIFF, and above EFFECT_OVER_NOISE times the floor.",
            ),
            Mistake(
                formula=lambda moved, floor: moved > 3 * floor,
                what="with your function 0.001 of 255 is an effect.",
                why="nobody sees a thousandth of a step, whatever made it.",
                hint="both conditions at once: above EFFECT_MIN_DIFF, and above EFFECT_OVER_NOISE times the floor.",
            ),
            Mistake(
                formula=lambda moved, floor: moved > floor,
                what="with your function 0.001 of 255 is an effect, and so is 0.9 where rounding moves 0.6.",
                why="nobody sees a thousandth of a step, and next to the floor all may be rounding.",
                hint="both conditions at once: above EFFECT_MIN_DIFF, and above EFFECT_OVER_NOISE times the floor.",
            ),
            Mistake(
                formula=lambda moved, floor: moved > 0.5 or moved > 3 * floor,
                what="one of the two conditions is enough for you.",
                why="0.9 where rounding moves 0.6 is no effect, and neither is 0.001 without a floor.",
                hint="`and`, not `or`.",
            ),
            Mistake(
                formula=lambda moved, floor: moved > 0.5 + floor,
                what="you add the floor to the limit.",
                why="2.0 where rounding moves 0.9 may still be rounding that was unlucky: 3 times "
                "the floor is asked for.",
                hint="two comparisons: with EFFECT_MIN_DIFF, and with EFFECT_OVER_NOISE * floor.",
            ),
            Mistake(
                formula=lambda moved, floor: moved > 0.5 + 3 * floor,
                what="you add the two limits.",
                why="each of them has to be passed for itself: 2.0 where rounding moves 0.6 is an effect.",
                hint="two comparisons, joined by `and`.",
            ),
            Mistake(
                formula=lambda moved, floor: moved - floor > 0.5 and moved - floor > 3 * floor,
                what="you take the floor off before you compare.",
                why="`moved` is compared as it was measured; the floor is already in the second limit.",
                hint="moved > EFFECT_OVER_NOISE * floor.",
            ),
            Mistake(
                formula=lambda moved, floor: moved > 0.5 and moved > 2 * floor,
                what="you ask for twice the floor.",
                why="3 times is asked for: EFFECT_OVER_NOISE.",
                hint="use the two constants by name.",
            ),
            Mistake(
                formula=lambda moved, floor: moved > 0.5 and moved > floor,
                what="you ask for more than the floor, not for 3 times the floor.",
                why="the floor was measured once; the next time rounding may move a little more.",
                hint="moved > EFFECT_OVER_NOISE * floor.",
            ),
            Mistake(
                formula=lambda moved, floor: moved >= 0.5 and moved >= 3 * floor,
                what="on the limits themselves you say True.",
                why="`more than` was asked for: 0.5 of 255 is not more than 0.5.",
                hint="> in place of >=.",
            ),
            Mistake(
                formula=lambda moved, floor: not _effect(moved, floor),
                what="your answer is the opposite.",
                why="True was to mean that there is an effect.",
                hint="turn the comparisons round.",
            ),
        ],
        why="an effect is more than EFFECT_MIN_DIFF, and more than EFFECT_OVER_NOISE times the floor.",
        hint="return both comparisons, joined by `and`.",
    )


def clip_scores(answer: Callable[..., Any]) -> Grade:
    """Pictures of their own prompts, in spaces of several sizes; one pair alone too."""
    generator = torch.Generator().manual_seed(0)
    cases = [
        tuple(nn.functional.normalize(torch.randn(num, width, generator=generator), dim=1) for _ in range(2))
        for num, width in ((3, 4), (5, 2), (1, 6), (4, 4))
    ]
    if not callable(answer):
        return compare(answer, max, [], why="", hint="")

    def given(pictures: Tensor, prompts: Tensor) -> Any:
        found = answer(pictures, prompts)
        scores = isinstance(found, np.ndarray) or (
            isinstance(found, list | tuple)
            and all(isinstance(one, int | float | np.number | Tensor) for one in found)
        )
        return (
            torch.as_tensor(np.array([float(one) for one in found]))
            if scores and np.ndim(found) == 1
            else found
        )

    return compare(
        given,
        lambda pictures, prompts: (pictures * prompts).sum(1),
        cases,
        [
            Mistake(
                formula=lambda pictures, prompts: pictures @ prompts.T,
                what="it returns every picture with every prompt.",
                why="a picture's score is with its own prompt; the others say how well it would do for others.",
                hint="multiply row by row and sum over D, or take the diagonal.",
            ),
            Mistake(
                formula=lambda pictures, prompts: (pictures @ prompts.T).mean(1),
                what="each picture is scored with all prompts, and the mean taken.",
                why="a picture that keeps its own prompt should not be like the others.",
                hint="only row i with row i.",
            ),
            Mistake(
                formula=lambda pictures, prompts: (pictures * prompts).sum(1).mean(),
                what="it returns the mean of all scores.",
                why="the scores of the pictures are compared one by one; their mean can be taken later.",
                hint="a tensor of shape (N,).",
            ),
            Mistake(
                formula=lambda pictures, prompts: pictures * prompts,
                what="it returns the products before they are summed.",
                why="one score for each picture.",
                hint="sum over D, the second dimension.",
            ),
            Mistake(
                formula=lambda pictures, prompts: (pictures * prompts).mean(1),
                what="you take the mean over D in place of the sum.",
                why="the score would shrink with the width of the judge's space.",
                hint="the sum of the products is the cosine.",
            ),
            Mistake(
                formula=lambda pictures, prompts: 1 - (pictures * prompts).sum(1),
                what="that is one minus the cosine, a distance.",
                why="a CLIP score is larger where picture and prompt agree better.",
                hint="leave the cosine as it is.",
            ),
            Mistake(
                formula=lambda pictures, prompts: (pictures * prompts).sum(0),
                what="you sum over the pictures.",
                why="one score for each picture is asked for, not one for each of the D numbers.",
                hint="sum over D, the second dimension.",
            ),
            Mistake(
                formula=lambda pictures, prompts: (pictures * prompts.flip(0)).sum(1),
                what="each picture is scored with another one's prompt.",
                why="row i of both belongs to prompt i.",
                hint="only row i with row i.",
            ),
        ],
        why="rows of length one: their product, summed over D, is the cosine.",
        hint="(a * b).sum(dim=1)",
        praise="1 would be the same direction; CLIP's scores of good pictures lie far below it.",
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
    part_zero = LoraLayer(down=torch.ones(2, 4), up=torch.tensor([[0.1, 0.0]] * 4), alpha=2.0)
    partly = Adapter(dict.fromkeys(whole.layers, part_zero))
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
        (replace(sound, adapter=partly), "none", "an adapter whose ups have zeros among other numbers",
         "what is not zero changes something."),
        (replace(sound, adapter=half_named), "none", "an adapter of which half the keys match",
         "the other half works. That is worth a warning, but no cause of no effect."),
        (replace(sound, weight=-0.5), "none", "an adapter of weight −0.5",
         "a negative weight leads away from the style, visibly."),
    ]  # fmt: skip


def hot_swap(answer: Callable[..., Any]) -> Grade:
    """Live parameters that hold random numbers, and an adapter with others that has to stay as it is."""
    shapes = {"unet.to_q": (4, 3), "unet.to_k": (4, 3), "unet.mid.to_v": (2, 2)}
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    factors = {
        key: tuple(nn.Parameter(normal(*shape), requires_grad=False) for shape in ((2, n_in), (n_out, 2)))
        for key, (n_out, n_in) in shapes.items()
    }
    layers = {
        key: SimpleNamespace(down=normal(2, n_in), up=normal(n_out, 2), alpha=2.0)
        for key, (n_out, n_in) in sorted(shapes.items(), key=lambda one: one[0] != "unet.to_k")
    }  # in another order than the live ones: a file keeps no order
    tensors = {
        (key, part): one for key, pair in factors.items() for part, one in zip(PARTS, pair, strict=True)
    }
    places = {name: one.data_ptr() for name, one in tensors.items()}
    before = {name: one.detach().clone() for name, one in tensors.items()}
    new = {(key, part): getattr(layers[key], part).clone() for key in shapes for part in PARTS}
    answer(factors, SimpleNamespace(layers=layers))
    adapter = {(key, part): getattr(layers[key], part) for key in shapes for part in PARTS}
    if any(not torch.equal(adapter[name], new[name]) for name in new):
        if all(torch.equal(adapter[name], before[name]) for name in new):
            if all(torch.equal(tensors[name], new[name]) for name in new):
                return wrong(
                    "you exchanged the two: the adapter now has the live model's numbers.",
                    why="it is used again for the next request, and would be another adapter then.",
                    hint="copy into the live parameters, and leave the adapter as it is.",
                )
            return wrong(
                "you copied in the wrong direction: the adapter now has the live model's numbers.",
                why="the adapter was read from a file and is used again; the live parameters are what draws.",
                hint="the live parameter is the one whose copy_ is called, the adapter's factor is its argument.",
            )
        return wrong(
            "the adapter's own factors were changed.",
            why="it is used again for the next request, and would be another adapter then.",
            hint="write into the live parameters alone.",
        )
    done = {name: torch.equal(tensors[name], new[name]) for name in new}
    if not all(done.values()):
        return _not_swapped(tensors, before, new, done)
    if any(tensors[name].data_ptr() != places[name] for name in tensors):
        return wrong(
            "the numbers are right, but they lie in other memory.",
            why="an optimizer, a flat buffer or a compiled graph still holds the old memory, and would use that.",
            hint="copy_ instead of assigning to .data.",
        )
    return right("A few copies: milliseconds.")


PARTS = ("down", "up")


def _not_swapped(tensors: Any, before: Any, new: Any, done: Mapping[Any, bool]) -> Grade:
    if all(torch.equal(tensors[name], before[name]) for name in tensors):
        return wrong(
            "the live parameters are as they were.",
            why="a name that is bound to another tensor leaves the old one in the model.",
            hint="copy into the memory: parameter.data.copy_(new).",
        )
    if all(torch.allclose(tensors[name], before[name] + new[name]) for name in tensors):
        return wrong(
            "the new numbers were added to the old ones.",
            why="the model would be left with a mixture of both adapters.",
            hint="copy_ in place of add_.",
        )
    crossed = {"unet.to_q": "unet.to_k", "unet.to_k": "unet.to_q"}
    if all(torch.equal(tensors[key, part], new[crossed.get(key, key), part]) for key, part in tensors):
        return wrong(
            "layers got each other's numbers.",
            why="the adapter's layers may come in another order than the live ones: a file keeps no order.",
            hint="look each key up by its name: adapter.layers[key].",
        )
    halves = {part: all(ok for (_, one), ok in done.items() if one == part) for part in PARTS}
    if halves["down"] or halves["up"]:
        return wrong(
            f"{'up' if halves['down'] else 'down'} still has the old numbers, or others.",
            why="a down of one adapter with an up of another is neither.",
            hint="both factors of every key.",
        )
    return wrong(
        f"some layer has other numbers than the adapter: {next(key for (key, _), ok in done.items() if not ok)}.",
        why="a model with layers of two adapters is neither.",
        hint="both factors of every key, as they are.",
    )


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
            hint="which of the five go through the same operations with the same numbers?",
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
