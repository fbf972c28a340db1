"""Training: a run from data to proof, its plan, its demo, its upload."""

from typing import TYPE_CHECKING

from detour.lazy import exports_on_demand

if TYPE_CHECKING:
    from detour.verbs.train.class_pictures import draw_class_pictures as draw_class_pictures
    from detour.verbs.train.demo import run_demo as run_demo
    from detour.verbs.train.distillation import distill_base as distill_base
    from detour.verbs.train.hub_upload import push_run as push_run
    from detour.verbs.train.memory_plan import plan_memory as plan_memory
    from detour.verbs.train.run import train_adapter as train_adapter
    from detour.verbs.train.run_list import list_runs as list_runs

__getattr__, __dir__ = exports_on_demand(
    __name__,
    {
        "train_adapter": (f"{__name__}.run", "train_adapter"),
        "distill_base": (f"{__name__}.distillation", "distill_base"),
        "run_demo": (f"{__name__}.demo", "run_demo"),
        "plan_memory": (f"{__name__}.memory_plan", "plan_memory"),
        "list_runs": (f"{__name__}.run_list", "list_runs"),
        "draw_class_pictures": (f"{__name__}.class_pictures", "draw_class_pictures"),
        "push_run": (f"{__name__}.hub_upload", "push_run"),
    },
)
