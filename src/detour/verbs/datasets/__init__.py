"""Data sets: checks before training, captions, and practice pictures that are drawn by code."""

from typing import TYPE_CHECKING

from detour.lazy import exports_on_demand

if TYPE_CHECKING:
    from detour.verbs.datasets.captioning import caption_pictures as caption_pictures
    from detour.verbs.datasets.checks import check_data as check_data
    from detour.verbs.datasets.practice_subject import draw_subject_pictures as draw_subject_pictures

__getattr__, __dir__ = exports_on_demand(
    __name__,
    {
        "check_data": (f"{__name__}.checks", "check_data"),
        "caption_pictures": (f"{__name__}.captioning", "caption_pictures"),
        "draw_subject_pictures": (f"{__name__}.practice_subject", "draw_subject_pictures"),
    },
)
