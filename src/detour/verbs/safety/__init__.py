"""Safety: train a classifier of prompts, show a policy, and measure what its layers catch."""

from typing import TYPE_CHECKING

from detour.lazy import exports_on_demand

if TYPE_CHECKING:
    from detour.verbs.safety.training import train_prompt_classifier as train_prompt_classifier

__getattr__, __dir__ = exports_on_demand(
    __name__,
    {
        "train_prompt_classifier": (f"{__name__}.training", "train_prompt_classifier"),
    },
)
