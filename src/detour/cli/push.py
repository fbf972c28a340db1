"""``detour push``."""

from pathlib import Path

import click

from detour.cli.options import json_option


@click.command("push", short_help="Upload a finished run to the hub.")
@click.argument("run", type=click.Path(path_type=Path, file_okay=False), metavar="RUN")
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--public", is_flag=True, help="Make a new repository public. [default: private]")
@json_option
def command(*, run: Path, repo: str, public: bool, as_json: bool) -> None:
    """Upload a finished RUN to the hub as OWNER/NAME: adapter, model card with pictures, proof, report, settings.

    Checkpoints, training pictures and paths of this machine stay here. Log in first: hf auth login.
    """
    from detour.cli.progress import shown
    from detour.cli.results import show_push_result
    from detour.verbs.train.hub_upload import push_run

    with shown(quiet=as_json) as progress:
        result = push_run(run, repo, public=public, progress=progress)
    show_push_result(result, as_json=as_json)
