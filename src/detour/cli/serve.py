"""``detour serve``."""

import json
from pathlib import Path
from typing import Any

import click

from detour.cli.early import announce, check_base
from detour.cli.options import DEVICES, DTYPES, base_option, json_option

STATE = click.Path(path_type=Path, file_okay=False)
SCOPES = click.Choice(["draw", "review", "admin"])


@click.group(
    "serve",
    short_help="Serve adapters over HTTP: many in one batch, with jobs that survive a kill.",
    invoke_without_command=True,
)
@base_option(default=None)
@click.option("--revision", help="Branch, tag or commit of a hub base.")
@click.option(
    "--adapters",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of adapters that requests name; what is added or removed while the server runs is noticed.",
)
@click.option("--state", type=STATE, help="Folder of the queue, keys and pictures. [default: serve-state]")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="TOML file of settings.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="One setting; repeatable.")
@click.option("--host", help="Address to listen at; beyond loopback a key is needed. [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one. [default: 8188]")
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    help="Further host name of this server; repeatable.",
)
@click.option(
    "--allow-origin",
    "allow_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Web origin whose pages may call the server; repeatable.",
)
@click.option(
    "--policy",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Safety policy (TOML): what is refused, changed or held for a person.",
)
@click.option(
    "--reference-adapter",
    type=click.Path(path_type=Path, dir_okay=False),
    help="IP-Adapter file: requests may bring reference pictures.",
)
@click.option("--require-key", is_flag=True, help="Ask for a key on loopback too.")
@click.option("--device", type=DEVICES, help="Where it draws. [default: auto]")
@click.option("--dtype", type=DTYPES, help="Precision. [default: auto: fp32 on a CPU]")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    config: Path | None,
    assignments: tuple[str, ...],
    require_key: bool,
    **flags: Any,
) -> None:
    """Serve a base and a folder of adapters: native jobs, OpenAI Images, AUTOMATIC1111.

    \b
    detour serve --base pocket --adapters runs/
    detour serve key add my-client
    curl http://127.0.0.1:8188/v1/jobs -H 'content-type: application/json' \\
         -d '{"prompts": ["a red house in the desert"]}'

    Accepted jobs survive a kill; Ctrl-C finishes running pictures and keeps the queue. docs/serving.md says more.
    """
    if context.invoked_subcommand is not None:
        return
    check_base(flags["base"])
    announce(quiet=False, always=True)
    values = {key: value for key, value in flags.items() if value not in (None, ())}
    if require_key:
        values["require_key"] = True
    adapter = values.pop("reference_adapter", None)
    if adapter is not None:
        assignments = (f"references.adapter={json.dumps(str(adapter.absolute()))}", *assignments)
    _require_extra()
    from detour.serving.running import serve
    from detour.serving.settings import load_serve_spec

    serve(load_serve_spec(config, values, assignments), say=_say)


@command.group("key")
def key() -> None:
    """Add, list and remove the keys of clients; a running server takes up the changes."""


@key.command("add")
@click.argument("name")
@click.option(
    "--state", type=STATE, default=Path("serve-state"), show_default=True, help="Folder of the server."
)
@click.option(
    "--scope",
    "scopes",
    type=SCOPES,
    multiple=True,
    default=("draw",),
    show_default=True,
    help="What the key may do; repeatable.",
)
@click.option("--per-day", type=click.IntRange(1), help="Pictures that it may ask for in a day (UTC).")
@json_option
def add(*, name: str, state: Path, scopes: tuple[Any, ...], per_day: int | None, as_json: bool) -> None:
    """Make a key for NAME and print it; it is shown only once."""
    from detour.serving.keys import KeyRing

    made = KeyRing(state).add(name, scopes=scopes, per_day=per_day)
    click.echo(
        json.dumps({"name": name, "key": made, "scopes": scopes, "per_day": per_day}) if as_json else made
    )
    if not as_json:
        click.echo("only its hash is kept, so it cannot be shown again.", err=True)


@key.command("list")
@click.option(
    "--state", type=STATE, default=Path("serve-state"), show_default=True, help="Folder of the server."
)
@json_option
def list_keys(*, state: Path, as_json: bool) -> None:
    """List the keys: names, scopes and quotas."""
    from detour.printing import printable
    from detour.serving.keys import KeyRing

    records = KeyRing(state).records
    if as_json:
        click.echo(json.dumps([record.model_dump(exclude={"sha256"}) for record in records]))
        return
    for record in records:
        quota = "any number of pictures" if record.per_day is None else f"{record.per_day} pictures a day"
        click.echo(f"{printable(record.name)}  {', '.join(record.scopes)}  {quota}")
    if not records:
        click.echo(f"no keys in {state}. Make one with 'detour serve key add NAME'.")


@key.command("remove")
@click.argument("name")
@click.option(
    "--state", type=STATE, default=Path("serve-state"), show_default=True, help="Folder of the server."
)
def remove(*, name: str, state: Path) -> None:
    """Remove the key NAME; it is refused from the next request on."""
    from detour.printing import printable
    from detour.serving.keys import KeyRing

    KeyRing(state).remove(name)
    click.echo(f"removed: {printable(name)}")


@command.command("backup")
@click.option(
    "--out", type=STATE, required=True, metavar="FOLDER", help="Folder of the copy; it must not exist yet."
)
@click.option(
    "--state", type=STATE, default=Path("serve-state"), show_default=True, help="Folder of the server."
)
@json_option
def backup(*, out: Path, state: Path, as_json: bool) -> None:
    """Copy the state folder to another one; the server may run. To restore, start with --state FOLDER."""
    from detour.serving.backup import back_up

    made = back_up(state, out)
    values = {"folder": str(out), "jobs": made.jobs, "pictures": made.pictures, "bytes": made.num_bytes}
    if as_json:
        click.echo(json.dumps(values))
        return
    click.echo(f"{out}: {made.jobs:,} jobs, {made.pictures:,} pictures, {made.num_bytes / 1e6:,.1f} MB")


def _say(line: str) -> None:
    from detour.printing import printable

    click.echo(printable(line), err=True)


def _require_extra() -> None:
    import importlib.util

    from detour.errors import MissingExtra

    for module in ("fastapi", "uvicorn", "prometheus_client"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(f"'{module}' is needed to serve: pip install 'detour-lora[serve]'.")
