"""Grades lab 12, classifier-free guidance."""

import math
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detour.labs.comparing import Mistake, compare, same_pictures
from detour.labs.grading import Grade, right, wrong
from detour.labs.wording import described


def _guidance_cases() -> list[tuple[Any, ...]]:
    """Latents, states, timesteps and scales; the UNet's answer depends on all that it is asked."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    for num, size, timestep, scale in ((2, 3, 5, 3.0), (1, 4, 900, 7.5), (3, 2, 321, 1.0), (2, 2, 40, 0.0)):
        shapes = ((num, 4, size, size), (num, 5, 6), (num, 5, 6))
        latents, text, no_text = (torch.randn(shape, generator=generator) for shape in shapes)
        cases.append((latents, torch.tensor(timestep), text, no_text, scale))
    return cases


def _unet(latents: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
    return latents * 0.5 + states.mean(dim=(1, 2)).view(-1, 1, 1, 1) * (1 + 0.1 * latents) + 0.01 * timestep


def _guided(combine: Callable[[Tensor, Tensor, float], Tensor]) -> Callable[..., Tensor]:
    def formula(latents: Tensor, timestep: Tensor, text: Tensor, no_text: Tensor, scale: float) -> Tensor:
        return combine(_unet(latents, timestep, no_text), _unet(latents, timestep, text), scale)

    return formula


def guided_prediction(answer: Callable[..., Tensor]) -> Grade:
    """Ask with a UNet whose answers are known, and name the formula that was written instead."""
    if not callable(answer):
        return compare(answer, max, [], why="", hint="")
    calls: list[Any] = []

    def unet(some: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        calls.append(timestep)
        return _unet(some, timestep, states)

    constant = _constant_scale(answer)
    formulas = (
        ("it is the plain answer to the prompt.", lambda no, yes, s: yes,
         "start at the answer without a prompt and go on beyond the other one."),
        ("it is the answer without a prompt.", lambda no, yes, s: no, "add the scaled difference of the two answers."),
        ("it is the paper's form with this scale.", lambda no, yes, s: yes + s * (yes - no),
         "that is its w = s − 1: start from the answer without a prompt instead."),
        ("it is a step away from the prompt.", lambda no, yes, s: yes + s * (no - yes),
         "check which half is which: they come back in the order they went in."),
        ("it is a step away from the prompt.", lambda no, yes, s: no + s * (no - yes),
         "check which half is which: they come back in the order they went in."),
        ("the two answers are swapped.", lambda no, yes, s: yes - s * (yes - no),
         "check which half is which: they come back in the order they went in."),
        ("it is the prompt's answer times the scale.", lambda no, yes, s: s * yes,
         "scale the difference of the two answers, not an answer."),
        ("it is the sum without its start.", lambda no, yes, s: s * (yes - no), "add the answer without a prompt."),
        ("the scale is not used.", lambda no, yes, s: no + constant * (yes - no),
         "multiply by scale, not by a number."),
        ("both answers are added.", lambda no, yes, s: no + s * yes, "scale the difference of the two answers."),
    )  # fmt: skip
    mistakes = [
        Mistake(
            formula=_guided(combine), what=what, hint=hint,
            why="at scale 1 it must be the answer to the prompt, at 0 the one without.",
        )
        for what, combine, hint in formulas
    ]  # fmt: skip
    mistakes.append(
        Mistake(
            formula=lambda latents, _timestep, text, no_text, scale: _guided(
                lambda no, yes, s: no + s * (yes - no)
            )(latents, torch.tensor(0), text, no_text, scale),
            what="the UNet is asked at timestep 0 whatever the timestep.",
            why="it is told how much noise there is by the timestep, and takes out as much.",
            hint="hand the given timestep on.",
        )
    )
    found = compare(
        lambda *given: answer(unet, *given),
        _guided(lambda no, yes, s: no + s * (yes - no)),
        _guidance_cases(),
        mistakes,
        why="it is not without + scale · (with − without), with both answers at the given latents and timestep.",
        hint="try both scales by hand, and check that text goes with text and no_text with no_text.",
    )
    if found.passed and len(calls) > len(_guidance_cases()):
        return wrong(
            f"the prediction is right, but the UNet was asked {len(calls) // len(_guidance_cases())} times.",
            why="two passes cost more than one of twice the pictures, most of all on a GPU.",
            hint="torch.cat the latents with themselves and no_text with text, ask once, chunk the answer.",
        )
    doubled = tuple(
        2 * size if place == 0 else size for place, size in enumerate(_guidance_cases()[0][0].shape)
    )
    if f"returns a tensor of shape {doubled}" in found.wrong:
        return wrong(
            found.wrong,
            why="the doubled batch has to be taken apart again: its halves are the two answers.",
            hint="both.chunk(2) gives the halves in the order in which you put them together.",
        )
    return found


def _constant_scale(answer: Callable[..., Any]) -> float:
    """Scale that the first case's prediction has, whatever scale was asked for; NaN where it has none."""
    case = _guidance_cases()[0]
    try:
        found = answer(_unet, *case).double()
        no, yes = (
            _guided(combine)(*case).double() for combine in (lambda no, yes, s: no, lambda no, yes, s: yes)
        )
        return float(((found - no) / (yes - no)).median())
    except Exception:  # what stops here is told by the comparison
        return math.nan


def no_prompt(answer: Callable[..., Tensor]) -> Grade:
    """Ask for one, three and four pictures, with a text stage that knows which prompts it was given."""
    for num in (3, 1, 4):
        found = _no_prompt(answer, num)
        if found is not None:
            return found
    return right()


def _no_prompt(answer: Callable[..., Tensor], num: int) -> Grade | None:
    asked: list[str] = []

    def states_of(text: str) -> Tensor:
        return torch.sin(torch.arange(77 * 4).view(77, 4) + 1.0 + 3 * len(text) + sum(map(ord, text)))

    def encode(prompts: list[str]) -> Any:
        if isinstance(prompts, str):
            raise TypeError("encode takes a list of prompts, and was given one text")
        asked.extend(prompts)
        return types.SimpleNamespace(states=torch.stack([states_of(text) for text in prompts]))

    found = answer(types.SimpleNamespace(encode=encode), num)
    if found is None:
        return wrong(
            "your function returns nothing.", why="it still has its placeholder.", hint="fill in the TODO."
        )
    if not isinstance(found, Tensor) or found.shape != (num, 77, 4):
        return wrong(
            f"it returns {described(found)}, not states of shape ({num}, 77, D) for {num} pictures.",
            why="every picture of the batch is asked without a prompt.",
            hint="encode a list with as many prompts as there are pictures, and take .states.",
        )
    if torch.allclose(found, states_of("").expand(num, 77, 4), rtol=1e-4, atol=1e-5):
        return None
    if not found.any():
        return wrong(
            "it returns zeros.",
            why="SD 1.x and pocket saw the empty prompt where captions were left out; zeros they never saw.",
            hint='encode "" instead. (SDXL\'s base is the one that takes zeros.)',
        )
    if not asked:
        return wrong(
            "it never asks the text encoder: these numbers are made up.",
            why="the UNet was trained with the states of one prompt where captions were left out, "
            "and knows only those.",
            hint='text_stage.encode(…) of "" for each picture.',
        )
    if set(asked) == {""}:
        return wrong(
            "it encodes the empty prompt, and changes the states afterwards.",
            why="the model knows one thing for a caption that was left out: these states, as they are.",
            hint="return .states as the text encoder gave them.",
        )
    return wrong(
        f"it encodes {sorted(set(asked))}.",
        why="the model knows one thing for a caption that was left out: the empty prompt.",
        hint='encode "" for each picture, with no blank in it.',
    )


def same_as_pipeline(value: Mapping[str, Any]) -> Grade:
    """Compare two sets of pictures; one step of 255 is rounding."""
    return same_pictures(
        value,
        "the pipeline's",
        praise="",
        why="same noise, same answers, same sampler: more than one step of rounding is another computation.",
        hint="the step and the states of no prompt are yours: pass both checks above first, then run this again.",
    )


def shown_captions(answer: Callable[..., list[str]]) -> Grade:
    """Many steps of eight captions: the right share, each for itself, the same again, nothing else changed."""
    for share in (0.25, 0.6):
        found = _shown_captions(answer, share)
        if found is not None:
            return found
    captions = [f"caption {index}" for index in range(5)]
    if list(answer(list(captions), 3, 0.0)) != captions or any(answer(list(captions), 3, 1.0)):
        return wrong(
            "with a share of 0 a caption is left out, or with a share of 1 one is kept.",
            why="0 means never and 1 means always.",
            hint="chance_for gives numbers from 0 up to, but not with, 1: leave out where chance < share.",
        )
    return right()


def _shown_captions(answer: Callable[..., list[str]], share: float) -> Grade | None:
    captions = [f"caption {index}" for index in range(8)]
    steps = [answer(list(captions), step, share) for step in range(400)]
    if any(not isinstance(step, list | tuple) or len(step) != len(captions) for step in steps):
        return wrong(
            "it does not return one caption for each picture.",
            why="a picture without a caption stays in the batch: it teaches the answer without a prompt.",
            hint='put "" in place of the caption instead of taking it out.',
        )
    if any(
        shown not in ("", caption) for step in steps for shown, caption in zip(step, captions, strict=True)
    ):
        return wrong(
            "it returns something other than the caption or the empty prompt.",
            why="the model has to learn one thing that means no prompt.",
            hint='put "" in place of a caption.',
        )
    empty = np.array([[shown == "" for shown in step] for step in steps])
    if not empty.any():
        return wrong(
            "no caption is ever left out.",
            why="a model that always saw captions cannot answer without one.",
            hint="compare chance_for(...) of each picture with share.",
        )
    if list(answer(list(captions), 7, share)) != list(steps[7]):
        return wrong(
            "the same step gives other captions the second time.",
            why="a run that was interrupted would go on as another run.",
            hint="use chance_for(SEED, step, index, purpose=...), not a generator that is carried along.",
        )
    together = (empty.all(axis=1) | ~empty.any(axis=1)).all()
    if together:
        return wrong(
            "all captions of a step are left out together.",
            why="then a whole step learns nothing about text, and another nothing without it.",
            hint="draw for each picture: the index belongs into chance_for.",
        )
    if (empty == empty[0]).all():
        return wrong(
            "the same pictures lose their captions in every step.",
            why="they would never be learned with a caption.",
            hint="the step belongs into chance_for.",
        )
    if abs(empty.mean() - share) > 0.04:
        return wrong(
            f"{empty.mean():.0%} are left out where {100 * share:.0f} % were asked for.",
            why="too many weaken the text, too few the answer without it.",
            hint="leave a caption out where its chance is below share.",
        )
    return None


def read_the_table(value: Mapping[str, Any]) -> Grade:
    """Two readings of the guidance table."""
    rows = [row for row in value["table"] if not isinstance(row["scale"], str)]
    best, clipped_from = value["best_scale"], value["clipped_from"]
    if best is None or clipped_from is None:
        return wrong(
            "one of the two numbers is missing.",
            why="both can be read from the table.",
            hint="best_scale: the highest CLIP score; clipped_from: the first scale with twice the clipped share.",
        )
    scales = [row["scale"] for row in rows]
    words = ", ".join(f"{scale:g}" for scale in scales)
    if best not in scales:
        return wrong(
            f"best_scale is {best!r}, which is none of the scales.",
            why="only what was drawn can be read from the table.",
            hint=f"one of {words}, as a number.",
        )
    clip = {row["scale"]: row["clip"] for row in rows}
    highest = max(clip, key=lambda scale: clip[scale])
    if best != highest:
        habit = " 7.5 is a habit of other bases, not a law." if best == 7.5 else ""
        return wrong(
            f"at scale {best:g} the CLIP score is {clip[best]:.3f}, which is not the highest.{habit}",
            why="beyond a point more guidance leaves less of the picture to recognise.",
            hint="look for the largest number in the CLIP column.",
        )
    if clipped_from != "never" and clipped_from not in scales:
        return wrong(
            f"clipped_from is {clipped_from!r}, which is none of the scales.",
            why="only what was drawn can be read from the table.",
            hint=f'one of {words}, as a number, or "never".',
        )
    first = next((row["scale"] for row in rows if row["clipped"] >= 2 * rows[0]["clipped"]), "never")
    if clipped_from != first:
        return wrong(
            f"{clipped_from} is not the first scale with twice the clipped share of scale {rows[0]['scale']:g}.",
            why="values pile up at the ends before a picture looks broken.",
            hint=f"it is {rows[0]['clipped']:.1%} there; go down the column to the first with twice that.",
        )
    return right()


TASKS = {
    "guided_prediction": guided_prediction,
    "no_prompt": no_prompt,
    "same_as_pipeline": same_as_pipeline,
    "shown_captions": shown_captions,
    "read_the_table": read_the_table,
}
