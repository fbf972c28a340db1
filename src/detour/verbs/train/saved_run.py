"""The adapter file that a run leaves; or, where the base's own weights were trained, the whole base."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detour.adapter_files import kohya_metadata, write_adapter
from detour.adapter_files.metadata import shareable
from detour.adapter_files.reference_files import write_reference_adapter
from detour.adapter_files.sidecar import write_sidecar
from detour.adapter_files.words import write_words
from detour.adapter_methods import facts_of
from detour.adapters.adapter import Adapter
from detour.adapters.attach import Attached
from detour.adapters.full import FullWeights
from detour.adapters.reference_weights import ReferenceWeights
from detour.bases.base import Base
from detour.specs import RunSpec, to_toml
from detour.training.checkpoints import adapter_of
from detour.training.run_folder import OWN_JSON
from detour.verbs.adapter_tools.merged_weights import files_of_base
from detour.verbs.staging import staged
from detour.verbs.train.run_plan import RunPlan

WHOLE_NETWORK = "diffusion_pytorch_model.safetensors"
"""File of a fully trained network, in the folder of the base's network part."""


def product_of(folder: Path, spec: RunSpec) -> Path:
    """What a run ships: ``NAME.safetensors``, or the folder ``NAME-full`` of a fully fine-tuned base."""
    return folder / (f"{spec.name}-full" if spec.adapter.method == "full" else f"{spec.name}.safetensors")


def save_run_adapter(plan: RunPlan, attached: Attached, folder: Path, *, step: int | None = None) -> Path:
    """Write the adapter with all that its file says about itself; same settings and weights, same bytes.

    Beside it go its trigger and a picture, as other programs show them (:mod:`detour.adapter_files.sidecar`).

    Args:
        plan: the run's.
        attached: the factors.
        folder: the run's.
        step: that these are the weights of; the first sample picture of that step, where one was drawn, goes into the
            file as its thumbnail.
    """
    path = product_of(folder, plan.spec)
    if isinstance(attached, FullWeights):
        return _save_base(path, plan.base, attached)
    if isinstance(attached, ReferenceWeights):
        return _save_reference(path, plan, attached)
    described = _described(plan, attached, folder, step)
    _save_kohya(path, described, plan)
    picture = None if step is None else first_sample(folder, step)
    write_sidecar(path, described, plan.base.family, picture, taken=OWN_JSON)
    if step is not None:
        _save_copies(path, described, plan.spec, plan.base)
    return path


def keep_adapter_of(plan: RunPlan, attached: Attached, folder: Path, *, step: int) -> Path:
    """Write what would be shipped after ``step`` beside the checkpoints, byte for byte what the run would leave.

    Raises:
        StorageError: disk full, no permission; files of other steps are untouched.
    """
    path = adapter_of(folder, step)
    if isinstance(attached, ReferenceWeights):
        return _save_reference(path, plan, attached)
    _save_kohya(path, _described(plan, attached, folder, step), plan)
    return path


def _save_reference(path: Path, plan: RunPlan, trained: ReferenceWeights) -> Path:
    """The IP-Adapter under the names of its authors' files, with what it says of itself."""
    spec, base = plan.spec, plan.base
    metadata = {
        "format": "pt",
        "modelspec.title": spec.name,
        "detour.kind": "ip-adapter",
        "detour.base": base.identity,
        "detour.family": base.family.name,
        "detour.config": to_toml(shareable(spec, base.identity)),
    }
    return write_reference_adapter(path, trained.tensors(), metadata)


def _save_kohya(path: Path, adapter: Adapter, plan: RunPlan) -> None:
    fused = facts_of(plan.spec.adapter.method).joins
    write_adapter(path, adapter, file_format="kohya", family=plan.base.family, dtype="fp32", fused=fused)
    write_words(path, adapter.words)


def _described(plan: RunPlan, attached: Attached, folder: Path, step: int | None) -> Adapter:
    """The factors as they are now, and what the file says about them."""
    spec, base = plan.spec, plan.base
    plain = attached.to_adapter()
    metadata = kohya_metadata(
        plain,
        family=base.family,
        identity=base.identity,
        title=spec.name,
        resolution_px=spec.data.resolution,
        run=spec,
        tags=plan.dataset.tags if spec.data.tag_table else None,
        num_examples=len(plan.dataset),
        prediction_type=str(base.scheduler_config().get("prediction_type", "epsilon")),
        thumbnail=None if step is None else first_sample(folder, step),
    )
    return replace(plain, metadata=metadata)


def _save_copies(path: Path, adapter: Adapter, spec: RunSpec, base: Base) -> None:
    """Write the adapter in other formats too, beside the file, each one atomically.

    Raises:
        StorageError: disk full, no permission; what stood there before stays.
    """
    for file_format in spec.adapter.formats:
        with staged(path.with_name(f"{path.stem}-{file_format}"), force=True) as fresh:
            write_adapter(fresh, adapter, file_format=file_format, family=base.family, dtype="fp32")


def first_sample(folder: Path, step: int) -> NDArray[np.uint8] | None:
    """(H, W, 3) uint8: what the weights of a step drew for the first sample prompt; None where nothing was drawn."""
    pictures = sorted((folder / "samples" / f"step-{step:06d}").glob("00-*.png"))
    if not pictures:
        return None
    with Image.open(pictures[0], formats=["PNG"]) as image:
        return np.asarray(image.convert("RGB"))


def _save_base(path: Path, base: Base, trained: FullWeights) -> Path:
    """The base as a diffusers folder with the network as it is now, in float32; all else copied.

    Raises:
        StorageError: disk full, no permission; what stood there before stays.
    """
    from detour.tensor_files import write_tensors

    assert base.weights is not None
    with staged(path, force=True) as fresh:
        for source in files_of_base(base):
            place = source.relative_to(base.weights)
            if place.parts[0] != base.family.network_part or source.suffix == ".json":
                (fresh / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, fresh / place)
        # Parameters are views of the optimizer's buffer: clones, because a view would be saved with all of it.
        tensors = {name: tensor.cpu().clone() for name, tensor in trained.model.state_dict().items()}
        write_tensors(fresh / base.family.network_part / WHOLE_NETWORK, tensors, {"format": "pt"})
    return path
