"""``detour prove``."""

from pathlib import Path

import click

from detour.cli.options import json_option


@click.command("prove", short_help="Prove a finished run again, from its files.")
@click.argument("run", type=click.Path(path_type=Path, file_okay=False), metavar="RUN")
@click.option("--weight", type=float, default=1.0, show_default=True, help="Strength of the adapter.")
@json_option
def command(*, run: Path, weight: float, as_json: bool) -> None:
    """Prove a finished RUN again: the saved adapter beside a fresh base, with and without, at the same seeds.

    Writes proof.json, report.html and README.md in the run folder. Exit code 8 when the adapter has no effect.
    """
    from detour.cli.progress import shown
    from detour.cli.results import show_proof
    from detour.errors import ProofFailed
    from detour.recipes.prove_run import prove_run

    with shown(quiet=as_json) as progress:
        proof = prove_run(run, weight=weight, progress=progress)
    show_proof(proof, run=run, as_json=as_json)
    if proof.verdict == "no_effect":
        raise ProofFailed(f"{run}: the adapter has no effect. {' '.join(proof.reasons)}")
