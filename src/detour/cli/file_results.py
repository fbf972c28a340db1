"""Results of the commands on adapter files, as people read them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from detour.adapters.overlap import RELATED
from detour.cli.results import bytes_text, echo_json, print_table, table_of
from detour.printing import printable

if TYPE_CHECKING:
    from detour.verbs.adapter_tools.composition_result import ComposeResult, PairPrediction
    from detour.verbs.adapter_tools.contents import AdapterReport, BaseMatch, ReferenceReport
    from detour.verbs.adapter_tools.conversion import ConvertResult
    from detour.verbs.adapter_tools.extraction import ExtractResult
    from detour.verbs.adapter_tools.measured_overlap import MeasuredPair
    from detour.verbs.adapter_tools.merging import MergeResult
    from detour.verbs.adapter_tools.resizing import ResizeResult
    from detour.verbs.draw.grid import GridResult
    from detour.verbs.draw.interpolation import Interpolation
    from detour.verbs.draw.strengths import StrengthResult

MAX_PROBLEMS = 8
MAX_LEFT_OUT = 20


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
        echo_json(result.to_json())
        return
    parts = ", ".join(f"{count} in {part}" for part, count in result.layers.items())
    click.echo(f"family   {result.family} ({printable(result.family_why)})")
    click.echo(f"layers   {parts}")
    click.echo(f"rank     {counts_text(result.ranks)}")
    click.echo(f"alpha    {counts_text(result.alphas)}")
    click.echo(f"ΔW       {proof_text(result.largest_difference, result.limit, result.at)}")
    if result.dora_compared is not None:
        how = {
            "factors": "DoRA's change needs a base: factors and magnitudes were compared (--base compares weights too)",
            "base": "DoRA layers were compared by factors, magnitudes and what they make of the base's weights",
        }
        click.echo(f"note     {how[result.dora_compared]}")
    click.echo(f"written  {result.path} ({result.to}, {result.dtype})")
    if result.grown:
        name, (before, after) = next(iter(result.grown.items()))
        click.echo(
            f"note     rank grows in {len(result.grown)} layers that stand for several (first: {name}, {before} to "
            f"{after}): their parts have factors of their own, and the change is kept exactly"
        )
    if result.folded:
        rounded = f"{result.folded_rounded} of them rounded once more" if result.folded_rounded else "exactly"
        click.echo(
            f"note     alpha was not the rank in {result.folded} layers: the scale went into the factors "
            f"({rounded}), because ComfyUI reads such files without alpha"
        )
    for note in result.notes:
        click.echo(f"note     {note}")
    if result.left_out:
        click.echo(
            f"in part  {sum(result.layers.values())} layers were read; of the rest, {len(result.left_out)}:"
        )
    for cause in result.left_out[:MAX_LEFT_OUT]:
        click.echo(f"left out {printable(cause)}")
    if len(result.left_out) > MAX_LEFT_OUT:
        click.echo(f"  … and {len(result.left_out) - MAX_LEFT_OUT} more; --json lists them all")


def show_report(report: "AdapterReport", *, as_json: bool, plot: Path | None) -> None:
    """``detour show``: what the file is, its blocks, what it says of itself."""
    if as_json:
        echo_json(report.to_json())
        return
    parts = ", ".join(f"{count} in {part}" for part, count in report.parts.items())
    kinds = ", ".join(f"{kind} ({count})" for kind, count in report.algorithms.items())
    click.echo(f"format     {report.file_format}, {report.dtype}, {bytes_text(report.num_bytes)}")
    click.echo(f"family     {report.family} ({printable(report.family_why)})")
    click.echo(f"layers     {parts}; {report.parameters:,} parameters; {kinds}")
    click.echo(f"rank       {counts_text(report.ranks)}")
    click.echo(f"alpha      {counts_text(report.alphas)}")
    click.echo(f"trigger    {_shortened(report.trigger) if report.trigger else 'none named'}")
    for word, vectors in report.words.items():
        click.echo(f"word       {_shortened(word)} ({vectors} vector{'s' if vectors > 1 else ''} of its own)")
    if report.tensor_sha256 is not None:
        agrees = {True: ", as the file says", False: ", NOT what the file says", None: ""}[report.hash_agrees]
        click.echo(f"sha-256    {report.tensor_sha256} of the tensors{agrees}")
    elif report.states_sha256:
        click.echo(
            "sha-256    stated by the file and not compared: only the header was read; --norms reads the whole"
        )
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


def show_reference_report(report: "ReferenceReport", *, as_json: bool) -> None:
    """``detour show`` of an IP-Adapter: its kind, what it needs, and what it is for."""
    if as_json:
        echo_json(report.to_json())
        return
    tokens = str(report.num_tokens) if report.num_tokens else "one a patch of the image encoder"
    click.echo(f"kind       IP-Adapter, {report.kind}, {bytes_text(report.num_bytes)}")
    click.echo(
        f"family     {report.family or 'none that is known'} (text states of width {report.text_width})"
    )
    click.echo(f"encoder    {report.encoder_words}")
    click.echo(f"layers     {report.layers} cross-attentions; {report.parameters:,} parameters")
    click.echo(f"tokens     {tokens} for each picture")
    click.echo(f"sha-256    {report.sha256} of the file")
    if report.match is not None:
        if report.match.problems:
            click.echo(f"base       does not fit {report.match.base}: {printable(report.match.problems[0])}")
        else:
            click.echo(f"base       fits {report.match.base}")
    click.echo("draw with  detour generate PROMPT --reference PICTURE --reference-adapter FILE")


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
    if measured and "dora" in report.algorithms:
        click.echo("of DoRA layers, the change of direction: what their magnitudes do needs a base")
    if not measured:
        click.echo("norms were left out, only the header was read; --norms computes them")


def _print_match(match: "BaseMatch") -> None:
    total = match.fitting + len(match.problems)
    click.echo(f"base       {match.fitting} of {total} layers are layers of {match.base}")
    for problem in match.problems[:MAX_PROBLEMS]:
        click.echo(f"  {printable(problem)}")
    if len(match.problems) > MAX_PROBLEMS:
        click.echo(f"  … and {len(match.problems) - MAX_PROBLEMS} more; --json lists them all")


def _shortened(text: str) -> str:
    return printable(text, longest=100)


def show_merge(result: "MergeResult", *, as_json: bool) -> None:
    """``detour merge``: what went in, then both proofs."""
    if as_json:
        echo_json(result.to_json())
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
    if result.words:
        click.echo(
            f"left out  {', '.join(_shortened(word) for word in result.words)}: words with vectors of their own, which "
            "no base holds; detour convert FILE OUT --to diffusers writes them beside OUT"
        )
    click.echo(f"written   {result.path}")


VERDICTS = {
    "apart": "APART: they use different directions",
    "together": "TOGETHER: they push the same way",
    "against": "AGAINST: they push opposite ways",
}


def show_composition(result: "ComposeResult", *, as_json: bool, plot: Path | None) -> None:
    """``detour compose``: the prediction for each pair, then what was written."""
    if as_json:
        echo_json(result.to_json())
        return
    for pair in result.pairs:
        _print_pair(pair)
    for measured in result.measured:
        _print_measured(measured)
    if plot is not None:
        click.echo(f"picture   {plot}")
    done = result.written
    if done is None:
        click.echo("nothing was written: pass --out FILE.safetensors to compose them")
        return
    low, high = done.ranks
    click.echo(
        f"composed  {done.layers} layers, rank {low if low == high else f'{low} to {high}'}, "
        f"{done.kept:.2%} of the change's energy kept"
    )
    click.echo(f"ΔW        {proof_text(done.largest_difference, done.limit, '').replace(' at ', '')}")
    click.echo(f"written   {done.path} ({done.dtype})")


def _print_measured(pair: "MeasuredPair") -> None:
    click.secho(f"{pair.first} and {pair.second}, measured on the base: {VERDICTS[pair.verdict]}", bold=True)
    click.echo(
        f"  agreement {pair.agreement:+.2f}; together {pair.louder:.2f} times the stronger one; of its effect "
        f"{pair.first} keeps {pair.kept_first:.0%}, {pair.second} {pair.kept_second:.0%}"
    )
    click.echo(f"  {pair.suggestion}")


def _print_pair(pair: "PairPrediction") -> None:
    click.secho(f"{pair.first} and {pair.second}: {VERDICTS[pair.verdict]}", bold=True)
    click.echo(
        f"  {pair.interference:.1f} times chance ({pair.shared:.2%} of their energy) is in directions that both "
        f"read and write; from {RELATED:g} on they are related"
    )
    word = "cancels" if pair.cancelled >= 0 else "is added by agreement"
    click.echo(f"  {abs(pair.cancelled):.2%} of it {word} in the sum; {pair.shared_layers} layers in common")
    if pair.worst and pair.verdict != "apart":
        heads = [("layer", "left"), ("times chance", "right"), ("shared", "right"), ("cosine", "right")]
        rows = [
            (one.layer, f"{one.over_chance:.0f}", f"{one.shared:.1%}", f"{one.cosine:+.2f}")
            for one in pair.worst
        ]
        print_table(table_of("Layers with most in common", heads, rows))
    click.echo(f"  {pair.suggestion}")


def show_resize(result: "ResizeResult", *, as_json: bool, layers: bool) -> None:
    """``detour resize`` and ``detour extract``: what was kept, and where least."""
    if as_json:
        echo_json(result.to_json())
        return
    ranked = sorted(result.layers, key=lambda one: one.kept)
    shown = result.layers if layers else ranked[:5]
    weighed = any(one.weight != 1.0 for one in result.layers) or bool(result.switched_off)
    if layers or result.kept < 1.0:
        heads = [("layer", "left"), ("rank", "right"), ("kept", "right")]
        heads += [("strength", "right")] if weighed else []
        rows = [
            (
                one.layer,
                f"{one.rank_before} → {one.rank}",
                f"{one.kept:.2%}",
                *([f"{one.weight:g}"] if weighed else []),
            )
            for one in shown
        ]
        print_table(table_of("Layers" if layers else "Layers that keep least", heads, rows))
    if weighed:
        touched = sum(one.weight != 1.0 for one in result.layers)
        click.echo(f"blocks   {touched} layers at another strength, {len(result.switched_off)} switched off")
    click.echo(f"kept     {result.kept:.2%} of the change's energy over all {len(result.layers)} layers")
    click.echo(f"size     {result.parameters_before:,} → {result.parameters:,} parameters")
    click.echo(f"ΔW       {proof_text(result.largest_difference, result.limit, '').replace(' at ', '')}")
    click.echo(f"written  {result.path} ({result.dtype})")
    for note in result.notes:
        click.echo(f"note     {note}")


def show_extraction(result: "ExtractResult", *, as_json: bool, layers: bool) -> None:
    """``detour extract``: as a resize, and what an adapter cannot hold."""
    show_resize(result, as_json=as_json, layers=layers)
    if result.left_out and not as_json:
        click.echo(
            f"note: {len(result.left_out)} biases and norms differ too, which an adapter cannot hold "
            f"(the first: {result.left_out[0]})"
        )


def show_grid(result: "GridResult", *, as_json: bool) -> None:
    """``detour grid``: how far each column moves from the base."""
    if as_json:
        echo_json(result.to_json())
        return
    first, second = result.names
    heads = [("prompt", "left"), ("weight", "right"), (first, "right"), (second, "right"), ("both", "right")]
    rows = [
        (
            _shortened(row.prompt),
            f"{row.weight:g}",
            f"{row.first:.2f}",
            f"{row.second:.2f}",
            f"{row.both:.2f}",
        )
        for row in result.rows
    ]
    print_table(table_of("Moved from the base, mean of 255", heads, rows))
    click.echo(f"sheet    {result.path}")
    click.echo(f"figures  {result.figures}")


def refuse_withheld(result: "GridResult | StrengthResult | Interpolation") -> None:
    """End with exit code 19 where a policy withheld pictures of a sheet, and name their codes.

    Raises:
        Withheld: of at least one picture.
    """
    from detour.errors import Withheld

    if result.withheld:
        codes = ", ".join(dict.fromkeys(f"{one.action} {one.code}" for one in result.withheld))
        raise Withheld(f"{len(result.withheld)} pictures were withheld by policy {result.policy}: {codes}.")


def show_interpolation(result: "Interpolation", *, as_json: bool) -> None:
    """``detour interpolate``: how evenly the pictures change, and where they are."""
    if as_json:
        echo_json(result.to_json())
        return
    click.echo(f"pictures  {len(result.shares)}, in {result.seconds:.1f} s")
    click.echo(
        f"steps     {min(result.steps):.2f} to {max(result.steps):.2f} of 255 between neighbours; the largest is "
        f"{result.jump:g} times the median"
    )
    click.echo(
        f"way       {result.monotone:.0%} of the steps lead away from the first picture and towards the last; "
        f"{result.length:g} times as long as the distance of the ends"
    )
    for note in result.notes:
        click.echo(f"note      {note}")
    click.echo(f"strip     {result.path}")
    click.echo(f"figures   {result.figures}")
    if result.video is not None:
        click.echo(f"video     {result.video}")


def show_strengths(result: "StrengthResult", *, as_json: bool) -> None:
    """``detour grid`` of one adapter: how far each strength moves from the base."""
    if as_json:
        echo_json(result.to_json())
        return
    heads = [("prompt", "left"), (result.name, "left"), *((f"×{one:g}", "right") for one in result.strengths)]
    rows = [
        (_shortened(row.prompt), row.adapter, *(f"{moved:.2f}" for moved in row.moved)) for row in result.rows
    ]
    print_table(table_of("Moved from the base, mean of 255", heads, rows))
    if result.left_out:
        click.echo(f"note     {result.left_out} checkpoints between these were left out")
    click.echo(f"sheet    {result.path}")
    click.echo(f"figures  {result.figures}")
