"""Defaults of each goal (a style or a subject) on each base: rank, layers, rate, steps and batch, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from detour.bases.base import Base

Goal = Literal["style", "subject"]


@dataclass(frozen=True, kw_only=True)
class GoalDefaults:
    """What suits a goal on a base, and why."""

    rank: int
    targets: str
    lr: float
    steps: int
    batch: int
    why: str


# (embedded base or family, goal) → defaults. Only pocket's and the style's of pocket-flow were measured here; the
# others are where published recipes meet.
# A style changes how everything is drawn, so it wants every attention layer or more and few samples of each picture;
# a subject has to be told apart from its kind, so it wants more steps on fewer pictures and a caption that is always
# there, lest the unconditional picture becomes the subject.
GOALS: Mapping[tuple[str, Goal], GoalDefaults] = {
    ("pocket", "style"): GoalDefaults(
        rank=4,
        targets="all",
        lr=1.2e-2,
        steps=120,
        batch=8,
        why="a small base takes a high rate, and a style reaches into the convolutions too",
    ),
    ("pocket", "subject"): GoalDefaults(
        rank=8,
        targets="all",
        lr=3e-3,
        steps=150,
        batch=8,
        why="measured in docs/subjects.md: the subject is seen in new places and its class keeps its looks",
    ),
    ("pocket-flow", "style"): GoalDefaults(
        rank=4,
        targets="all",
        lr=1e-2,
        steps=120,
        batch=8,
        why="a small base takes a high rate, and every layer learns a style faster than joint attention alone",
    ),
    ("pocket-flow", "subject"): GoalDefaults(
        rank=8,
        targets="all",
        lr=2.5e-3,
        steps=150,
        batch=8,
        why="a quarter of a style's rate, as on pocket; not measured on this base",
    ),
    ("sd1", "style"): GoalDefaults(
        rank=8,
        targets="attn",
        lr=1e-4,
        steps=1000,
        batch=4,
        why="published recipes for styles sit near rank 8, all attention, rate 1e-4",
    ),
    ("sd1", "subject"): GoalDefaults(
        rank=16,
        targets="attn",
        lr=1e-4,
        steps=800,
        batch=2,
        why="published recipes for subjects sit near rank 16, all attention, rate 1e-4",
    ),
    ("sd2", "style"): GoalDefaults(
        rank=8,
        targets="attn",
        lr=1e-4,
        steps=1000,
        batch=4,
        why="as SD 1.x: its attention is as wide",
    ),
    ("sd2", "subject"): GoalDefaults(
        rank=16,
        targets="attn",
        lr=1e-4,
        steps=800,
        batch=2,
        why="as SD 1.x: its attention is as wide",
    ),
    ("sdxl", "style"): GoalDefaults(
        rank=16,
        targets="attn",
        lr=1e-4,
        steps=1200,
        batch=2,
        why="published recipes take twice SD 1.x's rank; a sample costs eight times as much, so fewer at once",
    ),
    ("sdxl", "subject"): GoalDefaults(
        rank=16,
        targets="attn",
        lr=1e-4,
        steps=800,
        batch=1,
        why="published recipes for subjects on SDXL take rank 16 to 32, rate 1e-4, one or two pictures at once",
    ),
    ("sd3", "style"): GoalDefaults(
        rank=16,
        targets="attn",
        lr=4e-5,
        steps=1500,
        batch=2,
        why="trainers of SD 3.5 report that rates above 4e-5 can explode; published recipes take rank 16",
    ),
    ("sd3", "subject"): GoalDefaults(
        rank=16,
        targets="attn",
        lr=4e-5,
        steps=1000,
        batch=1,
        why="trainers of SD 3.5 report that rates above 4e-5 can explode; published recipes take rank 16",
    ),
    ("flux", "style"): GoalDefaults(
        rank=16,
        targets="attn",
        lr=1e-4,
        steps=1500,
        batch=1,
        why="published recipes meet at rank 16, alpha 16, rate 1e-4, 1,500 to 2,000 steps",
    ),
    ("flux", "subject"): GoalDefaults(
        rank=16,
        targets="attn",
        lr=1e-4,
        steps=1000,
        batch=1,
        why="published recipes meet at rank 16, alpha 16, rate 1e-4; a subject takes fewer steps than a style",
    ),
}

CAPTION_DROPOUT: Mapping[Goal, float] = {"style": 0.1, "subject": 0.0}


def defaults_for(base: "Base", goal: Goal) -> GoalDefaults:
    """Row of :data:`GOALS` for a base: the package's own have theirs, others go by family."""
    return GOALS[base.family.name if base.embedded is None else base.embedded.defaults, goal]
