"""``detour prove``."""

from pathlib import Path

import click

from detour.cli.early import announce, check_target
from detour.cli.options import OUT_FOLDER, base_option, json_option, pickle_option


@click.command("prove", short_help="Prove a finished run again, or an adapter file.")
@click.argument("target", type=click.Path(path_type=Path), metavar="RUN|ADAPTER")
@click.option("--weight", type=float, default=1.0, show_default=True, help="Strength of the adapter.")
@base_option(None)
@click.option("--revision", help="Branch, tag or commit of a hub base.")
@click.option(
    "--pictures",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="For an ADAPTER: folder of the pictures that it was trained on.",
)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    metavar="PROMPT",
    help="For an ADAPTER: a prompt that it was not trained on; repeatable.",
)
@click.option(
    "--out",
    type=OUT_FOLDER,
    help="For an ADAPTER: folder for the results.  [default: proofs/NAME]",
)
@pickle_option
@json_option
def command(
    *,
    target: Path,
    weight: float,
    base: str | None,
    revision: str | None,
    pictures: Path | None,
    prompts: tuple[str, ...],
    out: Path | None,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Prove a finished RUN again, or an ADAPTER file: the saved adapter beside a fresh base, with and without.

    Writes proof.json, report.html and samples/sheet.png in the run folder, or in --out. A run brings its base, its
    pictures and its prompts; of a lone file, the base is told from its metadata where it says so.
    Exit code 8 when the adapter has no effect.
    """
    check_target(target)
    announce(quiet=as_json)
    from detour.cli.progress import shown
    from detour.cli.results import show_proof
    from detour.errors import ConfigError, ProofFailed
    from detour.verbs.judge.finished_run import is_run_folder
    from detour.verbs.judge.proof_of_run import prove_adapter, prove_run

    is_run = is_run_folder(target)
    if is_run and (base or revision or pictures or prompts or out):
        raise ConfigError(
            f"{target}: a run brings its own base, pictures and prompts. Name its adapter file to choose others."
        )
    with shown(quiet=as_json) as progress:
        if is_run:
            place = target
            proof = prove_run(target, weight=weight, progress=progress)
        else:
            place = out or Path("proofs") / target.stem
            proof = prove_adapter(
                target, out=place, base=base, revision=revision, pictures=pictures, prompts=prompts,
                allow_pickle=allow_pickle, weight=weight, progress=progress,
            )  # fmt: skip
    show_proof(proof, run=place, as_json=as_json)
    if proof.verdict == "no_effect":
        raise ProofFailed(f"{target}: the adapter has no effect. {' '.join(proof.reasons)}")
