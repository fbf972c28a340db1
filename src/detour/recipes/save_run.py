"""The adapter file that a run leaves."""

from dataclasses import replace
from pathlib import Path

from detour.adapter_files import kohya_metadata, write_adapter
from detour.adapters.attach import Attached
from detour.recipes.run_plan import RunPlan


def save_run_adapter(plan: RunPlan, attached: Attached, folder: Path) -> Path:
    """Write the adapter with all that its file says about itself; same settings and weights, same bytes."""
    path = folder / f"{plan.spec.name}.safetensors"
    spec, base = plan.spec, plan.base
    plain = attached.to_adapter()
    metadata = kohya_metadata(
        plain,
        family=base.family,
        identity=base.identity,
        title=str(spec.name),
        resolution_px=int(spec.data.resolution),
        run=spec,
        tags=plan.dataset.tags if spec.data.tag_table else None,
        num_examples=len(plan.dataset),
        prediction_type=str(base.scheduler_config().get("prediction_type", "epsilon")),
    )
    write_adapter(
        path, replace(plain, metadata=metadata), file_format="kohya", family=base.family, dtype="fp32"
    )
    return path
