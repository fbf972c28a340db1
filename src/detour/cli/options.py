"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

DEVICES = click.Choice(["auto", "cuda", "mps", "cpu"])
DTYPES = click.Choice(["auto", "fp32", "bf16", "fp16"])


def json_option(command: F) -> F:
    """``--json``: the result as one JSON document on stdout, nothing else there."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON and nothing else.")(
        command
    )


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
        help="pocket, a hub id, a diffusers folder or a single .safetensors checkpoint.",
    )


def force_option(command: F) -> F:
    """``--force``: the only way to write over something."""
    return click.option("--force", is_flag=True, help="Write over what stands in the output place.")(command)


def pickle_option(command: F) -> F:
    """``--allow-pickle``: adapters that are not safetensors; refused without it."""
    return click.option(
        "--allow-pickle", is_flag=True, help="Read .pt, .bin and .ckpt adapters too, their tensors alone."
    )(command)
