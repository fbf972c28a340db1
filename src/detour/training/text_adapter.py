"""An adapter beside the text encoders, with a rank and a rate of its own, trained in one run with the UNet's."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import nn

from detour.adapters.arithmetic import stabilised_alpha
from detour.adapters.attach import Attached, attach_new
from detour.adapters.places import LEGACY_TEXT_PREFIX
from detour.adapters.targets import AdaptableLayer, adaptable_layers, select
from detour.errors import ConfigError
from detour.specs import RunSpec
from detour.specs.resolved import ResolvedRun
from detour.training.methods import check_layers, has_up
from detour.training.resolving import check_rank

if TYPE_CHECKING:
    from detour.bases.base import Base


@dataclass(frozen=True)
class TextTargets:
    """Which layers of the text encoders get an adapter.

    Attributes:
        layers: text part → those that can learn; a part without any is left out.
        dead: keys of those that the targets name and that nothing reads in this family.
        notes: what the user should know.
    """

    layers: Mapping[str, tuple[AdaptableLayer, ...]]
    dead: tuple[str, ...]
    notes: tuple[str, ...] = ()


def trains_text(spec: RunSpec) -> bool:
    """Whether text states change during the run, so that they cannot be cached."""
    return bool(spec.adapter.text_encoder.rank or spec.adapter.tokens.words)


def choose_text_targets(base: "Base", spec: ResolvedRun) -> TextTargets:
    """Select the layers of a resolved run in its CLIP encoders; works on the meta device. Empty where none train.

    Raises:
        ConfigError: the targets match nothing in an encoder, or nothing that can learn.
    """
    text = spec.adapter.text_encoder
    if not text.rank:
        return TextTargets({}, ())
    patterns = [re.compile(pattern) for pattern in base.dead_by_structure(spec.data.resolution)]
    layers: dict[str, tuple[AdaptableLayer, ...]] = {}
    dead: list[str] = []
    for part, model in base.meta_text().items():
        if part == base.family.t5_part:
            continue
        chosen = _selected(model, text.targets)
        lost = {layer.path for layer in chosen if any(p.fullmatch(f"{part}.{layer.path}") for p in patterns)}
        dead += [f"{part}.{path}" for path in sorted(lost)]
        layers[part] = tuple(layer for layer in chosen if layer.path not in lost)
        if layers[part]:
            check_layers(spec.adapter.model_copy(update={"rank": text.rank}), layers[part])
    learning = [layer for found in layers.values() for layer in found]
    if not learning:
        raise ConfigError(
            f"adapter.text_encoder.targets '{text.targets}' matches only layers that nothing reads. Choose others, "
            "e.g. attn."
        )
    notes = []
    if base.family.t5_part in base.text_parts:
        notes.append(
            "The T5 gets no adapter: CLIP's text encoders alone train, and T5 stays loaded beside them."
        )
    if has_up(spec.adapter):
        key = "adapter.text_encoder.rank"
        notes += check_rank(text.rank, text.targets, learning, key=key, flag="--text-rank")
    if dead:
        first = ", ".join(dead[:2])
        notes.append(
            f"{len(dead)} layers of the text encoders are read by nothing and are left out: {first} …"
        )
    return TextTargets({part: found for part, found in layers.items() if found}, tuple(dead), tuple(notes))


def _selected(model: nn.Module, targets: str) -> list[AdaptableLayer]:
    try:
        return select(text_layers(model), targets)
    except ConfigError as error:
        raise ConfigError(f"adapter.text_encoder.{error}") from error


def attach_text(models: Mapping[str, nn.Module], targets: TextTargets, spec: ResolvedRun) -> list[Attached]:
    """Put a fresh adapter beside the chosen layers of each encoder; all of them freeze."""
    adapter, text = spec.adapter, spec.adapter.text_encoder
    alpha = float(text.alpha)
    if adapter.method == "full" or adapter.method == "reference":  # of the UNet alone
        return []
    return [
        attach_new(
            models[part],
            part,
            list(layers),
            rank=text.rank,
            alpha=stabilised_alpha(alpha, text.rank) if adapter.rslora else alpha,
            method=adapter.method,
            init=adapter.init,
            lokr_factor=adapter.lokr_factor or None,
            seed=spec.seed,
        )
        for part, layers in targets.layers.items()
    ]


def models_together(models: Mapping[str, nn.Module]) -> nn.Module:
    """All models of a run as one, for what looks at every tensor; a network alone stays itself."""
    return next(iter(models.values())) if len(models) == 1 else nn.ModuleDict(dict(models))


def text_layers(model: nn.Module) -> list[AdaptableLayer]:
    """Layers under the names that adapters have, whatever transformers calls them in this class."""
    return [
        replace(layer, path=layer.path.removeprefix(LEGACY_TEXT_PREFIX)) for layer in adaptable_layers(model)
    ]
