"""Facts about the optimizers: which library has each, and which settings suit it."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from detour.errors import ConfigError

OptimizerName = Literal["adamw", "adamw8bit", "adafactor", "prodigy", "lion", "schedule_free"]


@dataclass(frozen=True, kw_only=True)
class OptimizerFacts:
    """What suits one optimizer, and what it needs.

    Attributes:
        title: as its authors write it.
        rate: multiple of the rate that AdamW takes for the same job.
        sets_rate: it finds the rate itself; a run's rate is a factor of that, 1 by default.
        beta2: decay of the second moment (Lion: of its only one).
        schedule: shape of the rate that its authors advise.
        module: what has to be importable.
        extra: of this package, which installs it.
        state: what it remembers, as a multiple of the parameters' own bytes.
        why: the sentence that a run says when the rate was left to it.
    """

    title: str
    rate: float = 1.0
    sets_rate: bool = False
    beta2: float = 0.999
    schedule: Literal["cosine", "constant"] = "cosine"
    module: str = "torch"
    extra: str = ""
    state: float = 2
    why: str = ""


OPTIMIZERS: Mapping[OptimizerName, OptimizerFacts] = {
    "adamw": OptimizerFacts(title="AdamW"),
    "adamw8bit": OptimizerFacts(title="AdamW8bit", module="bitsandbytes", extra="quant", state=0.5),
    "adafactor": OptimizerFacts(title="Adafactor", module="transformers", state=0.1),
    "prodigy": OptimizerFacts(
        title="Prodigy",
        sets_rate=True,
        module="prodigyopt",
        extra="optim",
        state=4,
        why="it finds its rate itself, from train.optim.d0 on, and takes 1 as a factor of that; metrics.jsonl has the "
        "rate that it took as d_lr",
    ),
    "lion": OptimizerFacts(
        title="Lion",
        rate=0.2,
        beta2=0.99,
        module="lion_pytorch",
        extra="optim",
        state=1,
        why="each of its steps has the full size of the rate, so it wants a fifth of AdamW's (arXiv:2302.06675)",
    ),
    "schedule_free": OptimizerFacts(
        title="AdamWScheduleFree",
        schedule="constant",
        module="schedulefree",
        extra="optim",
        why="it averages weights instead of lowering the rate, which stays constant (arXiv:2405.15682)",
    ),
}


def default_rate(name: OptimizerName, adamw_rate: float) -> float:
    """The rate for an optimizer where AdamW takes ``adamw_rate``."""
    facts = OPTIMIZERS[name]
    return 1.0 if facts.sets_rate else facts.rate * adamw_rate


def require_package(name: OptimizerName) -> None:
    """Raise now if the optimizer's library is not installed.

    Raises:
        ConfigError: names the pip command.
    """
    facts = OPTIMIZERS[name]
    if facts.extra and importlib.util.find_spec(facts.module) is None:
        raise ConfigError(
            f"train.optim.name '{name}' needs the package '{facts.module}', which is not installed. "
            f"Run: pip install detour-lora[{facts.extra}]"
        )


D0_SHARE = 1 / 3
"""Prodigy's first estimate as a share of AdamW's rate for the same job; measured in docs/training.md."""


def default_d0(name: OptimizerName, adamw_rate: float) -> float | None:
    """Prodigy's first estimate where AdamW takes ``adamw_rate``; ``None`` for optimizers that have no estimate.

    Its library begins at 1e-6, from where the estimate needs more steps to grow than a short adapter run has.
    """
    return D0_SHARE * adamw_rate if OPTIMIZERS[name].sets_rate else None


def larger_steps(name: OptimizerName) -> str:
    """What a user changes for larger steps; a rate found by the optimizer itself is no setting."""
    return "raise train.optim.d0" if OPTIMIZERS[name].sets_rate else "raise train.optim.lr"


def smaller_steps(name: OptimizerName, *, lr: float, d0: float | None) -> str:
    """What a user changes for smaller steps, with what it is now."""
    return f"--set train.optim.d0, now {d0:g}" if OPTIMIZERS[name].sets_rate and d0 else f"--lr, now {lr:g}"
