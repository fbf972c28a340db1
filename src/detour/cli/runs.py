"""``detour runs``."""

from pathlib import Path

import click

from detour.cli.options import json_option, runs_option


@click.command("runs", short_help="List the runs with their state and verdict.")
@runs_option
@json_option
def command(*, runs: Path, as_json: bool) -> None:
    """List the runs in a folder with their state and verdict."""
    from detour.cli.results import show_runs
    from detour.verbs.train.run_list import list_runs

    show_runs(list_runs(runs), folder=runs, as_json=as_json)
