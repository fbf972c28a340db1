"""Explanations: what a base is made of, a training step, the forward process, a first overfit."""

from typing import TYPE_CHECKING

from detour.lazy import exports_on_demand

if TYPE_CHECKING:
    from detour.verbs.explain.forward_trace import trace_forward as trace_forward
    from detour.verbs.explain.inspection import inspect_base as inspect_base
    from detour.verbs.explain.inspection import plot_unet as plot_unet
    from detour.verbs.explain.overfitting import overfit_one as overfit_one
    from detour.verbs.explain.slow_step import step_once as step_once

__getattr__, __dir__ = exports_on_demand(
    __name__,
    {
        "inspect_base": (f"{__name__}.inspection", "inspect_base"),
        "plot_unet": (f"{__name__}.inspection", "plot_unet"),
        "step_once": (f"{__name__}.slow_step", "step_once"),
        "trace_forward": (f"{__name__}.forward_trace", "trace_forward"),
        "overfit_one": (f"{__name__}.overfitting", "overfit_one"),
    },
)
