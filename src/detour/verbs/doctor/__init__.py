"""Rules for what makes bad pictures: pure functions of facts, each finding with its cause and its fix."""

from typing import TYPE_CHECKING

from detour.lazy import exports_on_demand

if TYPE_CHECKING:
    from detour.verbs.doctor.examination import examine as examine
    from detour.verbs.doctor.request import examine_request as examine_request

__getattr__, __dir__ = exports_on_demand(
    __name__,
    {
        "examine": (f"{__name__}.examination", "examine"),
        "examine_request": (f"{__name__}.request", "examine_request"),
    },
)
