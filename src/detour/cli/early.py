"""What is looked at before anything heavy is imported: a wrong path or name is said at once, and work is announced."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from detour.specs import RunSpec

PICTURE_BEGINNINGS = {b"\x89PNG": "PNG picture", b"\xff\xd8\xff": "JPEG picture", b"GIF8": "GIF picture"}
STARTING = "starting: PyTorch takes a few seconds to load …"


def announce(*, quiet: bool, always: bool = False) -> None:
    """The first line on a terminal, before the seconds that imports take.

    Args:
        quiet: say nothing (``--json``).
        always: say it in a pipe or a log too.
    """
    if not quiet and (always or sys.stderr.isatty()):
        click.echo(STARTING, err=True)


def refuse_settings_of_resumed(
    resume: Path | None, given: Iterable[str], assignments: Iterable[str], config: Path | None
) -> None:
    """Refuse settings beside ``--resume``: a resumed run keeps its own.

    Args:
        resume: run folder; ``None`` where no run is resumed, and nothing is refused.
        given: keys of the settings that flags set.
        assignments: of ``--set``.
        config: of ``--config``.

    Raises:
        ConfigError: names the first setting.
    """
    from detour.errors import ConfigError

    extra = next(iter([*given, *assignments, *(["config"] if config else [])]), None)
    if resume is not None and extra is not None:
        raise ConfigError(
            f"--resume {resume}: a resumed run keeps its settings, but '{extra}' was given too. "
            "Leave it out, or start a new run."
        )


def check_base(name: str | None) -> None:
    """Refuse a base that is nowhere; ``None`` is left to whoever finds one.

    Raises:
        BaseError: no file, folder, hub id or known name.
    """
    from detour.bases.names import check_base_name

    if name is not None:
        check_base_name(name)


def check_adapters(paths: Iterable[Path | str]) -> None:
    """Refuse adapters that are not there, and pictures in their place; ``FILE:weight`` is looked at as FILE.

    Raises:
        AdapterError: names the file.
    """
    from detour.errors import AdapterError

    for text in paths:
        path = Path(text).expanduser()
        if not path.exists() and ":" in str(text):
            path = Path(str(text).rpartition(":")[0]).expanduser()
        if not path.exists():
            raise AdapterError(f"{text}: no such adapter. Name a file (FILE or FILE:weight) or a folder.")
        kind = _picture_kind(path)
        if kind is not None:
            raise AdapterError(
                f"{path}: a {kind}, and no adapter. Name a .safetensors file or a PEFT folder."
            )


def check_target(path: Path) -> None:
    """Refuse a run or an adapter that is not there, and a picture in its place.

    Raises:
        AdapterError: names the file.
    """
    from detour.errors import AdapterError

    if not path.exists():
        raise AdapterError(f"{path}: no such run or adapter. `detour runs` lists the runs.")
    check_adapters([path])


def check_run(spec: "RunSpec") -> None:
    """Refuse a run whose base or folders of pictures are nowhere.

    Raises:
        BaseError, DataError: names what is not there.
    """
    from detour.errors import DataError

    check_base(spec.base.name)
    for folder in spec.data.all_folders():
        source = Path(folder.source).expanduser()
        if folder.source and not folder.source.startswith("hub:") and not source.is_dir():
            raise DataError(
                f"{folder.source}: no such folder of pictures. Name a folder, or hub:ID for a hub data set."
            )


def _picture_kind(path: Path) -> str | None:
    """What a picture file is, by its first bytes; ``None`` of anything else."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream:
            beginning = stream.read(4)
    except OSError:  # whoever reads it says why
        return None
    return next((kind for sign, kind in PICTURE_BEGINNINGS.items() if beginning.startswith(sign)), None)
