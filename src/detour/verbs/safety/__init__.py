"""Safety: train a classifier of prompts, show a policy, and measure what its layers catch."""

from typing import TYPE_CHECKING

from detour.lazy import exports_on_demand

if TYPE_CHECKING:
    from detour.verbs.safety.measuring import measure_policy as measure_policy
    from detour.verbs.safety.training import train_prompt_classifier as train_prompt_classifier

__getattr__, __dir__ = exports_on_demand(
    __name__,
    {
        "measure_policy": (f"{__name__}.measuring", "measure_policy"),
        "train_prompt_classifier": (f"{__name__}.training", "train_prompt_classifier"),
    },
)
