"""Grades lab 12, classifier-free guidance."""

import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detour.labs.grading import Grade, right, wrong

_SCALE = 3.0


def guided_prediction(answer: Callable[..., Tensor]) -> Grade:
    """Ask with a UNet whose answers are known, and name the formula that was written instead."""
    calls: list[int] = []
    generator = torch.Generator().manual_seed(0)
    latents, text, no_text = (
        torch.randn(shape, generator=generator) for shape in ((2, 4, 3, 3), (2, 5, 6), (2, 5, 6))
    )

    def unet(some: Tensor, _timestep: Tensor, states: Tensor) -> Tensor:
        calls.append(len(some))
        return some * 0.5 + states.mean(dim=(1, 2)).view(-1, 1, 1, 1)

    with_prompt, without = unet(latents, torch.tensor(5), text), unet(latents, torch.tensor(5), no_text)
    calls.clear()
    found = answer(unet, latents, torch.tensor(5), text, no_text, _SCALE)
    if not isinstance(found, Tensor) or found.shape != latents.shape:
        what = (
            f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        )
        return wrong(
            f"it returns {what}, not one prediction for each of the 2 latents.",
            why="the doubled batch has to be taken apart again: its halves are the two answers.",
            hint="both.chunk(2) gives the halves in the order in which you put them together.",
        )
    difference = with_prompt - without
    mistakes = {
        "the plain answer to the prompt": with_prompt,
        "the paper's form with this scale": with_prompt + _SCALE * difference,
        "a step away from the prompt": with_prompt - _SCALE * difference,
        "the prompt's answer times the scale": _SCALE * with_prompt,
        "the sum without its start": _SCALE * difference,
    }
    if torch.allclose(found, without + _SCALE * difference, atol=1e-5):
        if len(calls) > 1:
            return wrong(
                f"the prediction is right, but the UNet was asked {len(calls)} times.",
                why="two passes cost more than one of twice the pictures, most of all on a GPU.",
                hint="torch.cat the latents with themselves and no_text with text, ask once, chunk the answer.",
            )
        return right()
    hints = {
        "the plain answer to the prompt": "start at the answer without a prompt and go on beyond the other one.",
        "the paper's form with this scale": "that is its w = s − 1: start from the answer without a prompt instead.",
        "a step away from the prompt": "check which half is which: they come back in the order they went in.",
        "the prompt's answer times the scale": "scale the difference of the two answers, not an answer.",
        "the sum without its start": "add the answer without a prompt.",
    }
    for name, value in mistakes.items():
        if torch.allclose(found, value, atol=1e-5):
            return wrong(
                f"it is {name}.",
                why="at scale 1 it must be the answer to the prompt, at 0 the one without.",
                hint=hints[name],
            )
    return wrong(
        "it is not without + scale · (with − without).",
        why="at scale 1 it must be the answer to the prompt, at 0 the one without.",
        hint="try both scales by hand, and check that text goes with text and no_text with no_text.",
    )


def no_prompt(answer: Callable[..., Tensor]) -> Grade:
    """Ask with a text stage that knows which prompts it was given."""
    asked: list[str] = []

    def encode(prompts: list[str]) -> Any:
        asked.extend(prompts)
        return types.SimpleNamespace(
            states=torch.stack([torch.full((77, 4), 1.0 + len(text)) for text in prompts])
        )

    found = answer(types.SimpleNamespace(encode=encode), 3)
    if not isinstance(found, Tensor) or found.shape != (3, 77, 4):
        return wrong(
            f"it returns {_shape(found)}, not states of shape (3, 77, D) for 3 pictures.",
            why="every picture of the batch is asked without a prompt.",
            hint="encode a list with as many prompts as there are pictures, and take .states.",
        )
    if not found.any():
        return wrong(
            "it returns zeros.",
            why="SD 1.x and pocket saw the empty prompt where captions were left out; zeros they never saw.",
            hint='encode "" instead. (SDXL\'s base is the one that takes zeros.)',
        )
    if torch.equal(found, torch.ones_like(found)):
        return right()
    return wrong(
        f"it encodes {sorted(set(asked))}.",
        why="the model knows one thing for a caption that was left out: the empty prompt.",
        hint='encode "" for each picture, with no blank in it.',
    )


def same_as_pipeline(value: Mapping[str, Any]) -> Grade:
    """Compare two sets of pictures; one step of 255 is rounding."""
    mine, theirs = np.asarray(value["mine"]), np.asarray(value["theirs"])
    if mine.shape != theirs.shape:
        return wrong(
            f"your pictures have the shape {mine.shape}, the pipeline's {theirs.shape}.",
            why="they cannot be compared.",
            hint="draw as many pictures as there are prompts, at the base's own size.",
        )
    difference = np.abs(mine.astype(int) - theirs.astype(int))
    if difference.max(initial=0) <= 1:
        return right()
    return wrong(
        f"they differ by up to {difference.max()} of 255 ({difference.mean():.2f} on average).",
        why="same noise, same answers, same sampler: more than one step of rounding is another computation.",
        hint="the step and the states of no prompt are yours: pass both checks above first, then run this again.",
    )


def shown_captions(answer: Callable[..., list[str]]) -> Grade:
    """Many steps of eight captions: the right share, each for itself, the same again, nothing else changed."""
    captions = [f"caption {index}" for index in range(8)]
    steps = [answer(list(captions), step, 0.25) for step in range(400)]
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
    if list(answer(list(captions), 7, 0.25)) != list(steps[7]):
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
    share = empty.mean()
    if not 0.2 < share < 0.3:
        return wrong(
            f"{share:.0%} are left out where 25 % were asked for.",
            why="too many weaken the text, too few the answer without it.",
            hint="leave a caption out where its chance is below share.",
        )
    return right()


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
    clip = {row["scale"]: row["clip"] for row in rows}
    highest = max(clip, key=lambda scale: clip[scale])
    if best != highest:
        score = f"{clip[best]:.3f}" if best in clip else "not in the table"
        habit = " 7.5 is a habit of other bases, not a law." if best == 7.5 else ""
        return wrong(
            f"at scale {best:g} the CLIP score is {score}, which is not the highest.{habit}",
            why="the score rises, then falls again: beyond a point there is less of the picture to recognise.",
            hint="look for the largest number in the CLIP column.",
        )
    first = next((row["scale"] for row in rows if row["clipped"] >= 2 * rows[0]["clipped"]), "never")
    if clipped_from != first:
        return wrong(
            f"{clipped_from} is not the first scale with twice the clipped share of scale {rows[0]['scale']:g}.",
            why="burnt colours begin long before a picture looks broken.",
            hint=f"it is {rows[0]['clipped']:.1%} there; go down the column to the first with twice that.",
        )
    return right()


def _shape(found: Any) -> str:
    return f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__


TASKS = {
    "guided_prediction": guided_prediction,
    "no_prompt": no_prompt,
    "same_as_pipeline": same_as_pipeline,
    "shown_captions": shown_captions,
    "read_the_table": read_the_table,
}
