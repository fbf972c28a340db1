"""Results of the commands on adapter files, as people read them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from detour.recipes.convert_adapter import ConvertResult


def counts_text(counts: Mapping[float, int]) -> str:
    """``4`` where all layers agree, else ``4 (30 layers), 8 (2 layers)``."""
    if len(counts) == 1:
        return f"{next(iter(counts)):g}"
    return ", ".join(f"{value:g} ({count} layers)" for value, count in counts.items())


def proof_text(difference: float, limit: float, at: str) -> str:
    """The ΔW proof in one sentence."""
    where = f" at {at}" if difference > 0 else ""
    return f"largest relative difference of a layer's change {difference:.1e}{where} (limit {limit:.1e})"


def show_conversion(result: "ConvertResult", *, as_json: bool) -> None:
    """``detour convert``: what was in it, then the proof."""
    if as_json:
        click.echo(result.to_json())
        return
    parts = ", ".join(f"{count} in {part}" for part, count in result.layers.items())
    click.echo(f"family   {result.family} ({result.family_why})")
    click.echo(f"layers   {parts}")
    click.echo(f"rank     {counts_text(result.ranks)}")
    click.echo(f"alpha    {counts_text(result.alphas)}")
    click.echo(f"ΔW       {proof_text(result.largest_difference, result.limit, result.at)}")
    click.echo(f"written  {result.path} ({result.to}, {result.dtype})")
