"""Cost: what a served picture costs, from measured work and the operator's own prices."""

from typing import TYPE_CHECKING

from detour.lazy import exports_on_demand

if TYPE_CHECKING:
    from detour.verbs.cost.costing import estimate_cost as estimate_cost

__getattr__, __dir__ = exports_on_demand(
    __name__, {"estimate_cost": (f"{__name__}.costing", "estimate_cost")}
)
