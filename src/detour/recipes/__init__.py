"""The names that the Python API had before ``import detour``; they work for this version, with a warning.

``from detour.recipes.train_adapter import train_adapter`` is ``from detour import train`` now. Every module of the
table is found on demand and takes its names from where they are defined today.
"""

import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED: Mapping[str, str] = {
    "caption_pictures": "detour.verbs.datasets.captioning",
    "check_data": "detour.verbs.datasets",
    "chosen_adapters": "detour.verbs.chosen_adapters",
    "compose_adapters": "detour.verbs.adapter_tools.composition",
    "convert_adapter": "detour.verbs.adapter_tools.conversion",
    "draw_grid": "detour.verbs.draw",
    "draw_strengths": "detour.verbs.draw",
    "draw_subject": "detour.verbs.datasets.practice_subject",
    "evaluate_adapter": "detour.verbs.judge.evaluation_run",
    "evaluate_checkpoints": "detour.verbs.judge.checkpoint_scores",
    "examine": "detour.verbs.doctor.examination",
    "experiments.guidance": "detour.verbs.studies.guidance",
    "experiments.schedulers": "detour.verbs.studies.schedulers",
    "experiments.studio": "detour.verbs.studies.studio",
    "extract_adapter": "detour.verbs.adapter_tools.extraction",
    "finished_run": "detour.verbs.judge.finished_run",
    "forward_figure": "detour.verbs.explain.forward_figure",
    "generate_pictures": "detour.verbs.draw.pictures",
    "held_out_material": "detour.verbs.judge.held_out_material",
    "inspect_base": "detour.verbs.explain.inspection",
    "list_runs": "detour.verbs.train.run_list",
    "merge_adapters": "detour.verbs.adapter_tools.merging",
    "open_example": "detour.verbs.explain.example",
    "overfit_one": "detour.verbs.explain.overfitting",
    "plan_memory": "detour.verbs.train.memory_plan",
    "prove_run": "detour.verbs.judge.proof_of_run",
    "push_run": "detour.verbs.train",
    "resize_adapter": "detour.verbs.adapter_tools.resizing",
    "run_demo": "detour.verbs.train.demo",
    "show_adapter": "detour.verbs.adapter_tools",
    "step_once": "detour.verbs.explain.slow_step",
    "trace_forward": "detour.verbs.explain.forward_trace",
    "train_adapter": "detour.verbs.train.run",
}
"""Module below ``detour.recipes`` → where its names are defined today."""


class MovedModules(MetaPathFinder, Loader):
    """Finds the modules of :data:`MOVED`, each an empty module that looks its names up in the new place."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Say how a module is loaded; ``None`` for every name that is not in the table."""
        package, _, name = fullname.partition(f"{__name__}.")
        if package or not any(known == name or known.startswith(f"{name}.") for known in MOVED):
            return None
        return ModuleSpec(fullname, self, is_package=name not in MOVED)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:  # noqa: ARG002
        """Leave the making of the module to Python."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Warn, and let the module look its names up where they are defined today."""
        moved = MOVED.get(module.__name__.removeprefix(f"{__name__}."))
        if moved is None:
            return
        warnings.warn(
            f"{module.__name__} goes with the next version; use `import detour` (docs/api.md) or {moved}.",
            FutureWarning,
            stacklevel=2,
        )

        def look_up(name: str) -> Any:
            return getattr(import_module(moved), name)

        module.__dict__["__getattr__"] = look_up


sys.meta_path.append(MovedModules())
