"""How planted runs are made, and which verdicts are right for each."""

from dataclasses import dataclass, field
from typing import Any, Literal

Captions = Literal["honest", "alike", "shuffled", "others"]
Goal = Literal["style", "subject"]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One way to make a run.

    Attributes:
        accepted: verdicts that are right.
        decidable: whether ``inconclusive`` counts as an abstention that should not be; where it is not, that verdict is
            among the accepted ones.
        pictures: in the folder of the run.
        captions: ``alike``: all say "a picture"; ``shuffled``: each picture has another one's; ``others``: of scenes
            that no picture shows.
        noise: pictures are noise.
        mixed: every second picture is in another technique.
        trigger: put in front of every caption.
        prior: whether class pictures are trained beside a subject.
        settings: that differ from what the goal sets.
        adapter_of: another condition, whose adapter is taken: nothing is trained.
        weight: with which it is attached.
        scrambled: whether the channels of its layers are permuted, as an adapter finds them in a base that was trained
            from another start.
        why: what makes the accepted verdicts the right ones.
    """

    accepted: tuple[str, ...]
    decidable: bool = True
    pictures: int = 20
    captions: Captions = "honest"
    noise: bool = False
    mixed: bool = False
    trigger: str = ""
    prior: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    adapter_of: str = ""
    weight: float = 1.0
    scrambled: bool = False
    why: str = ""


STYLES: dict[str, Condition] = {
    "good": Condition(accepted=("learned",), why="twenty pictures, true captions, what the goal sets"),
    "rate 0": Condition(
        accepted=("no_effect",), settings={"train.optim.lr": 0.0, "train.steps": 2}, why="nothing moves"
    ),
    "captions shuffled": Condition(
        accepted=("forgot_prompts", "collapsed", "inconclusive"), decidable=False, captions="shuffled",
        why="the style may take, what captions say is unlearned or cannot be told",
    ),
    "captions alike": Condition(
        accepted=("learned", "forgot_prompts", "inconclusive"), decidable=False, captions="alike",
        why="a style can be learned without captions; whether prompts survive it is not given by construction",
    ),
    "three pictures": Condition(
        accepted=("inconclusive", "copies", "overfit", "forgot_prompts", "collapsed"), decidable=False, pictures=3,
        why="too few to tell a style from these pictures",
    ),
    "one picture": Condition(
        accepted=("copies", "collapsed", "overfit", "forgot_prompts", "inconclusive"), decidable=False, pictures=1,
        why="one picture is no style",
    ),
    "far too long": Condition(
        accepted=("overfit", "copies", "forgot_prompts", "collapsed", "inconclusive"), decidable=False, pictures=8,
        settings={"train.steps": 240, "train.batch": 4, "train.schedule.kind": "constant"},
        why="eight pictures, over a hundred times each, at a rate that never falls",
    ),
    "rate ten times too high": Condition(
        accepted=("collapsed", "forgot_prompts"), settings={"train.optim.lr": 0.12, "train.steps": 30},
        why="the weights are thrown far away",
    ),
    "weight 2.5": Condition(
        accepted=("collapsed", "forgot_prompts", "inconclusive", "learned"), decidable=False,
        adapter_of="good", weight=2.5, why="two and a half times the change that was learned",
    ),
    "weight 0.1": Condition(
        accepted=("no_effect", "inconclusive"), decidable=False, adapter_of="good", weight=0.1,
        why="a tenth of the change: some effect, hardly the style",
    ),
    "wrong base": Condition(
        accepted=("no_effect", "collapsed", "forgot_prompts", "inconclusive"), decidable=False,
        adapter_of="good", scrambled=True, why="the layers fit, what their channels mean does not",
    ),
    "captions of others": Condition(
        accepted=("forgot_prompts", "collapsed", "inconclusive"), decidable=False, captions="others",
        why="as shuffled ones, but no caption fits any picture",
    ),
    "noise": Condition(
        accepted=("collapsed", "forgot_prompts", "inconclusive"), decidable=False, noise=True,
        why="there is nothing to learn but noise",
    ),
    "with a trigger": Condition(accepted=("learned",), trigger="zqx style", why="as good, behind a new word"),
    "two styles mixed": Condition(
        accepted=("learned", "inconclusive"), decidable=False, mixed=True, why="neither style, or either, or both"
    ),
}  # fmt: skip
"""Conditions of styles, in the order in which they are made."""

SUBJECTS: dict[str, Condition] = {
    "good": Condition(
        accepted=("learned", "class_drifted"), pictures=12,
        why="twelve pictures, true captions, class pictures beside; whether those keep the class is not given",
    ),
    "class not preserved": Condition(
        accepted=("class_drifted",), pictures=12, prior=False,
        settings={"train.steps": 120, "train.optim.lr": 6e-3},
        why="no class pictures, twice the rate, twice the steps: the class becomes the subject",
    ),
    "rate 0": Condition(
        accepted=("no_effect",), pictures=12, prior=False, settings={"train.optim.lr": 0.0, "train.steps": 2},
        why="nothing moves",
    ),
    "good without a trigger": Condition(
        accepted=("class_drifted",), pictures=12, prior=False, captions="honest", trigger="none",
        settings={"train.steps": 120, "train.optim.lr": 6e-3},
        why="captions call it by its class alone: the class is what is taught",
    ),
    "three pictures": Condition(
        accepted=("inconclusive", "learned", "class_drifted", "copies", "overfit"), decidable=False, pictures=3,
        why="few, yet a subject may be told from them; whether class pictures keep the class is not given",
    ),
    "captions shuffled": Condition(
        accepted=("learned", "class_drifted", "inconclusive"), decidable=False, pictures=12, captions="shuffled",
        why="captions differ in the place alone: the subject may be learned all the same; the class as in a good run",
    ),
    "weight 0.1": Condition(
        accepted=("no_effect", "inconclusive"), decidable=False, pictures=12, adapter_of="good", weight=0.1,
        why="a tenth of the change",
    ),
}  # fmt: skip
"""Conditions of subjects, in the order in which they are made."""
