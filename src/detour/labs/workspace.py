"""What ``detour labs`` does: hand a notebook out, run a solution, check a learner's notebook."""

from pathlib import Path
from typing import Any

from detour.errors import ConfigError, MissingExtra
from detour.files import write_text
from detour.labs.execution import Executed, execute
from detour.labs.index import Lab, lab_of
from detour.labs.sources import notebook_of


def hand_out(
    number: int, *, out: Path, solution: bool = False, base: str | None = None, force: bool = False
) -> Path:
    """Write the notebook of a lab into ``out``.

    Raises:
        ConfigError: no such lab, or the file is there already.
        MissingExtra: the labs' own requirements are not installed.
    """
    lab = _present(number)
    kind = "-solution" if solution else ""
    path = out / f"{lab.name}{kind}.ipynb"
    if path.exists() and not force:
        raise ConfigError(
            f"{path}: there already, with your answers perhaps. Pass --force, or another --out."
        )
    notebook = notebook_of(lab, "solution" if solution else "exercise", base=base)
    write_text(path, _nbformat().writes(notebook) + "\n")
    return path


def run_solution_of(number: int, *, base: str | None = None) -> Executed:
    """Run a solution in a temporary folder.

    Raises:
        ConfigError: no such lab.
        MissingExtra: the labs' own requirements are not installed.
    """
    return execute(notebook_of(_present(number), "solution", base=base))


def check_file(path: Path) -> Executed:
    """Run a learner's notebook up to its first open task; the file stays as it is.

    Raises:
        ConfigError: not there, or no notebook.
        DetourError: it is none of the labs.
        MissingExtra: the labs' own requirements are not installed.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: not there. `detour labs open N` writes a lab's notebook.")
    nbformat = _nbformat()
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises half a dozen kinds, of other packages too
        raise ConfigError(
            f"{path}: no notebook ({type(error).__name__}). See `detour labs open --help`."
        ) from error
    return execute(notebook)


def _present(number: int) -> Lab:
    lab = lab_of(number)
    if not lab.source.is_file():
        raise ConfigError(f"lab {number} is missing from this installation.")
    return lab


def _nbformat() -> Any:
    try:
        import nbformat
    except ModuleNotFoundError as error:
        raise MissingExtra("labs need jupytext and nbclient: pip install 'detour-lora[labs]'.") from error
    return nbformat
