"""Grades of lab 7, overfit in thirty seconds."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from detour.labs.comparing import Mistake, compare
from detour.labs.grading import Grade, Grader, right, wrong


def _learns(losses: list[float], moved: float, floor: float) -> bool:
    return losses[-1] < losses[0] and moved - floor > 0.5


def learns(answer: Callable[..., bool]) -> Grade:
    """Installations of every kind: sound ones, and those in which one of the two is missing."""
    fell, rose, flat = [0.30, 0.25, 0.10], [0.30, 0.10, 0.35], [0.30, 0.30, 0.30]
    late, early, long = [0.30, 0.35, 0.29], [0.30, 0.05, 0.30], [0.90, 0.2, 0.4, 0.8, 0.7]
    cases = [
        (list(losses), moved, floor)
        for losses in (fell, rose, flat, late, early, long)
        for moved, floor in (
            (4.0, 0.0),
            (0.0, 0.0),
            (0.9, 0.6),
            (1.3, 0.6),
            (0.4, 0.0),
            (0.7, 0.0),
            (0.5, 0.0),
            (6.0, 5.9),
            (2.0, 0.6),
        )
    ]
    return compare(
        answer,
        _learns,
        cases,
        [
            Mistake(
                formula=lambda losses, moved, floor: losses[-1] < losses[0],
                what="a picture that did not move counts as learned.",
                why="then the adapter is trained and not used: nobody will see anything of it.",
                hint="both conditions must hold: the loss fell, and 0.5 above the floor.",
            ),
            Mistake(
                formula=lambda losses, moved, floor: moved - floor > 0.5,
                what="a loss that ends above its start counts as learned.",
                why="random weights move pictures too.",
                hint="both conditions must hold: the loss fell, and 0.5 above the floor.",
            ),
            Mistake(
                formula=lambda losses, moved, floor: losses[-1] < losses[0] or moved - floor > 0.5,
                what="one of the two is enough for you.",
                why="a loss can fall while the adapter is not used, and a picture can move while nothing is learned.",
                hint="both conditions must hold: `and`, not `or`.",
            ),
            Mistake(
                formula=lambda losses, moved, floor: losses[-1] <= losses[0] and moved - floor > 0.5,
                what="a loss that did not fall counts as learned.",
                why="random weights move pictures too.",
                hint="< and not <=.",
            ),
            Mistake(
                formula=lambda losses, moved, floor: losses[-1] < losses[0] and moved > 0.5,
                what="a picture that moved by 0.9 where rounding moves 0.6 counts as learned.",
                why="in bf16 rounding alone scores 0.6: only what is above the floor is the adapter's.",
                hint="subtract the floor before you compare with 0.5.",
            ),
            Mistake(
                formula=lambda losses, moved, floor: losses[-1] < losses[0] and moved > floor,
                what="a picture that moved by 0.1 above the floor counts as learned.",
                why="nobody sees a tenth of a step.",
                hint="0.5 above the floor is a difference.",
            ),
            Mistake(
                formula=lambda losses, moved, floor: min(losses) < losses[0] and moved - floor > 0.5,
                what="a loss that fell on the way and rose again counts as learned.",
                why="what happened on the way does not matter: the first value against the last.",
                hint="losses[-1], not min(losses).",
            ),
            Mistake(
                formula=lambda losses, moved, floor: losses[-1] < losses[-2] and moved - floor > 0.5,
                what="you compare the last two losses.",
                why="the question is what all steps did together: the first value against the last.",
                hint="losses[-1] against losses[0].",
            ),
            Mistake(
                formula=lambda losses, moved, floor: (
                    sorted(losses)[::-1] == losses and losses[-1] < losses[0] and moved - floor > 0.5
                ),
                what="a loss that fell, after it rose, and a picture that moved do not count as learned.",
                why="first against last value: what happened in between does not matter.",
                hint="losses[-1] against losses[0].",
            ),
            Mistake(
                formula=lambda losses, moved, floor: losses[-1] > losses[0] and moved - floor > 0.5,
                what="a loss that rose counts as learned.",
                why="learning makes the loss smaller.",
                hint="turn the first comparison round.",
            ),
        ],
        why="a sound installation shows both: the last loss is below the first, the picture moved "
        "by 0.5 above the floor.",
        hint="losses[-1] against losses[0], the difference against the floor.",
    )


def questions(answer: Callable[..., Any]) -> Grade:
    """Fixed timesteps that are spread over the schedule, fixed normal noise; for several numbers and shapes."""
    for num, shape in ((5, (4, 8, 8)), (3, (4, 16, 16)), (9, (2, 8, 6))):
        found = _questions(answer, num, shape)
        if found is not None:
            return found
    return right("Two moments of a run can be compared now.")


def _questions(answer: Callable[..., Any], num: int, shape: tuple[int, ...]) -> Grade | None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        timesteps, noise = answer(num, shape)
        torch.manual_seed(2)
        again_timesteps, again_noise = answer(num, shape)
    if (
        not isinstance(noise, Tensor)
        or noise.shape != (num, *shape)
        or torch.as_tensor(timesteps).shape != (num,)
    ):
        return wrong(
            f"the shapes are not (num,) and (num, *shape) for num = {num} and shape = {shape}.",
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
    gaps = timesteps.sort().values.diff()
    if int(timesteps.min()) > 350 or int(timesteps.max()) < 650 or len(timesteps.unique()) < num:
        return wrong(
            f"the timesteps {timesteps.tolist()} leave a part of the schedule out.",
            why="what is learned shows at different timesteps: outlines at clean ones, layout at noisy ones.",
            hint="spread them evenly, say from 100 to 900.",
        )
    if int(gaps.max()) > 2 * max(1, int(gaps.min())):
        return wrong(
            f"the timesteps {timesteps.tolist()} are not spread evenly.",
            why="where they crowd, what is learned there counts several times.",
            hint="torch.linspace gives equal gaps.",
        )
    if (
        torch.equal(noise[0], noise[1])
        or not 0.85 < float(noise.std()) < 1.15
        or abs(float(noise.mean())) > 0.2
    ):
        return wrong(
            "the noise is not standard normal, or the same in every question.",
            why="the schedule is made for standard normal noise, and five questions tell more than one.",
            hint="torch.randn(num, *shape, generator=…)",
        )
    return None


def telling(answer: Mapping[str, Any]) -> Grade:
    """Prompts that share nothing with the training caption."""
    candidates, words = answer["candidates"], str(answer["caption"])
    if answer["chosen"] is None:
        return wrong(
            "no prompt is chosen.", why="a set is asked for.", hint="see the TODO in the cell above."
        )
    chosen = set(answer["chosen"])
    subject = words.split(" in the ")[0]
    unknown = sorted(map(str, chosen - set(candidates)))
    if unknown:
        return wrong(
            f"'{unknown[0]}' is none of the candidates.",
            why="the pictures below are drawn for the printed prompts.",
            hint="copy the prompts as they are printed.",
        )
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
