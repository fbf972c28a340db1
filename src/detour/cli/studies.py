"""What the commands of the drawing studies share: options, the spec, and how a result is shown."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from detour.cli.early import announce, check_adapters, check_base
from detour.cli.options import (
    OUT_FOLDER,
    SAMPLERS,
    SEEDS,
    base_option,
    drawing_options,
    force_option,
    json_option,
    pickle_option,
    policy_option,
)

if TYPE_CHECKING:
    from detour.specs.studies import StudySpec
    from detour.verbs.studies.result import StudyResult

F = TypeVar("F", bound=Callable[..., Any])

PICTURE_KEYS = ("steps", "guidance_scale", "scheduler")


def numbers(
    kind: type[int] | type[float],
) -> Callable[[click.Context, click.Parameter, str], tuple[Any, ...]]:
    """A callback that reads ``"10,20,30"``."""

    def parse(_: click.Context, __: click.Parameter, value: str) -> tuple[Any, ...]:
        try:
            return tuple(kind(part) for part in value.split(","))
        except ValueError:
            raise click.BadParameter(f"'{value}' is not a list of numbers, e.g. 10,20,50") from None

    return parse


def parse_seconds(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """``"1.5s"`` or ``"1.5"`` → 1.5."""
    if value is None:
        return None
    try:
        seconds = float(value.strip().removesuffix("s"))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise click.BadParameter(f"'{value}' is no time, e.g. 1.5s")
    return seconds


def study_options(default_out: str) -> Callable[[F], F]:
    """Prompts, seeds, base, judge, where it is drawn and where it goes."""

    def add(command: F) -> F:
        for option in reversed(
            (
                click.option(
                    "--prompt", "prompts", multiple=True, metavar="PROMPT",
                    help="Prompt of every cell; repeatable. [default: held-out prompts of pocket's world]",
                ),
                click.option(
                    "--num-prompts", type=int, default=8, show_default=True, help="Held-out prompts if none are given."
                ),
                click.option(
                    "--seeds", type=int, default=2, show_default=True, help="Pictures of each prompt in each cell."
                ),
                click.option(
                    "--first-seed", type=SEEDS, default=0, show_default=True,
                    help="Seed of the first picture; the others follow it.",
                ),
                base_option(),
                click.option("--revision", help="Branch, tag or commit of a hub base."),
                click.option(
                    "--judge", metavar="FOLDER|ID",
                    help="CLIP model that scores the pictures. [default: the base's own]",
                ),
                drawing_options(batch=8),
                policy_option,
                click.option(
                    "--out", type=OUT_FOLDER, default=Path(default_out),
                    show_default=True, help="Folder of the results; an unfinished study there is continued.",
                ),
                pickle_option,
                force_option,
                json_option,
            )
        ):  # fmt: skip
            command = option(command)
        return command

    return add


def picture_options(*names: str) -> Callable[[F], F]:
    """Add the options of steps, guidance and sampler that the study does not vary."""
    every = {
        "steps": click.option("--steps", type=int, default=20, show_default=True, help="Denoising steps."),
        "guidance": click.option(
            "--guidance", "guidance_scale", type=float, help="Guidance scale. [default: the base's own]"
        ),
        "scheduler": click.option(
            "--scheduler", type=click.Choice(["auto", *SAMPLERS]), default="auto",
            show_default=True, help="Sampler.",
        ),
    }  # fmt: skip

    def add(command: F) -> F:
        for name in reversed(names):
            command = every[name](command)
        return command

    return add


def study_spec(flags: dict[str, Any], *, lora: str | None = None, quiet: bool = False) -> "StudySpec":
    """The spec of the common options; takes them out of ``flags``, and says that work begins unless ``quiet``.

    Raises:
        ConfigError: a value that does not go.
    """
    from detour.specs.sources import parse
    from detour.specs.studies import StudySpec

    check_base(flags.get("base"))
    check_adapters([lora] if lora else [])
    announce(quiet=quiet)

    given = {key: flags.pop(key) for key in PICTURE_KEYS if key in flags}
    picture = {"steps": 20, **{key: value for key, value in given.items() if value is not None}}
    names = [name for name in StudySpec.model_fields if name in flags]
    values = {name: value for name in names if (value := flags.pop(name)) is not None}
    return parse(StudySpec, {**values, "picture": picture} | ({"lora": lora} if lora else {}))


def show_study(result: "StudyResult", figures: Sequence[str], *, as_json: bool) -> None:
    """The table with ``figures`` that are there, the sentence, and where the rest lies."""
    from detour.cli.results import print_table, table_of

    if as_json:
        from detour.cli.results import echo_json

        echo_json(result.to_json())
        refuse_withheld_cells(result)
        return
    shown = [name for name in figures if any(name in row.figures for row in result.table.rows)]
    rows = [
        (row.variant, *(_figure_text(row.figures.get(name)) for name in shown)) for row in result.table.rows
    ]
    heads = [("variant", "left"), *((name.replace("_", " "), "right") for name in shown)]
    print_table(table_of(f"{result.table.experiment} (* differs from {result.table.reference})", heads, rows))
    click.echo(result.finding)
    click.echo(f"folder: {result.folder}")
    refuse_withheld_cells(result)


def refuse_withheld_cells(result: "StudyResult") -> None:
    """End with exit code 19 where a policy withheld pictures of a study, and name their codes.

    Raises:
        Withheld: of at least one picture.
    """
    from detour.errors import Withheld

    if result.withheld:
        codes = ", ".join(f"{code} ({num})" for code, num in result.withheld.items())
        total = sum(result.withheld.values())
        raise Withheld(f"{total} pictures were withheld by policy {result.policy}: {codes}.")


def _figure_text(figure: Any) -> str:
    if figure is None:
        return ""
    return f"{figure.mean:.3g}{' *' if figure.gap is not None and figure.gap.significant else ''}"
