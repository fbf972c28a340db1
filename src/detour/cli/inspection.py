"""What ``detour inspect`` shows."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from detour.cli.results import Rows, bytes_text, echo_json, print_table, table_of

if TYPE_CHECKING:
    from detour.verbs.explain.inspection_result import AdapterCost, BaseInspection


def show_inspection(inspection: "BaseInspection", *, as_json: bool, layers: bool, plot: Path | None) -> None:
    """``detour inspect``: parts, blocks, costs, and the layers on request."""
    if as_json:
        echo_json(inspection.to_json())
        return
    click.echo(
        f"{inspection.name}: {inspection.title}, {inspection.prediction} prediction, "
        f"{inspection.native_size_px} px, latents {inspection.latent_size}×{inspection.latent_size}"
        f"×{inspection.latent_channels}, text width {inspection.cross_attention_width}"
        + ("" if inspection.has_weights else " (configuration only, no weights)")
    )
    parts = [(part.name, part.kind, f"{part.parameters:,}") for part in inspection.parts]
    print_table(table_of("Parts", (("part", "left"), ("class", "left"), ("parameters", "right")), parts))
    first = inspection.costs[0].rank
    blocks = [
        (
            block.name,
            f"{block.side}²",
            f"{block.parameters:,}",
            f"{block.adapter_parameters:,}",
            ", ".join(
                f"{group.layers} {group.kind}" + (f" ({group.adapted} adapted)" if group.adapted else "")
                for group in block.groups
            ),
        )
        for block in inspection.blocks
    ]
    heads = [
        ("block", "left"),
        ("side", "right"),
        ("frozen", "right"),
        (f"r={first}", "right"),
        ("layers", "left"),
    ]
    print_table(table_of(f"Blocks, adapted: {inspection.targets}", heads, blocks))
    print_table(_cost_table(inspection))
    if layers:
        rows = [
            (
                layer.path,
                layer.kind,
                f"{layer.in_features} → {layer.out_features}",
                f"{layer.kernel[0]}×{layer.kernel[1]}",
            )
            for layer in inspection.layers
            if layer.selected
        ]
        heads = [("layer", "left"), ("kind", "left"), ("shape", "right"), ("kernel", "right")]
        print_table(table_of(f"{len(rows)} layers match '{inspection.targets}'", heads, rows))
    for warning in inspection.warnings:
        click.echo(f"note: {warning}")
    if plot is not None:
        click.echo(f"picture: {plot}")


def _cost_table(inspection: "BaseInspection") -> Rows:
    """One row for each choice of layers, its parameters at every rank side by side."""
    ranks = sorted({cost.rank for cost in inspection.costs})
    chosen: dict[str, dict[int, AdapterCost]] = {}
    for cost in inspection.costs:
        chosen.setdefault(cost.targets, {})[cost.rank] = cost
    rows = []
    for targets, by_rank in chosen.items():
        first = by_rank[ranks[0]]
        rows.append(
            (
                targets,
                str(first.modules),
                *(f"{by_rank[rank].parameters:,}" for rank in ranks),
                f"{first.share:.4%}",
                bytes_text(first.file_bytes["fp32"]),
                bytes_text(first.file_bytes["fp16"]),
            )
        )
    heads = [("targets", "left"), ("modules", "right")]
    heads += [(f"r={rank}", "right") for rank in ranks]
    heads += [(f"share, r={ranks[0]}", "right"), ("fp32 file", "right"), ("fp16 file", "right")]
    return table_of(f"Adapter parameters, {inspection.method}", heads, rows)
