"""Results of recipes as people read them on a terminal, or as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from detour.recipes.inspect_base import AdapterCost, BaseInspection


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(table: "Table") -> None:
    """A rich table on stdout, as wide as the terminal (100 columns in a pipe)."""
    import shutil

    from rich.console import Console

    Console(width=max(shutil.get_terminal_size((100, 24)).columns, 80)).print(table)


def table_of(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> "Table":
    """A plain table; a column is (heading, ``left`` or ``right``)."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, justify in columns:
        table.add_column(heading, justify="right" if justify == "right" else "left", no_wrap=justify == "right")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def bytes_text(count: int) -> str:
    """``3.2 MB``, decimal units as file managers show them."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def show_inspection(inspection: "BaseInspection", *, as_json: bool, layers: bool, plot: Path | None) -> None:
    """``detour inspect``: parts, blocks, costs, and the layers on request."""
    if as_json:
        click.echo(inspection.to_json())
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
    heads = [("block", "left"), ("side", "right"), ("frozen", "right"), (f"r={first}", "right"), ("layers", "left")]
    print_table(table_of(f"Blocks, adapted: {inspection.targets}", heads, blocks))
    print_table(_cost_table(inspection))
    if layers:
        rows = [
            (layer.path, layer.kind, f"{layer.in_features} → {layer.out_features}", f"{layer.kernel[0]}×{layer.kernel[1]}")
            for layer in inspection.layers
            if layer.selected
        ]
        heads = [("layer", "left"), ("kind", "left"), ("shape", "right"), ("kernel", "right")]
        print_table(table_of(f"{len(rows)} layers match '{inspection.targets}'", heads, rows))
    for warning in inspection.warnings:
        click.echo(f"note: {warning}")
    if plot is not None:
        click.echo(f"picture: {plot}")


def _cost_table(inspection: "BaseInspection") -> "Table":
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
    return table_of("Adapter parameters", heads, rows)
