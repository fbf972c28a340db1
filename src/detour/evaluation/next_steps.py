"""Finds the command to run after a verdict."""

import shlex
from dataclasses import dataclass
from typing import Literal

VerdictWord = Literal[
    "learned",
    "no_effect",
    "forgot_prompts",
    "overfit",
    "copies",
    "collapsed",
    "class_drifted",
    "inconclusive",
]
"""All verdicts that a run or an adapter can get."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Facts about a run that a command needs.

    Attributes:
        run: its folder, or the adapter file.
        adapter: the adapter file.
        pictures: folder that it was trained on.
        base: that it was trained on, as ``--base`` takes it.
        settings: file of the run's settings; empty for an adapter file alone.
        steps: of its training; ``None`` where that is not known.
        rate: peak learning rate.
        first_estimate: ``d0`` of an optimizer that sets its rate itself from there on; ``None`` for others.
        class_prompt: of a subject.
        prior: whether pictures of the class were trained beside the subject.
        prompt: one of the new prompts.
    """

    run: str = "RUN"
    adapter: str = "ADAPTER"
    pictures: str = "PICTURES"
    base: str = "BASE"
    settings: str = ""
    steps: int | None = None
    rate: float | None = None
    first_estimate: float | None = None
    class_prompt: str = "CLASS"
    prior: bool = False
    prompt: str = "PROMPT"


@dataclass(frozen=True, kw_only=True)
class Doubts:
    """Causes of an open verdict.

    Attributes:
        data: too few pictures, captions that do not fit them, or pictures that are what the base draws anyway.
        judge: it reads nothing in the base's own pictures.
        prompts: how many would probably settle what is unknown.
        short: prompts are followed, and the pictures went too little of the way.
    """

    data: bool
    judge: bool
    prompts: int
    short: bool = False


def next_step(verdict: VerdictWord, run: RunFacts, doubts: Doubts) -> str:
    """The command to run next.

    Args:
        verdict: of the run.
        run: its names and settings; a capital word stands where one is not known.
        doubts: only read when the verdict is open.
    """
    steps, more = ("STEPS",) * 2 if run.steps is None else (str(max(1, run.steps // 2)), str(2 * run.steps))
    begins = run.first_estimate
    option, speed = ("--lr ", run.rate) if begins is None else ("--set train.optim.d0=", begins)
    rate, lower = ("RATE", "RATE") if not speed else (f"{2 * speed:.3g}", f"{speed / 3:.3g}")
    on_base = f"--base {shlex.quote(run.base)}"
    if run.settings:  # every other setting stays as it was; the run's own name gets a number
        train = f"detour train --config {shlex.quote(run.settings)}"
    else:
        train = f"detour train {shlex.quote(run.pictures)} {on_base}"
    ask = f"detour generate {shlex.quote(run.prompt)} {on_base}"
    commands: dict[VerdictWord, str] = {
        "learned": f"{ask} --lora {shlex.quote(run.adapter)} --compare",
        "no_effect": f"{train} {option}{rate}",
        "copies": f"{train} --steps {steps}",
        "collapsed": f"{train} {option}{lower}",
        "overfit": f"{train} --ship best_proof",
        "forgot_prompts": f"{train} --steps {steps}",
        "class_drifted": f"{train} --steps {steps}"
        if run.prior
        else f"{train} --goal subject --class-prompt {shlex.quote(run.class_prompt)} --prior",
        "inconclusive": f"{train} --steps {more}"
        if doubts.short and not doubts.data and not doubts.judge
        else _settling(run, doubts),
    }
    return commands[verdict]


def _settling(run: RunFacts, doubts: Doubts) -> str:
    if doubts.data:
        return f"detour data check {shlex.quote(run.pictures)}"
    evaluate = f"detour evaluate {shlex.quote(run.run)}"
    if not run.settings:
        evaluate += f" --base {shlex.quote(run.base)} --pictures {shlex.quote(run.pictures)}"
    return f"{evaluate} --judge JUDGE" if doubts.judge else f"{evaluate} --num-prompts {doubts.prompts}"
