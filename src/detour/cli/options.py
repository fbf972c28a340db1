"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

DEVICES = click.Choice(["auto", "cuda", "mps", "cpu"])
SAMPLERS = ("ddpm", "ddim", "pndm", "euler", "euler-a", "dpm++", "lcm", "tcd")
"""Names of all samplers; a test holds them equal to those of the settings."""

DTYPES = click.Choice(["auto", "fp32", "bf16", "fp16"])
FILE_FORMATS = click.Choice(["kohya", "diffusers", "peft"])


class _OutFolder(click.Path):
    """A folder that is written: the name of a picture or a weights file is no folder's name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from detour.verbs.staging import OTHER_FILES

        path = super().convert(value, param, ctx)
        suffix = Path(str(path)).suffix
        if suffix.lower() in OTHER_FILES:
            self.fail(
                f"'{value}' is a folder here, and '{suffix}' is the ending of a file. Name a folder.",
                param,
                ctx,
            )
        return path


OUT_FOLDER = _OutFolder(path_type=Path, file_okay=False)
"""Type of ``--out`` where a command writes a folder."""

FILE_DTYPES = click.Choice(["auto", "fp32", "fp16", "bf16"])


policy_option = click.option(
    "--policy",
    type=click.Path(dir_okay=False),
    help="Safety policy (detour safety show FILE); pictures that it withholds are grey, and the exit code is 19.",
)
"""``--policy`` of commands that put pictures beside each other."""


class Methods(click.Choice[str]):
    """Methods of training; names that are settings of plain LoRA are told how to be set."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from detour.adapter_methods import METHOD_SETTINGS

        setting = METHOD_SETTINGS.get(str(value).lower())
        if setting is not None:
            self.fail(f"'{value}' is plain LoRA with a setting: --set {setting}.", param, ctx)
        return super().convert(value, param, ctx)


class _Seed(click.types.IntParamType):
    """A whole number that every generator of random numbers takes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        seed: int = super().convert(value, param, ctx)
        if not 0 <= seed < 2**63:
            self.fail(f"{seed} is not between 0 and 2^63 - 1.", param, ctx)
        return seed


SEEDS = _Seed()


def json_option(command: F) -> F:
    """``--json``: the result as one JSON document on stdout, nothing else there."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else.")(
        command
    )


def one_place(place: Path | None, out: Path | None) -> Path:
    """The output of a command that takes it as an argument or as ``--out``.

    Raises:
        click.UsageError: both are given, or neither.
    """
    if (place is None) == (out is None):
        raise click.UsageError(f"Name the output {'once' if place else 'with OUT or --out'}.")
    found = place or out
    assert found is not None
    return found


def runs_option(command: F) -> F:
    """``--runs FOLDER``: where run folders live."""
    return click.option(
        "--runs",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("runs"),
        show_default=True,
        help="Folder that holds the runs.",
    )(command)


def base_option(default: str | None = "pocket") -> Callable[[F], F]:
    """``--base``: which frozen model."""
    return click.option(
        "--base",
        default=default,
        show_default=default is not None,
        metavar="BASE",
        help="pocket, pocket-flow, a hub id, a diffusers folder or a single .safetensors checkpoint.",
    )


def force_option(command: F) -> F:
    """``--force``: the only way to overwrite existing output."""
    return click.option("--force", is_flag=True, help="Overwrite existing output.")(command)


def pickle_option(command: F) -> F:
    """``--allow-pickle``: adapters that are not safetensors; refused without it."""
    return click.option(
        "--allow-pickle", is_flag=True, help="Read .pt, .bin and .ckpt adapters too, their tensors alone."
    )(command)


def smaller_options(command: F) -> F:
    """``--rank`` and ``--energy``: how much of each layer's change is kept."""
    energy = click.option(
        "--energy",
        type=float,
        help="The lowest rank that keeps this share of each layer's change, such as 0.95.",
    )
    rank = click.option("--rank", type=click.IntRange(min=1), help="Highest rank of a layer.")
    return rank(energy(command))


def adapter_out_options(command: F) -> F:
    """``--to``, ``--family`` and ``--dtype``: the form of an adapter that is made from others."""
    to = click.option(
        "--to",
        type=FILE_FORMATS,
        default="kohya",
        show_default=True,
        help="Format.",
    )
    family = click.option("--family", help="sd1, sd2, sdxl, sd3 or flux. [default: told from the adapter]")
    dtype = click.option(
        "--dtype", type=FILE_DTYPES, default="auto", show_default=True, help="auto keeps the source's."
    )
    return to(family(dtype(command)))


def drawing_options(*, batch: int = 4) -> Callable[[F], F]:
    """``--batch``, ``--device`` and ``--dtype``: where and in what precision pictures are drawn."""

    def add(command: F) -> F:
        pictures = click.option(
            "--batch", type=int, default=batch, show_default=True, help="Pictures in one forward pass."
        )
        device = click.option(
            "--device", type=DEVICES, default="auto", show_default=True, help="Where it runs."
        )
        dtype = click.option("--dtype", type=DTYPES, default="auto", show_default=True, help="Precision.")
        return pictures(device(dtype(command)))

    return add
