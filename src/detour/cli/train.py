"""``detour train``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detour.adapter_methods import METHODS
from detour.cli.early import announce, check_adapters, check_run, refuse_settings_of_resumed
from detour.cli.options import (
    DEVICES,
    DTYPES,
    SEEDS,
    Methods,
    base_option,
    force_option,
    json_option,
    runs_option,
)

# flag → key of run.toml
KEYS = {
    "data": "data.source",
    "base": "base.name",
    "revision": "base.revision",
    "device": "base.device",
    "dtype": "base.dtype",
    "name": "name",
    "track": "track",
    "goal": "goal",
    "seed": "seed",
    "trigger": "data.trigger",
    "caption": "data.caption",
    "class_prompts": "prior.class_prompts",
    "prior": "prior.use",
    "split": "data.split",
    "recursive": "data.recursive",
    "resolution": "data.resolution",
    "buckets": "data.buckets",
    "skip_bad_images": "data.skip_bad_images",
    "method": "adapter.method",
    "formats": "adapter.formats",
    "rank": "adapter.rank",
    "alpha": "adapter.alpha",
    "targets": "adapter.targets",
    "from_file": "adapter.from_file",
    "text_rank": "adapter.text_encoder.rank",
    "steps": "train.steps",
    "batch": "train.batch",
    "grad_accum": "train.grad_accum",
    "threads": "train.threads",
    "lr": "train.optim.lr",
    "ship": "validate.ship",
    "patience": "validate.patience",
}

if TYPE_CHECKING:
    from detour.verbs.train.peers import PeerSettings


@click.command("train", short_help="Train an adapter and prove that it learned.")
@click.argument("data", required=False, metavar="[DATA]")
@base_option(default=None)
@click.option("--name", help="Name of the run folder and of the adapter. [default: the data folder's name]")
@click.option(
    "--goal",
    type=click.Choice(["style", "subject"]),
    help="What the adapter should learn; it sets defaults such as rank, rate and steps. [default: style]",
)
@click.option("--trigger", help="Word put in front of every caption that lacks it.")
@click.option("--caption", help="Caption of the pictures that have no .txt beside them.")
@click.option(
    "--class-prompt",
    "class_prompts",
    multiple=True,
    help="Prompt of the subject's class, such as 'a robot'; the base draws pictures of it that are trained on too, "
    "so that the class stays as it is. May be repeated.",
)
@click.option(
    "--prior/--no-prior", default=None, help="Prior preservation. [default: when there is a --class-prompt]"
)
@click.option(
    "--method",
    type=Methods(list(METHODS)),
    help="How each layer is adapted; full trains the base's own weights, for comparison. [default: lora]",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["diffusers", "peft"]),
    help="Write the adapter in this format too, beside the kohya file. May be repeated.",
)
@click.option("--rank", type=int, help="Rank of the adapter.")
@click.option("--alpha", type=float, help="Scale numerator; the scale is alpha / rank. [default: the rank]")
@click.option(
    "--targets",
    help="Preset (cross-attn, self-attn, attn, attn-proj, kohya, linear, conv, all), list or re:REGEX.",
)
@click.option("--text-rank", type=int, help="Train the text encoders too, with an adapter of this rank.")
@click.option(
    "--new-word",
    "new_words",
    multiple=True,
    metavar="WORD=KNOWN",
    help="Train vectors of a new WORD too, started from a word that the base knows: <bob>=robot. May be repeated.",
)
@click.option(
    "--from",
    "from_file",
    metavar="FILE",
    help="Start at the weights of this adapter file instead of at no change; rank and layers are then the file's.",
)
@click.option("--steps", type=int, help="Optimizer steps.")
@click.option("--batch", type=int, help="Samples in one forward pass.")
@click.option("--grad-accum", type=int, help="Forward passes in one step.")
@click.option("--lr", type=float, help="Peak learning rate.")
@click.option("--seed", type=SEEDS, help="Noise, timesteps, order and dropout follow from it.")
@click.option("--resolution", type=int, help="Side of the training pictures in pixels.")
@click.option(
    "--buckets", is_flag=True, default=None, help="Keep each picture's shape instead of cutting squares."
)
@click.option("--device", type=DEVICES, help="Where the work runs.")
@click.option("--dtype", type=DTYPES, help="Precision of the frozen base; adapter weights are fp32 always.")
@click.option(
    "--threads", type=int, help="CPU threads; recorded, because exact resuming needs the same count."
)
@click.option("--split", help="Part of a hub data set, e.g. train[:100].")
@click.option("--revision", help="Branch, tag or commit of a hub base.")
@click.option(
    "--ship",
    type=click.Choice(["last", "lowest_loss", "best_proof"]),
    help="Which weights become the adapter; best_proof draws new pictures with every checkpoint and takes the best. "
    "[default: last]",
)
@click.option(
    "--patience",
    type=int,
    help="Stop after this many validations without a new lowest loss, and ship the weights of the lowest unless "
    "--ship says otherwise.",
)
@click.option("--recursive", is_flag=True, default=None, help="Read every folder below DATA as well.")
@click.option("--skip-bad-images", is_flag=True, default=None, help="Leave unreadable pictures out.")
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="A run.toml or resolved.toml."
)
@click.option(
    "--like",
    nargs=2,
    type=(click.Choice(["kohya", "ai-toolkit", "diffusers"]), click.Path(path_type=Path, dir_okay=False)),
    metavar="TRAINER FILE",
    help="Take the settings of another trainer's file and say what each became; other flags win over it.",
)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, e.g. train.optim.lr=5e-5."
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="RUN",
    help="Continue this stopped run.",
)
@click.option(
    "--track",
    type=click.Choice(["none", "tensorboard", "wandb"]),
    help="Send curves and sample pictures there too. [default: none]",
)
@click.option(
    "--push-to-hub", metavar="OWNER/NAME", help="Upload the proved run to the hub; see detour push."
)
@click.option(
    "--public", is_flag=True, help="With --push-to-hub: make a new repository public. [default: private]"
)
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    help="Processes that share every step, one GPU each (or cores of the CPU). [default: 1]",
)
@runs_option
@force_option
@json_option
def command(
    *,
    config: Path | None,
    like: tuple[Any, Path] | None,
    assignments: tuple[str, ...],
    new_words: tuple[str, ...],
    resume: Path | None,
    processes: int | None,
    push_to_hub: str | None,
    public: bool,
    runs: Path,
    force: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train an adapter on DATA (a folder of pictures with .txt captions, or hub:ID) and prove that it learned.

    The run folder holds the adapter, its model card, report.html with pictures and verdict, and everything that
    is needed to repeat or resume the run. Ctrl-C finishes the step, saves, and says how to go on.

    \b
    detour train photos/ --name my-style
    detour train photos/ --base stable-diffusion-v1-5/stable-diffusion-v1-5 --rank 8
    detour train photos/ --goal subject --trigger "sks robot" --class-prompt "a robot"
    detour train --like kohya my-style.toml
    detour train --resume runs/my-style
    """
    if processes is not None:
        _share(processes)
    from detour.cli.processes import is_first
    from detour.cli.progress import shown
    from detour.cli.results import show_push_result, show_train_result
    from detour.errors import ConfigError
    from detour.specs import load_run_spec

    given = {KEYS[flag]: value for flag, value in flags.items() if value not in (None, ())}
    peer = None
    if like is not None:
        peer = _settings_like(like, config, resume)
        given = dict(peer.settings) | given
    if flags["from_file"]:
        check_adapters([flags["from_file"]])
        given |= {"adapter.from_sha256": ""}  # what a --config says of another file
    if new_words:
        pairs = [text.rpartition("=") for text in new_words]
        alone = next(
            (text for text, pair in zip(new_words, pairs, strict=True) if not (pair[0] and pair[2])), None
        )
        if alone is not None:
            raise ConfigError(
                f"--new-word '{alone}' does not say which word to start from. Write WORD=KNOWN, e.g. '<bob>=robot'."
            )
        given |= {"adapter.tokens.words": tuple(pair[0] for pair in pairs)}
        given |= {"adapter.tokens.init": tuple(pair[2] for pair in pairs)}
    refuse_settings_of_resumed(resume, given, assignments, config)
    named = "data.source" in given or any(a.startswith("data.") for a in assignments)
    if resume is None and config is None and not named:
        raise ConfigError(
            "no pictures were named. Try: detour train photos/ (a folder of pictures with .txt captions)."
        )
    spec = None if resume is not None else load_run_spec(config=config, flags=given, assignments=assignments)
    if spec is not None:
        check_run(spec)
    if resume is not None and not resume.is_dir():
        raise ConfigError(f"--resume {resume}: no such run. `detour runs` lists those that are there.")
    announce(quiet=as_json or not is_first())
    from detour.verbs.train.hub_upload import check_push, push_run, refuse_whole_bases
    from detour.verbs.train.run import train_adapter

    if push_to_hub is not None:
        check_push(push_to_hub)  # before hours of work
    if push_to_hub is not None and spec is not None:
        refuse_whole_bases(spec)
    with shown(quiet=as_json or not is_first()) as progress:
        result = train_adapter(spec, runs=runs, resume=resume, force=force, like=peer, progress=progress)
    if not is_first():
        return
    show_train_result(result, as_json=as_json)
    if push_to_hub is not None:
        with shown(quiet=as_json) as progress:
            pushed = push_run(result.run_folder, push_to_hub, public=public, progress=progress)
        if not as_json:
            show_push_result(pushed, as_json=False)


def _settings_like(like: tuple[Any, Path], config: Path | None, resume: Path | None) -> "PeerSettings":
    """Settings of another trainer's file; what became of each of its keys goes to standard error."""
    from detour.errors import ConfigError
    from detour.verbs.train.peers import read_peer

    if config is not None or resume is not None:
        raise ConfigError(
            f"--like {like[1]}: --config and --resume bring settings of their own. Leave them out."
        )
    found = read_peer(*like)
    for fate in found.fates:
        click.echo(fate.line, err=True)
    return found


def _share(count: int) -> None:
    """Become the launcher of ``count`` processes, unless this is one of them already."""
    from detour.cli.processes import end_with_launcher, is_launched, run_in_processes
    from detour.errors import ConfigError

    end_with_launcher()
    if not is_launched():
        if count > 1:
            arguments: list[str] = click.get_current_context().find_root().obj
            raise click.exceptions.Exit(run_in_processes(arguments, count))
    elif count != int(os.environ["WORLD_SIZE"]):
        raise ConfigError(
            f"--processes {count}, but the launcher started {os.environ['WORLD_SIZE']}. Leave --processes out."
        )
