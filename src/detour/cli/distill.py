"""``detour distill``."""

from pathlib import Path
from typing import Any

import click

from detour.cli.early import announce, check_base, check_run, refuse_settings_of_resumed
from detour.cli.options import DEVICES, DTYPES, SEEDS, force_option, json_option, runs_option

# flag → key of run.toml
KEYS = {
    "base": "base.name",
    "revision": "base.revision",
    "device": "base.device",
    "dtype": "base.dtype",
    "data": "data.source",
    "name": "name",
    "seed": "seed",
    "steps": "distill.steps",
    "solver_steps": "distill.solver_steps",
    "guidance_scale": "distill.guidance_scale",
    "rank": "adapter.rank",
    "targets": "adapter.targets",
    "train_steps": "train.steps",
    "batch": "train.batch",
    "lr": "train.optim.lr",
    "threads": "train.threads",
    "proof_steps": "evaluate.steps",
    "proof_prompts": "evaluate.num_prompts",
}


@click.command("distill", short_help="Train an adapter with which a base draws in few steps.")
@click.argument("base", required=False)
@click.option("--steps", type=click.IntRange(1, 16), help="Steps of a picture with the adapter. [default: 4]")
@click.option(
    "--data", help="Pictures with captions like the base's own. [default: an embedded base draws its world]"
)
@click.option("--name", help="Name of the run folder and of the adapter. [default: BASE-lcm-4step]")
@click.option(
    "--solver-steps", type=int, help="Steps of the base's solver, which the adapter learns to skip."
)
@click.option("--guidance", "guidance_scale", type=float, help="Guidance that the adapter takes over.")
@click.option("--rank", type=int, help="Width of the adapter.")
@click.option("--targets", help="Layers, as for train.")
@click.option("--train-steps", type=int, help="Optimizer steps.")
@click.option("--batch", type=int, help="Samples in one forward pass.")
@click.option("--lr", type=float, help="Learning rate.")
@click.option("--seed", type=SEEDS, help="Noise, timesteps, order and pictures of the world follow from it.")
@click.option("--proof-steps", type=int, help="Steps of the base's pictures in the comparison. [default: 20]")
@click.option("--proof-prompts", type=int, help="Prompts of the comparison. [default: 16]")
@click.option("--revision", help="Branch, tag or commit of a hub base.")
@click.option("--device", type=DEVICES, help="Where the work runs.")
@click.option("--dtype", type=DTYPES, help="Precision of the frozen base. [default: fp32]")
@click.option("--threads", type=int, help="CPU threads; recorded.")
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="A run.toml or resolved.toml."
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any setting of a run, e.g. train.ema=0.95.",
)
@click.option(
    "--resume", type=click.Path(path_type=Path, file_okay=False), metavar="RUN", help="Go on with a run."
)
@runs_option
@force_option
@json_option
def command(
    *,
    config: Path | None,
    assignments: tuple[str, ...],
    resume: Path | None,
    runs: Path,
    force: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Distil BASE into an adapter with which it draws in few steps, and compare its pictures with the base's.

    Latent consistency distillation (arXiv:2311.05556): the adapter learns to say from any time where the guided base
    would end. Its file says how it is drawn: detour generate --lora takes steps, guidance and sampler from it.

    \b
    detour distill pocket --steps 4
    detour distill stable-diffusion-v1-5/stable-diffusion-v1-5 --data photos/
    detour distill --resume runs/pocket-lcm-4step
    """
    from detour.cli.progress import shown
    from detour.cli.results import show_train_result
    from detour.errors import ConfigError
    from detour.specs import load_run_spec

    given = {KEYS[flag]: value for flag, value in flags.items() if value is not None}
    refuse_settings_of_resumed(resume, given, assignments, config)
    if resume is None and config is None and "base.name" not in given:
        raise ConfigError("no base was named. Try: detour distill pocket.")
    spec = None
    if resume is None:
        check_base(given.get("base.name"))
        spec = load_run_spec(config=config, flags=given, assignments=assignments)
        check_run(spec)
    announce(quiet=as_json)
    from detour.verbs.train.distillation import distill_base

    with shown(quiet=as_json) as progress:
        result = distill_base(spec, runs=runs, resume=resume, force=force, progress=progress)
    show_train_result(result, as_json=as_json)
