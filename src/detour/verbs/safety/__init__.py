"""Safety: train a classifier of prompts, check a server's log, and measure what its layers catch."""

from typing import TYPE_CHECKING

from detour.lazy import exports_on_demand

if TYPE_CHECKING:
    from detour.verbs.safety.auditing import check_safety_log as check_safety_log
    from detour.verbs.safety.measuring import measure_policy as measure_policy
    from detour.verbs.safety.training import train_prompt_classifier as train_prompt_classifier

__getattr__, __dir__ = exports_on_demand(
    __name__,
    {
        "check_safety_log": (f"{__name__}.auditing", "check_safety_log"),
        "measure_policy": (f"{__name__}.measuring", "measure_policy"),
        "train_prompt_classifier": (f"{__name__}.training", "train_prompt_classifier"),
    },
)
