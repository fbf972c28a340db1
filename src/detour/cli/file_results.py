"""Results of the commands on adapter files, as people read them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from detour.cli.results import bytes_text, print_table, table_of

if TYPE_CHECKING:
    from detour.recipes.convert_adapter import ConvertResult
    from detour.recipes.merge_adapters import MergeResult
    from detour.recipes.show_adapter import AdapterReport, BaseMatch

MAX_PROBLEMS = 8


def counts_text(counts: Mapping[int, int] | Mapping[float, int]) -> str:
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
    for reason in result.left_out:
        click.echo(f"left out {reason}")


def show_report(report: "AdapterReport", *, as_json: bool, plot: Path | None) -> None:
    """``detour show``: what the file is, its blocks, what it says of itself."""
    if as_json:
        click.echo(report.to_json())
        return
    parts = ", ".join(f"{count} in {part}" for part, count in report.parts.items())
    kinds = ", ".join(f"{kind} ({count})" for kind, count in report.algorithms.items())
    click.echo(f"format     {report.file_format}, {report.dtype}, {bytes_text(report.num_bytes)}")
    click.echo(f"family     {report.family} ({report.family_why})")
    click.echo(f"layers     {parts}; {report.parameters:,} parameters; {kinds}")
    click.echo(f"rank       {counts_text(report.ranks)}")
    click.echo(f"alpha      {counts_text(report.alphas)}")
    click.echo(f"trigger    {report.trigger or 'none named'}")
    if report.tensor_sha256 is not None:
        agrees = {True: ", as the file says", False: ", NOT what the file says", None: ""}[report.hash_agrees]
        click.echo(f"sha-256    {report.tensor_sha256} of the tensors{agrees}")
    _print_blocks(report)
    rows = [(key, _shortened(text)) for key, text in report.metadata.items()]
    if rows:
        print_table(table_of("Metadata", (("key", "left"), ("value", "left")), rows))
    if report.has_config:
        click.echo("carries the settings of its run: --config prints them")
    if report.match is not None:
        _print_match(report.match)
    if plot is not None:
        click.echo(f"picture: {plot}")


def _print_blocks(report: "AdapterReport") -> None:
    measured = any(block.norm is not None for block in report.blocks)
    heads = [("block", "left"), ("layers", "right"), ("parameters", "right")]
    if measured:
        heads += [("norm of ΔW", "right"), ("stable rank", "right"), ("first", "right"), ("first 4", "right")]
    rows = []
    for block in report.blocks:
        row = [block.block, str(block.layers), f"{block.parameters:,}"]
        if measured:
            row += (
                ["-"] * 4
                if block.norm is None
                else [
                    f"{block.norm:.4g}",
                    f"{block.stable_rank:.2f}",
                    f"{block.first_share:.0%}",
                    f"{block.first_four_share:.0%}",
                ]
            )
        rows.append(row)
    print_table(table_of("Blocks", heads, rows))
    if not measured:
        click.echo("norms were left out, only the header was read; --norms computes them")


def _print_match(match: "BaseMatch") -> None:
    total = match.fitting + len(match.problems)
    click.echo(f"base       {match.fitting} of {total} layers are layers of {match.base}")
    for problem in match.problems[:MAX_PROBLEMS]:
        click.echo(f"  {problem}")
    if len(match.problems) > MAX_PROBLEMS:
        click.echo(f"  … and {len(match.problems) - MAX_PROBLEMS} more; --json lists them all")


def _shortened(text: str) -> str:
    flat = "".join(sign if sign.isprintable() else " " for sign in text)
    return flat if len(flat) <= 100 else flat[:99] + "…"


def show_merge(result: "MergeResult", *, as_json: bool) -> None:
    """``detour merge``: what went in, then both proofs."""
    if as_json:
        click.echo(result.to_json())
        return
    names = ", ".join(f"{one.name} ×{one.weight:g}" for one in result.adapters)
    click.echo(f"merged    {names} into {result.base}")
    click.echo(f"weights   {result.merged} changed, {result.untouched} tensors the same to the bit")
    click.echo(
        f"ΔW        largest relative difference after rounding to {', '.join(result.dtypes)}: "
        f"{result.largest_difference:.1e} at {result.at}"
    )
    if result.pictures is None:
        click.echo("pictures  not drawn")
    else:
        proof = result.pictures
        click.echo(
            f"pictures  merged against adapters: {proof.merged_mean:.3f} of 255 on average, at most "
            f"{proof.merged_max}; the adapters' own effect: {proof.effect:.2f} ({proof.pictures} pictures)"
        )
    click.echo(f"written   {result.path}")
