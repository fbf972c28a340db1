"""Experiments that people run by hand: a grid of variants and seeds, resumable, with a table and a sentence."""

from typing import TYPE_CHECKING

from detour.lazy import exports_on_demand

if TYPE_CHECKING:
    from detour.verbs.studies.blocks import study_blocks as study_blocks
    from detour.verbs.studies.compare import compare_runs as compare_runs
    from detour.verbs.studies.guidance import study_guidance as study_guidance
    from detour.verbs.studies.schedulers import study_schedulers as study_schedulers
    from detour.verbs.studies.timesteps import study_timesteps as study_timesteps

__getattr__, __dir__ = exports_on_demand(
    __name__,
    {
        "compare_runs": (f"{__name__}.compare", "compare_runs"),
        "study_schedulers": (f"{__name__}.schedulers", "study_schedulers"),
        "study_guidance": (f"{__name__}.guidance", "study_guidance"),
        "study_timesteps": (f"{__name__}.timesteps", "study_timesteps"),
        "study_blocks": (f"{__name__}.blocks", "study_blocks"),
    },
)
