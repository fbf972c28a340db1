"""``detour doctor``."""

from typing import TYPE_CHECKING, Any

import click

from detour.cli.early import announce, check_base
from detour.cli.options import DTYPES, SAMPLERS, SEEDS, base_option, json_option, pickle_option

if TYPE_CHECKING:
    from detour.verbs.doctor.examination import Examination


@click.command("doctor", short_help="Find settings that make bad pictures: each with its cause and its fix.")
@click.argument("subject", required=False, metavar="[RUN|ADAPTER[:WEIGHT]|PICTURE]")
@base_option(None)
@click.option("--revision", help="Branch, tag or commit of a hub base.")
@click.option("--prompt", help="Prompt of a picture that you want to draw.")
@click.option("--negative", "negative_prompt", default="", help="What guidance steers away from.")
@click.option("--steps", type=int, help="Denoising steps.")
@click.option("--guidance", "guidance_scale", type=float, help="Guidance scale.")
@click.option("--scheduler", type=click.Choice(SAMPLERS), help="Sampler.")
@click.option("--width", "width_px", type=int, help="Pixels.")
@click.option("--height", "height_px", type=int, help="Pixels.")
@click.option("--seed", type=SEEDS, help="Seed of the picture.")
@click.option("--dtype", type=DTYPES, help="Precision of drawing.")
@pickle_option
@json_option
def command(
    *,
    subject: str | None,
    base: str | None,
    revision: str | None,
    allow_pickle: bool,
    as_json: bool,
    **asked_picture: Any,
) -> None:
    """Look at this machine, and at a run, an adapter, a PNG that detour drew, or a picture that is asked for.

    Nothing is drawn or trained. Every finding has its cause and its fix; docs/doctor.md lists all rules.
    Exit code 17 when something serious was found.

    \b
    detour doctor
    detour doctor runs/demo
    detour doctor runs/demo/demo.safetensors:1.5 --prompt "a red house" --guidance 12
    detour doctor outputs/0000-a-red-house-seed0.png
    """
    check_base(base)
    announce(quiet=as_json)
    from detour.cli.progress import shown
    from detour.errors import Unwell
    from detour.verbs.doctor.examination import AskedPicture, examine

    with shown(quiet=as_json) as progress:
        found = examine(
            subject,
            base=base,
            revision=revision,
            asked_picture=AskedPicture(**asked_picture),
            allow_pickle=allow_pickle,
            progress=progress,
        )
    if as_json:
        from detour.cli.results import echo_json

        echo_json(found.to_json())
    else:
        show(found)
    if not found.is_well:
        serious = [finding for finding in found.findings if finding.severity == "error"]
        named = ", ".join(dict.fromkeys(finding.rule for finding in serious))
        raise Unwell(f"{len(serious)} serious finding{'s' * (len(serious) != 1)}: {named}.")


def show(found: "Examination") -> None:
    """The machine in three lines, then the findings."""
    machine = found.machine
    versions = ", ".join(
        f"{name} {machine.installed[name]}"
        for name in ("torch", "diffusers", "transformers", "peft")
        if machine.installed.get(name)
    )
    gib = 2**30
    click.echo(f"detour {machine.detour}; {versions}")
    click.echo(
        f"{machine.device}, drawing in {machine.dtype}, {machine.threads} of {machine.cores} cores; "
        f"free: {machine.memory_free_bytes / gib:.1f} GiB of memory, {machine.disk_free_bytes / gib:.1f} GiB of disk"
    )
    if found.base:
        click.echo(f"{found.subject or 'request'}, base {found.base}")
    for finding in found.findings:
        click.echo("")
        click.secho(f"{finding.severity}: {finding.what}", bold=finding.severity == "error")
        click.echo(f"  where: {finding.where}  [{finding.rule}]")
        click.echo(f"  cause: {finding.cause}")
        click.echo(f"  fix:   {finding.fix}")
    if not found.findings:
        click.echo("nothing is wrong, as far as this can be seen")
