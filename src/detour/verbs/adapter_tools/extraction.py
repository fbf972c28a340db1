"""An adapter from the difference of two bases: what fine-tuning changed, at a low rank."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from detour.adapter_files.writing import FileDtype, FileFormat
from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.compose import truncate_matrix
from detour.adapters.places import LEGACY_TEXT_PREFIX
from detour.adapters.targets import AdaptableLayer, adaptable_layers
from detour.bases.base import Base, open_base
from detour.errors import AdapterError, BaseError
from detour.verbs.adapter_tools.adapter_output import refuse_place, write_proved
from detour.verbs.adapter_tools.resizing import KeptLayer, ResizeResult
from detour.verbs.progress import Progress, ProgressFn, silent
from detour.verbs.staging import refuse_taken


class ExtractResult(ResizeResult):
    """What was extracted; ``parameters_before`` counts the weights that differ."""

    left_out: tuple[str, ...]
    """Tensors that differ and that an adapter cannot hold: biases and norms."""


def extract_adapter(
    base: str,
    tuned: str,
    *,
    out: Path,
    rank: int = 16,
    energy: float | None = None,
    to: FileFormat = "kohya",
    dtype: FileDtype = "fp32",
    force: bool = False,
    progress: ProgressFn = silent,
) -> ExtractResult:
    """Write the adapter that makes ``base``'s UNet and text encoders into ``tuned``'s, as near as its rank allows.

    Args:
        base: name of a base with weights.
        tuned: one that was fine-tuned from it.
        out: where it goes.
        rank: at most this many directions a layer.
        energy: as few directions as keep this share of each layer's difference.
        to: format of the output.
        dtype: of the factors.
        force: overwrite existing output.
        progress: told layer by layer.

    Raises:
        BaseError: one of them cannot be loaded, or a part of theirs has other shapes.
        AdapterError: they do not differ.
        ConfigError: settings that do not go, or ``out`` is taken.
        ProofFailed: the file read back is not what was computed; there is no output.
    """
    refuse_place(out, to)
    refuse_taken(out, force=force)
    opened, other = open_base(base), open_base(tuned)
    layers: dict[str, LoraLayer] = {}
    kept: list[KeptLayer] = []
    left_out: list[str] = []
    total = left = 0.0
    numbers = 0
    for part in (opened.family.network_part, *opened.text_parts):
        before, after = _two_models(opened, other, part)
        candidates = adaptable_layers(before)
        for index, layer in enumerate(candidates):
            progress(Progress(stage=f"taking the {part} apart", done=index, total=len(candidates)))
            change = _weight(after, layer.path) - _weight(before, layer.path)
            if not bool(torch.isfinite(change).all()):
                raise BaseError(
                    f"'{part}.{layer.path}' holds NaN or infinity in '{base}' or '{tuned}'. Use another base."
                )
            if not change.any():
                continue
            cut = truncate_matrix(change, _shaped_like(layer), rank=rank, energy=energy)
            key = f"{part}.{layer.path.removeprefix(LEGACY_TEXT_PREFIX)}"
            layers[key] = cut.layer
            total, left, numbers = total + cut.energy, left + cut.energy * cut.kept, numbers + change.numel()
            most = min(change.flatten(1).shape)
            kept.append(KeptLayer(layer=key, rank_before=most, rank=cut.layer.rank, kept=cut.kept))
        left_out += (f"{part}.{name}" for name in _left_out(before, after, candidates))
    if not layers:
        raise AdapterError(f"'{base}' and '{tuned}' have the same weights: nothing to extract.")
    adapter = Adapter(layers, _metadata(opened, out.stem))
    written = write_proved(out, adapter, file_format=to, family=opened.family, dtype=dtype, force=force)
    return ExtractResult(
        path=written.path,
        dtype=written.dtype,
        layers=tuple(kept),
        kept=left / total,
        parameters_before=numbers,
        parameters=adapter.num_parameters,
        largest_difference=written.largest_difference,
        limit=written.limit,
        left_out=tuple(left_out),
    )


def _two_models(first: Base, second: Base, part: str) -> tuple[nn.Module, nn.Module]:
    before, after = (_part(base, part) for base in (first, second))
    shapes = [{name: tuple(t.shape) for name, t in model.state_dict().items()} for model in (before, after)]
    if shapes[0] != shapes[1]:
        odd = next(
            name
            for name in sorted(set(shapes[0]) | set(shapes[1]))
            if shapes[0].get(name) != shapes[1].get(name)
        )
        raise BaseError(
            f"the {part}s of '{first.name}' and '{second.name}' are of different shapes, the first at '{odd}'. "
            "Name a base and what was fine-tuned from it."
        )
    return before, after


def _part(base: Base, part: str) -> nn.Module:
    if part not in (base.family.network_part, *base.text_parts):
        raise BaseError(
            f"base '{base.name}' is {base.family.title}, which has no {part}. Name two of one family."
        )
    return base.load_part(part)


def _weight(model: nn.Module, path: str) -> Tensor:
    weight = model.get_submodule(path).weight
    assert isinstance(weight, Tensor)
    return weight.detach().double()


def _shaped_like(layer: AdaptableLayer) -> LoraLayer:
    """A layer of rank 1 that says whether factors are matrices or kernels."""
    kernel = layer.kernel if layer.kind == "conv" else ()
    ones = (1, 1) if layer.kind == "conv" else ()
    return LoraLayer(
        down=torch.zeros(1, layer.in_features, *kernel),
        up=torch.zeros(layer.out_features, 1, *ones),
        alpha=1.0,
    )


def _left_out(before: nn.Module, after: nn.Module, layers: list[AdaptableLayer]) -> tuple[str, ...]:
    held = {f"{layer.path}.weight" for layer in layers}
    others = after.state_dict()
    return tuple(
        name
        for name, tensor in before.state_dict().items()
        if name not in held and not torch.equal(tensor, others[name])
    )


def _metadata(base: Base, title: str) -> dict[str, str]:
    return {
        "detour.base": base.identity,
        "detour.family": base.family.name,
        "modelspec.title": title,
        "ss_output_name": title,
        "ss_base_model_version": base.family.kohya_version,
    }
