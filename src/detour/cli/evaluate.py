"""``detour evaluate``."""

from pathlib import Path

import click

from detour.cli.early import announce, check_target
from detour.cli.options import OUT_FOLDER, base_option, json_option, pickle_option

MAX_PROMPT_BYTES = 1 << 20
"""Largest file of prompts that is read."""


def _list_figures(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from detour.cli.evaluation_results import show_figures

    show_figures()
    context.exit()


@click.command("evaluate", short_help="Judge a run or an adapter file thoroughly, with controls.")
@click.argument("target", type=click.Path(path_type=Path), metavar="RUN|ADAPTER")
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    metavar="PROMPT",
    help="A prompt that was not trained on; repeatable.",
)
@click.option(
    "--prompts",
    "prompt_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File with one such prompt on each line.",
)
@click.option(
    "--num-prompts", type=int, default=16, show_default=True, help="Number of prompts where none are given."
)
@click.option("--seeds", type=int, default=2, show_default=True, help="Pictures of each prompt on each side.")
@click.option(
    "--controls",
    type=click.Choice(["all", "base"]),
    help="all trains one control at rate 0 and one on shuffled captions. [default: all for a RUN, base for an ADAPTER]",
)
@click.option(
    "--no-prior",
    is_flag=True,
    help="For a subject's RUN: train it again without class pictures, and show its class beside this one's.",
)
@click.option(
    "--references",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Pictures that must not be reproduced.",
)
@click.option(
    "--checkpoints", is_flag=True, help="For a RUN: compare its checkpoints, and name the one to ship."
)
@click.option("--judge", metavar="FOLDER|ID", help="A CLIP model.  [default: the base's own]")
@click.option(
    "--require",
    multiple=True,
    metavar="CONDITION",
    help="Condition such as style>=0.5; the exit code is 14 when it is not met.",
)
@click.option(
    "--figures", is_flag=True, is_eager=True, expose_value=False, callback=_list_figures,
    help="List the figures that --require knows, and exit.",
)  # fmt: skip
@click.option("--weight", type=float, default=1.0, show_default=True, help="Strength of the adapter.")
@click.option("--steps", type=int, help="Denoising steps of a picture.  [default: the run's evaluate.steps]")
@click.option(
    "--drift-prompts", type=int, default=6, show_default=True, help="Unrelated prompts; 0 leaves drift out."
)
@base_option(None)
@click.option("--revision", help="Branch, tag or commit of a hub base.")
@click.option(
    "--pictures",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="For an ADAPTER: folder of the pictures that it was trained on.",
)
@click.option(
    "--out",
    type=OUT_FOLDER,
    help="Folder for the results.  [default: the run's own; evaluations/NAME for an ADAPTER]",
)
@pickle_option
@json_option
def command(
    *, target: Path, out: Path | None, prompts: tuple[str, ...], prompt_file: Path | None,
    controls: str | None, pictures: Path | None, references: Path | None, as_json: bool, **flags: object,
) -> None:  # fmt: skip
    """Judge a finished RUN or an ADAPTER file: new prompts, unrelated prompts, several seeds, controls beside it.

    Writes evaluation.json and its pictures in the run folder, or in --out. Prompts are given, or captions that were
    kept out, or made of what the captions name; never training captions. What was drawn or trained for it before is
    not drawn or trained again, so an evaluation that was stopped goes on. Exit code 14 when a --require is not met.
    """
    check_target(target)
    announce(quiet=as_json, always=True)
    from detour.cli.evaluation_results import show_evaluation
    from detour.cli.progress import shown
    from detour.errors import ConfigError, RequirementNotMet
    from detour.evaluation.requirements import answer_text
    from detour.files import lines_of, read_text
    from detour.specs.evaluation import EvaluationSpec
    from detour.specs.sources import parse
    from detour.verbs.judge.evaluation_run import evaluate_adapter

    text = read_text(prompt_file, max_bytes=MAX_PROMPT_BYTES, error=ConfigError) if prompt_file else ""
    lines = lines_of(text)
    given = {
        **flags,
        "prompts": (*prompts, *(line.strip() for line in lines if line.strip())),
        "controls": controls,
        "pictures": str(pictures) if pictures else None,
        "references": str(references) if references else None,
    }
    spec = parse(EvaluationSpec, {key: value for key, value in given.items() if value is not None})
    with shown(quiet=as_json) as progress:
        result = evaluate_adapter(target, spec, out=out, progress=progress)
    show_evaluation(result, as_json=as_json)
    if result.unmet:
        raise RequirementNotMet("\n".join(answer_text(one) for one in result.unmet))
