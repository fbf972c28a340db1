"""What a base is made of and what an adapter beside it would cost: from settings alone, no weights needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from detour.adapter_methods import AdapterMethod as Method
from detour.adapters.arithmetic import BYTES, count, file_bytes, usable_rank
from detour.adapters.targets import PRESETS, AdaptableLayer, adaptable_layers, select
from detour.bases import parts
from detour.bases.base import Base, open_base
from detour.bases.families import FAMILIES
from detour.errors import BaseError, ConfigError
from detour.verbs.explain.inspection_result import (
    AdapterCost,
    BaseInspection,
    BlockInfo,
    GroupInfo,
    LayerInfo,
    PartInfo,
)
from detour.verbs.explain.unet_figure import draw_unet

GROUPS: Sequence[tuple[str, str]] = (
    (r"^single_transformer_blocks\.\d+\.norm\.", "modulation"),
    (r"^single_transformer_blocks\.\d+\.(attn|proj)", "single block"),
    (r"^transformer_blocks\.\d+\.attn\.(add_|to_add_)", "text attention"),
    (r"^transformer_blocks\.\d+\.attn\.", "image attention"),
    (r"^transformer_blocks\.\d+\.attn2\.", "image self-attention"),
    (r"^transformer_blocks\.\d+\.norm", "modulation"),
    (r"^transformer_blocks\.\d+\.ff(_context)?\.", "feed-forward"),
    (r"^(time_text_embed|x_embedder|context_embedder|pos_embed)", "embedding"),
    (r"^(norm_out|proj_out)", "output"),
    (r"\.attn1\.", "self-attention"),
    (r"\.attn2\.", "cross-attention"),
    (r"\.ff\.", "feed-forward"),
    (r"\.proj_(in|out)$", "projections"),
    (r"(^|\.)resnets\.", "ResNets"),
    (r"\.(down|up)samplers\.", "resampling"),
    (r"_embedding\.", "embedding"),
)
"""Kinds of layers, told from their paths; what matches none is ``convolution``."""


def inspect_base(
    name: str,
    *,
    targets: str = "attn",
    ranks: Sequence[int] = (4, 8, 16),
    method: Method = "lora",
    revision: str | None = None,
) -> BaseInspection:
    """Count a base's parts, blocks and layers, and what adapters beside it would cost.

    Args:
        name: as for :func:`detour.bases.base.open_base`; ``sd15``, ``sd21`` and ``sdxl`` need no weights.
        targets: preset, list of names or ``re:`` expression that is marked as adapted.
        ranks: ranks to count at; the first one stands in the blocks.
        method: what the layers would be.
        revision: of a hub id.

    Raises:
        BaseError: the base cannot be opened.
        ConfigError: the targets match nothing, or a rank is not positive.
    """
    if not ranks or min(ranks) < 1:
        raise ConfigError(f"ranks {list(ranks)}: name at least one, and each 1 or more, e.g. --rank 4,8,16.")
    base = open_base(name, revision=revision, weights=False)
    network = base.meta_network()
    layers = adaptable_layers(network)
    chosen = select(layers, targets)
    total = _parameters(network)
    dead = _dead(base, layers)
    present = {preset: [layer for layer in layers if belongs(layer)] for preset, belongs in PRESETS.items()}
    choices = [(targets, chosen)] if targets not in PRESETS else []
    choices += [(preset, found) for preset, found in present.items() if found]
    choices.sort(key=lambda choice: choice[0] != targets)
    return BaseInspection(
        name=name,
        identity=base.identity,
        family=base.family.name,
        title=base.family.title,
        native_size_px=base.native_size_px,
        latent_size=base.native_size_px // base.latent_factor,
        latent_channels=base.latent_channels,
        cross_attention_width=base.cross_attention_width,
        recommended_guidance=base.recommended_guidance,
        prediction="flow velocity"
        if base.is_flow
        else str(base.scheduler_config().get("prediction_type", "epsilon")),
        has_weights=_has_weights(base),
        targets=targets,
        method=method,
        parts=_parts(base, total),
        blocks=_blocks(base, network, chosen, ranks[0], method),
        layers=tuple(_layer(layer, layer in chosen) for layer in layers),
        costs=tuple(
            _cost(label, found, rank, method, total, dead) for label, found in choices for rank in ranks
        ),
        warnings=(*_warnings(chosen, ranks), *_words_on_dead(targets, chosen, dead, ranks, method)),
    )


def _dead(base: Base, layers: Sequence[AdaptableLayer]) -> frozenset[str]:
    """Paths of the network's layers that can get no gradient at the base's own size."""
    part = base.family.network_part
    patterns = [re.compile(pattern) for pattern in base.dead_by_structure()]
    return frozenset(
        layer.path
        for layer in layers
        if any(pattern.fullmatch(f"{part}.{layer.path}") for pattern in patterns)
    )


def _words_on_dead(
    targets: str, chosen: Sequence[AdaptableLayer], dead: frozenset[str], ranks: Sequence[int], method: Method
) -> tuple[str, ...]:
    lost = [layer.path for layer in chosen if layer.path in dead]
    if not lost:
        return ()
    more = f" and {len(lost) - 4} more" if len(lost) > 4 else ""
    left = [layer for layer in chosen if layer.path not in dead]
    counts = ", ".join(f"{count(left, rank, method):,} parameters at rank {rank}" for rank in ranks)
    return (
        f"of the {len(chosen)} layers of '{targets}', training leaves out what can get no gradient by structure: "
        f"{', '.join(lost[:4])}{more}. {len(left)} layers are trained: {counts}.",
    )


def _has_weights(base: Base) -> bool:
    try:
        base.require_weights()
    except BaseError:
        return False
    return True


def _parts(base: Base, network_parameters: int) -> tuple[PartInfo, ...]:
    found = [PartInfo(name=base.family.network_part, kind=base.family.network, parameters=network_parameters)]
    for part in ("vae", *base.text_parts):
        model = parts.empty_part(part, base.config(part))
        found.append(PartInfo(name=part, kind=type(model).__name__, parameters=_parameters(model)))
    return tuple(found)


def _blocks(
    base: Base, network: nn.Module, chosen: Sequence[AdaptableLayer], rank: int, method: Method
) -> tuple[BlockInfo, ...]:
    sizes: dict[str, int] = {}
    for name, parameter in network.named_parameters():
        block = block_of(name)
        sizes[block] = sizes.get(block, 0) + parameter.numel()
    layers = adaptable_layers(network)
    latent = base.native_size_px // base.latent_factor
    if not base.family.has_unet:
        latent, levels = latent // 2, 1  # patches of 2×2
    else:
        levels = len(base.network_config["block_out_channels"])
    return tuple(
        BlockInfo(
            name=block,
            side=_side(block, latent, levels),
            parameters=sizes[block],
            adapter_parameters=count(
                [layer for layer in chosen if block_of(layer.path) == block], rank, method
            ),
            groups=_groups([layer for layer in layers if block_of(layer.path) == block], chosen),
        )
        for block in sorted(sizes, key=_forward_order)
    )


def block_of(path: str) -> str:
    """``down_blocks.1.resnets.0.conv1`` → ``down_blocks.1``; ``mid_block.…`` → ``mid_block``."""
    found = re.match(r"((?:down|up|single_transformer|transformer)_blocks\.\d+|\w+)", path)
    assert found is not None
    return found[1]


def _forward_order(block: str) -> tuple[int, int, str]:
    order = (
        "time_embedding", "add_embedding", "conv_in", "down_blocks", "mid_block", "up_blocks", "pos_embed",
        "x_embedder", "time_text_embed", "context_embedder", "transformer_blocks", "single_transformer_blocks",
        "norm_out", "proj_out",
    )  # fmt: skip
    kind, _, index = block.partition(".")
    return (order.index(kind) if kind in order else len(order), int(index or 0), block)


def _side(block: str, latent: int, levels: int) -> int:
    kind, _, index = block.partition(".")
    level = {
        "down_blocks": int(index or 0),
        "up_blocks": levels - 1 - int(index or 0),
        "mid_block": levels - 1,
    }
    return max(1, latent // 2 ** level.get(kind, 0))


def _groups(layers: Sequence[AdaptableLayer], chosen: Sequence[AdaptableLayer]) -> tuple[GroupInfo, ...]:
    paths = {layer.path for layer in chosen}
    kinds: dict[str, list[str]] = {}
    for layer in layers:
        kinds.setdefault(kind_of(layer.path), []).append(layer.path)
    return tuple(
        GroupInfo(kind=kind, layers=len(found), adapted=sum(path in paths for path in found))
        for kind, found in kinds.items()
    )


def kind_of(path: str) -> str:
    """What a layer does, in words: ``self-attention``, ``ResNets`` …"""
    return next((kind for pattern, kind in GROUPS if re.search(pattern, path)), "convolution")


def _layer(layer: AdaptableLayer, selected: bool) -> LayerInfo:
    return LayerInfo(
        path=layer.path,
        kind=layer.kind,
        in_features=layer.in_features,
        out_features=layer.out_features,
        kernel=layer.kernel,
        usable_rank=usable_rank(layer),
        selected=selected,
    )


def _cost(
    label: str,
    layers: Sequence[AdaptableLayer],
    rank: int,
    method: Method,
    total: int,
    dead: frozenset[str],
) -> AdapterCost:
    trained = [layer for layer in layers if layer.path not in dead]
    parameters = count(layers, rank, method)
    return AdapterCost(
        targets=label,
        modules=len(layers),
        rank=rank,
        parameters=parameters,
        share=parameters / (total + parameters),
        file_bytes={dtype: file_bytes(layers, rank, dtype, method) for dtype in BYTES},
        trained_modules=len(trained),
        trained_parameters=count(trained, rank, method),
    )


def _warnings(chosen: Sequence[AdaptableLayer], ranks: Sequence[int]) -> tuple[str, ...]:
    sentences = []
    for rank in ranks:
        capped = [f"{layer.path} ({usable_rank(layer)})" for layer in chosen if usable_rank(layer) < rank]
        if capped:
            shown = ", ".join(capped[:4]) + (f" and {len(capped) - 4} more" if len(capped) > 4 else "")
            sentences.append(f"rank {rank} is more than these layers can use: {shown}.")
    return tuple(sentences)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def plot_unet(inspection: BaseInspection, path: Path) -> Path:
    """Draw the UNet as a U, frozen and adapted layers told apart in colour and in words; a PNG.

    Raises:
        ConfigError: the network is no UNet.
    """
    if not FAMILIES[inspection.family].has_unet:
        raise ConfigError(
            f"--plot draws a UNet, and base '{inspection.name}' is a transformer: a row of blocks of one size. "
            "Leave --plot out; the table of blocks says all."
        )
    return draw_unet(inspection, path)
