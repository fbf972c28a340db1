"""Grades of lab 7, overfit in thirty seconds."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from detour.labs.grading import Grade, Grader, right, wrong

CASES = (
    (([0.30, 0.25, 0.10], 4.0, 0.0), True, "", ""),
    (
        ([0.30, 0.10, 0.35], 4.0, 0.0),
        False,
        "a loss that ends above its start counts as learned.",
        "what happened on the way does not matter: the first value against the last.",
    ),
    (
        ([0.30, 0.25, 0.10], 0.0, 0.0),
        False,
        "a picture that did not move counts as learned.",
        "then the adapter is trained and not used: nobody will see anything of it.",
    ),
    (
        ([0.30, 0.30, 0.30], 4.0, 0.0),
        False,
        "a loss that did not fall counts as learned.",
        "random weights move pictures too.",
    ),
    (
        ([0.30, 0.25, 0.10], 0.9, 0.6),
        False,
        "a picture that moved by 0.9 where rounding moves 0.6 counts as learned.",
        "in bf16 rounding alone scores 0.6: only what is above the floor is the adapter's.",
    ),
    (
        ([0.30, 0.35, 0.29], 2.0, 0.6),
        True,
        "a loss that fell, after it rose, and a picture that moved do not count as learned.",
        "first against last value, and 1.4 above the floor: both are there.",
    ),
)
"""(arguments, right answer, what is wrong with the other one, why)."""


def learns(answer: Callable[..., bool]) -> Grade:
    """Six installations."""
    for arguments, expected, what, why in CASES:
        found = answer(*arguments)
        if found is None:
            return wrong(
                "it returns nothing.",
                why="the question has two answers: True and False.",
                hint="return a comparison of the first loss with the last, and of the difference with the floor.",
            )
        if bool(found) != expected:
            if not what:
                return wrong(
                    "a loss that fell by two thirds and a picture that moved by 4 do not count as learned.",
                    why="that is what a sound installation shows.",
                    hint="losses[-1] against losses[0], the difference against the floor.",
                )
            return wrong(
                what, why=why, hint="both conditions must hold: the loss fell, and 0.5 above the floor."
            )
    return right()


def questions(answer: Callable[..., Any]) -> Grade:
    """Fixed timesteps that are spread over the schedule, fixed normal noise."""
    shape = (4, 8, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        timesteps, noise = answer(5, shape)
        torch.manual_seed(2)
        again_timesteps, again_noise = answer(5, shape)
    if (
        not isinstance(noise, Tensor)
        or noise.shape != (5, *shape)
        or torch.as_tensor(timesteps).shape != (5,)
    ):
        return wrong(
            "the shapes are not (num,) and (num, *shape).",
            why="each question is a timestep and a noise.",
            hint="return two tensors.",
        )
    timesteps = torch.as_tensor(timesteps)
    if not torch.equal(timesteps, torch.as_tensor(again_timesteps)):
        return wrong(
            "the second call has other timesteps.",
            why="the loss at 100 is many times that at 900: a difference of two moments would be one of luck.",
            hint="choose them, do not draw them: torch.linspace.",
        )
    if not torch.equal(noise, again_noise):
        return wrong(
            "the second call has other noise.",
            why="another noise is another question.",
            hint="a torch.Generator with a fixed seed.",
        )
    if timesteps.dtype.is_floating_point:
        return wrong(
            "the timesteps are not whole numbers.",
            why="they choose a place in the schedule.",
            hint=".long()",
        )
    if int(timesteps.min()) < 0 or int(timesteps.max()) > 999:
        return wrong(
            f"the timesteps go from {int(timesteps.min())} to {int(timesteps.max())}.",
            why="the schedule has the timesteps 0 to 999.",
            hint="mind the ends.",
        )
    if int(timesteps.min()) > 300 or int(timesteps.max()) < 700 or len(timesteps.unique()) < 5:
        return wrong(
            f"the timesteps {timesteps.tolist()} leave a part of the schedule out.",
            why="what is learned shows at different timesteps: outlines at clean ones, layout at noisy ones.",
            hint="spread them evenly, say from 100 to 900.",
        )
    if torch.equal(noise[0], noise[1]) or not 0.8 < float(noise.std()) < 1.2:
        return wrong(
            "the noise is not standard normal, or the same in every question.",
            why="the schedule is made for standard normal noise, and five questions tell more than one.",
            hint="torch.randn(num, *shape, generator=…)",
        )
    return right("Two moments of a run can be compared now.")


def telling(answer: Mapping[str, Any]) -> Grade:
    """Prompts that share nothing with the training caption."""
    candidates, words = answer["candidates"], str(answer["caption"])
    if answer["chosen"] is None:
        return wrong(
            "no prompt is chosen.", why="a set is asked for.", hint="see the TODO in the cell above."
        )
    chosen = set(answer["chosen"])
    subject = words.split(" in the ")[0]
    if words in chosen:
        return wrong(
            "the training caption is among them.",
            why="it asks for the picture that was shown, and learning by heart is the best answer to it.",
            hint="what was not shown?",
        )
    near = sorted(prompt for prompt in chosen if subject in prompt)
    if near:
        return wrong(
            f"'{near[0]}' asks for the training picture in other words.",
            why="for the text encoder a rephrased caption lies next to the caption.",
            hint="take prompts that share no thing with it.",
        )
    far = {prompt for prompt in candidates if subject not in prompt}
    if chosen != far:
        return wrong(
            f"{len(far & chosen)} of {len(far)} telling prompts are chosen.",
            why="one prompt is an anecdote.",
            hint="every prompt counts that shares no thing with the caption.",
        )
    return right()


def stop_at(answer: Mapping[str, Any]) -> Grade:
    """The number of steps with the lowest loss on what was kept out."""
    curve, chosen = answer["curve"], answer["stop_at"]
    if chosen is None:
        return wrong("no number is given.", why="one is asked for.", hint="see the TODO in the cell above.")
    steps, kept = list(curve["steps"]), list(curve["kept out"])
    if chosen not in steps:
        return wrong(
            f"nothing was measured after {chosen} steps.",
            why="a choice needs a measurement.",
            hint=f"one of {steps}.",
        )
    loss = kept[steps.index(chosen)]
    if loss <= min(kept):
        return right("That is what `validate.keep_best` does.")
    if chosen == steps[-1]:
        return wrong(
            f"after {chosen} steps the kept-out loss is {loss:.4f}; it has been {min(kept):.4f}.",
            why="the training picture's loss is lowest there, and that is the trap.",
            hint="look at the other curve.",
        )
    if chosen == 0:
        return wrong(
            "0 steps is no training.",
            why="the kept-out loss falls at first: something is learned that holds for other pictures too.",
            hint="where is its lowest point?",
        )
    return wrong(
        f"after {chosen} steps the kept-out loss is {loss:.4f}, which is not its lowest value.",
        why="before that point more steps help, after it they harm.",
        hint="the smallest number in the last column.",
    )


TASKS: Mapping[str, Grader] = {
    "learns": learns,
    "questions": questions,
    "telling": telling,
    "stop_at": stop_at,
}
