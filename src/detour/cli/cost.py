"""``detour cost``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detour.cli.options import json_option

if TYPE_CHECKING:
    from detour.verbs.cost.costing import CostReport

FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


def _sizes(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """``512x768`` → (512, 768)."""
    found = []
    for value in values:
        width, x, height = value.partition("x")
        if not x or not width.isdigit() or not height.isdigit() or 0 in (int(width), int(height)):
            raise click.BadParameter(f"'{value}' is no size; write 512x512.")
        found.append((int(width), int(height)))
    return tuple(found)


def _interval(_: click.Context, __: click.Parameter, value: str | None) -> tuple[float, float] | None:
    """``0.2:0.8`` → (0.2, 0.8)."""
    if value is None:
        return None
    low, _colon, high = value.partition(":")
    try:
        return float(low), float(high or low)
    except ValueError as error:
        raise click.BadParameter(f"'{value}' is no interval; write 0.2:0.8.") from error


@click.command("cost", short_help="Say what a served picture costs, from measured work and your own prices.")
@click.argument("metrics", type=FILE, required=False, metavar="METRICS.txt")
@click.option("--prices", type=FILE, help="Your dated price file (TOML).")
@click.option(
    "--out",
    "--template",
    "template",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write an empty price file, and stop.",
)
@click.option("--before", type=FILE, help="An earlier METRICS.txt of the same server, not restarted since.")
@click.option(
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    show_default=True,
    help="Seconds that are counted; cpu if other programs used the machine too.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    multiple=True,
    help="Denoising steps of a picture; repeatable. [default: 10, 25, 50]",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    callback=_sizes,
    metavar="WxH",
    help="Size of a picture; repeatable. [default: the base's]",
)
@click.option(
    "--guided/--unguided",
    default=True,
    show_default=True,
    help="With guidance (two rows a picture) or without (one).",
)
@click.option(
    "--utilisation",
    callback=_interval,
    metavar="LOW:HIGH",
    help="Interval of utilisations. [default: the measured one to 1]",
)
@click.option(
    "--run",
    "trained_run",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Training run whose machine time is paid for by its adapter's pictures.",
)
@click.option("--trace", type=FILE, help="A recorded load (JSON lines) to say the cost of.")
@click.option(
    "--old-after",
    type=float,
    default=6.0,
    show_default=True,
    metavar="MONTHS",
    help="Age from which a price is reported as old.",
)
@json_option
def command(
    *,
    metrics: Path | None,
    prices: Path | None,
    template: Path | None,
    old_after: float,
    as_json: bool,
    **asked: Any,
) -> None:
    """Say what an accepted picture of a server costs, from its /metrics and your dated price file.

    \b
    detour cost --template prices.toml
    curl http://127.0.0.1:8188/metrics > metrics.txt
    detour cost metrics.txt --prices prices.toml
    """
    if template is not None:
        write_template(template)
        return
    if metrics is None or prices is None:
        raise click.UsageError("Name METRICS.txt and --prices; --template FILE writes an empty price file.")
    from detour.verbs.cost.costing import STEPS, estimate_cost

    asked["steps"] = asked["steps"] or STEPS
    report = estimate_cost(metrics, prices, old_after_months=old_after, **asked)
    for warning in report.warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        from detour.cli.results import print_json

        print_json(report.to_json())
    else:
        show(report)


def write_template(path: Path) -> None:
    """Write an empty price file; what is there already stays.

    Raises:
        ConfigError: the file is there.
    """
    from detour.errors import ConfigError
    from detour.files import write_text
    from detour.verbs.cost.prices import TEMPLATE

    if path.exists():
        raise ConfigError(f"{path}: is there already. Choose another name, or delete it.")
    write_text(path, TEMPLATE)
    click.echo(f"wrote {path}: fill in your prices, each with the day on which you looked it up.")


def show(report: "CostReport") -> None:
    """Print a report for people."""
    from detour.printing import printable

    drawn = sum(num for state, num in report.finished.items() if state != "released")
    click.echo(
        f"measured: {report.accepted:,.0f} of {drawn:,.0f} finished pictures accepted, {report.waste - 1:.1%} of the "
        f"rows lost; busy {report.utilisation:.1%} of the time; seconds by the {report.clock} clock"
    )
    click.echo(
        f"machine: {printable(report.machine[0])}, {report.machine[1]:,.4g} {printable(report.currency)} an hour"
    )
    _show_phases(report)
    _show_settings(report)
    _show_others(report)
    if (load := report.trace) is not None:
        click.echo(
            f"\ntrace: {load.pictures:,} pictures in {load.span_s:,.0f} s, busy {load.utilisation:.1%} of it, "
            f"{load.seconds_a_picture:.3g} s a picture: {thousand(load.cost)} {printable(report.currency)} "
            "for 1,000 accepted"
        )


def thousand(money: float) -> str:
    """Price of 1,000 pictures, three digits."""
    value = 1000 * money
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _show_phases(report: "CostReport") -> None:
    from detour.cli.results import print_table, table_of

    spent = {name: seconds for name, seconds in report.phase_seconds.items() if name != "idle"}
    total = sum(spent.values())
    rows = [(name, f"{seconds:.3g}", f"{seconds / total:.1%}") for name, seconds in spent.items()]
    rows.append(("idle (wall)", f"{report.phase_seconds['idle']:.3g}", ""))
    columns = [("phase", "left"), ("seconds for each accepted picture", "right"), ("share of work", "right")]
    print_table(table_of("", columns, rows))


def _show_settings(report: "CostReport") -> None:
    from detour.cli.results import print_table, table_of
    from detour.printing import printable

    low, high = report.interval
    heads = [f"at {report.utilisation:.0%} use", f"{low:.0%} to {high:.0%}"]
    rows = []
    for one in report.settings:
        size = f"{one.width_px}x{one.height_px}" + (" *" if one.extrapolated else "")
        rows.append(
            (
                f"{one.steps}",
                size + ("" if one.guided else ", unguided"),
                f"{one.seconds:.3g}",
                f"{one.seconds_full:.3g}",
                thousand(one.cost),
                " to ".join(thousand(money) for money in one.cost_interval),
                thousand(one.training) if report.training_per_adapter else "-",
            )
        )
    columns = [
        ("steps", "right"), ("size", "left"), ("s a picture", "right"), ("full batches", "right"),
        *((head, "right") for head in heads), ("+ training", "right"),
    ]  # fmt: skip
    click.echo(f"\n{printable(report.currency)} for 1,000 accepted pictures:")
    print_table(table_of("", columns, rows))
    if any(one.extrapolated for one in report.settings):
        click.echo("* another size than the measured one: time is taken to grow with the area.")


def _show_others(report: "CostReport") -> None:
    from detour.cli.results import print_table, table_of

    rows = []
    for one in report.hosted:
        at = f"from {one.utilisation:.1%} use" if one.utilisation <= 1 else "never"
        spread = ["never" if num is None else f"{num:,.0f}" for num in one.num_pictures]
        rows.append(
            (
                one.name, str(one.steps), f"{one.width_px}x{one.height_px}", thousand(one.hosted), at,
                f"{one.pictures_an_hour:,.0f}", " to ".join(dict.fromkeys(spread)),
            )
        )  # fmt: skip
    if rows:
        columns = [
            ("hosted", "left"), ("steps", "right"), ("size", "left"), ("price", "right"), ("own is cheaper", "left"),
            ("or an hour", "right"), ("training paid after", "left"),
        ]  # fmt: skip
        click.echo(
            "\nagainst a hosted price of 1,000 pictures: from which use, or from how many pictures an hour:"
        )
        print_table(table_of("", columns, rows))
    if report.other:
        pairs = [(name, thousand(price)) for name, price in report.other.items()]
        click.echo("\nother ways to 1,000 pictures:")
        print_table(table_of("", [("way", "left"), ("price", "right")], pairs))
