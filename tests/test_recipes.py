"""Imports that docs and lessons showed before ``import detour`` still work, and say what to write instead."""

import importlib
import sys

import pytest

from detour.recipes import MOVED

SHOWN = {
    "caption_pictures": ("caption_pictures",),
    "chosen_adapters": ("attach_chosen", "choose_adapter"),
    "compose_adapters": ("compose_adapters",),
    "draw_subject": ("NEW_PLACES", "WorldSubject", "draw_subject_pictures"),
    "evaluate_adapter": ("evaluate_adapter", "read_pictures"),
    "experiments.guidance": ("study_guidance",),
    "experiments.schedulers": ("study_schedulers",),
    "experiments.studio": ("Studio",),
    "finished_run": ("FinishedRun", "read_finished_run"),
    "forward_figure": ("OTHERS",),
    "generate_pictures": ("generate_pictures",),
    "held_out_material": ("write_world_style",),
    "inspect_base": ("inspect_base", "plot_unet"),
    "open_example": ("open_example",),
    "overfit_one": ("overfit_one",),
    "plan_memory": ("CARDS", "MemoryPlan", "plan_memory"),
    "prove_run": ("prove_run",),
    "resize_adapter": ("resize_adapter",),
    "run_demo": ("NUM_PICTURES", "RANK", "STYLE", "draw_training_pictures"),
    "trace_forward": ("schedule_config", "trace_forward"),
    "train_adapter": ("train_adapter",),
}
"""Module below ``detour.recipes`` → names that README, docs, course, lessons and benchmarks of that time imported."""


@pytest.mark.parametrize("module", sorted(SHOWN))
def test_an_import_that_docs_showed_works_with_a_warning(module: str) -> None:
    sys.modules.pop(f"detour.recipes.{module}", None)
    with pytest.warns(
        FutureWarning, match=rf"detour\.recipes\.{module} goes with the next version; use `import"
    ):
        old = importlib.import_module(f"detour.recipes.{module}")
    new = importlib.import_module(MOVED[module])
    assert all(getattr(old, name) is getattr(new, name) for name in SHOWN[module])


@pytest.mark.parametrize("module", sorted(set(MOVED) - set(SHOWN)))
def test_every_other_module_of_the_table_has_the_verb_of_its_name(module: str) -> None:
    assert callable(getattr(importlib.import_module(MOVED[module]), module))


def test_a_name_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"detour\.recipes\.train_adaptor"):
        importlib.import_module("detour.recipes.train_adaptor")


def test_the_statement_that_the_lessons_showed() -> None:
    sys.modules.pop("detour.recipes.experiments.studio", None)
    scope: dict[str, object] = {}
    with pytest.warns(FutureWarning):
        exec("from detour.recipes.experiments.studio import Studio", scope)
    assert "Studio" in scope
