"""``detour push``."""

from pathlib import Path

import click

from detour.cli.options import json_option


@click.command("push", short_help="Put a finished run on the hub.")
@click.argument("run", type=click.Path(path_type=Path, file_okay=False), metavar="RUN")
@click.argument("repo", metavar="OWNER/NAME")
@click.option(
    "--public", is_flag=True, help="Let everybody see a repository that is made. [default: private]"
)
@json_option
def command(*, run: Path, repo: str, public: bool, as_json: bool) -> None:
    """Put a finished RUN on the hub as OWNER/NAME: adapter, model card with pictures, proof, report, settings.

    Checkpoints, training pictures and paths of this machine stay here. Log in first: hf auth login.
    """
    from detour.cli.progress import shown
    from detour.cli.results import show_push_result
    from detour.verbs.train.hub_upload import push_run

    with shown(quiet=as_json) as progress:
        result = push_run(run, repo, public=public, progress=progress)
    show_push_result(result, as_json=as_json)
