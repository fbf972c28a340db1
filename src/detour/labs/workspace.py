"""What ``detour labs`` does: hand a notebook out, run a solution, check a learner's notebook."""

import contextlib
from pathlib import Path
from typing import Any

from detour.bases.names import split_name
from detour.errors import BaseError, ConfigError, MissingExtra, TaskOpen
from detour.files import write_text
from detour.labs.checking import said
from detour.labs.execution import Executed, execute, lab_number
from detour.labs.grading import graders_of
from detour.labs.index import FLOWS, LABS, Lab, lab_of
from detour.labs.literals import refused_literal
from detour.labs.sources import named_base, needs_judge, notebook_of


def hand_out(
    number: int,
    *,
    out: Path,
    solution: bool = False,
    base: str | None = None,
    judge: str | None = None,
    force: bool = False,
) -> Path:
    """Write the notebook of a lab into ``out``.

    Args:
        number: of the lab.
        out: folder that the notebook is written into.
        solution: with the answers.
        base: in place of ``pocket``; a folder is written as an absolute path, since notebooks run elsewhere.
        judge: CLIP model that scores pictures, in place of the base's own.
        force: overwrite a notebook that is there.

    Raises:
        ConfigError: no such lab, the file is there already, the lab does not run on this base's family, or nobody can
            judge its pictures.
        MissingExtra: the labs' own requirements are not installed.
    """
    lab = _present(number)
    kind = "-solution" if solution else ""
    path = out / f"{lab.name}{kind}.ipynb"
    if path.exists() and not force:
        raise ConfigError(
            f"{path}: there already, with your answers perhaps. Pass --force, or another --out."
        )
    base, judge = _placed(base), _placed(judge)
    with contextlib.suppress(
        BaseError
    ):  # a base that is fetched later is looked at when the notebook is checked
        _require_family(lab, base)
    _require_judge(lab, base, judge)
    notebook = notebook_of(lab, "solution" if solution else "exercise", base=base, judge=judge)
    write_text(path, _nbformat().writes(notebook) + "\n")
    return path


def run_solution_of(number: int, *, base: str | None = None, judge: str | None = None) -> Executed:
    """Run a solution in a temporary folder.

    Args:
        number: of the lab.
        base: in place of ``pocket``.
        judge: CLIP model that scores pictures, in place of the base's own.

    Raises:
        ConfigError: no such lab, the lab does not run on this base's family, or nobody can judge its pictures; said
            before anything is trained.
        MissingExtra: the labs' own requirements are not installed.
    """
    lab, base, judge = _present(number), _placed(base), _placed(judge)
    _require_family(lab, base)
    _require_judge(lab, base, judge)
    return execute(notebook_of(lab, "solution", base=base, judge=judge))


def _placed(name: str | None) -> str | None:
    """A folder's absolute path; anything else, such as a hub id, as it is."""
    if name is None:
        return None
    place, mark = split_name(name)
    return f"{Path(place).resolve()}{mark}" if Path(place).exists() else name


def _require_family(lab: Lab, base: str | None) -> None:
    """Raises ``ConfigError`` where a lab does not run on the family of ``base``, and names labs that do."""
    if base is None:
        return
    from detour.bases.base import open_base

    family = open_base(base, weights=False).family
    if family.name in lab.families:
        return
    others = [str(one.number) for one in LABS if family.name in one.families]
    runs = f"lab{'s' * (len(others) > 1)} {', '.join(others)}"
    if family.network_part == "transformer":
        cause = "it is about UNets along a schedule of noise, and that base is a transformer along a flow"
    elif lab.families is FLOWS:
        cause = "it is about flows, and that base is a UNet along a schedule of noise"
    elif family.reads_sizes:
        cause = "it calls the UNet by hand with text states alone, and that base's reads sizes and a pooled state too"
    else:
        cause = "it takes the UNet's answer for noise, and many bases of that family answer with velocity"
    raise ConfigError(
        f"lab {lab.number} does not run on '{base}' ({family.title}): {cause}. Choose a base of another family, or "
        f"{runs}."
    )


def _require_judge(lab: Lab, base: str | None, judge: str | None) -> None:
    """Raises ``ConfigError`` where a lab would train first, and then find nobody to look at the pictures."""
    if base is None or judge is not None or not needs_judge(lab):
        return
    from detour.bases.base import open_base
    from detour.evaluation.judge import DEFAULT_JUDGE
    from detour.evaluation.judge_choice import can_be_judged

    if not can_be_judged(None, open_base(base, weights=False)):
        free = ", ".join(str(one.number) for one in LABS if not needs_judge(one))
        raise ConfigError(
            f"lab {lab.number} scores pictures, and '{base}' brings no judge: pass --judge FOLDER of a CLIP model, or "
            f"--judge {DEFAULT_JUDGE} to fetch that one (1.7 GB). Labs {free} need none."
        )


def check_file(path: Path) -> Executed:
    """Run a learner's notebook up to its first open task; the file stays as it is.

    Answers that are plain values are graded first, so that a sentence that is too short costs no training.

    Raises:
        ConfigError: not there, no notebook, or its line ``BASE = …`` names a base that the lab does not run on.
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
    number = lab_number(notebook)
    _require_family(lab_of(number), named_base(notebook))
    refused = refused_literal(notebook, number)
    if refused is not None:
        return Executed(
            lab=number, seconds=0.0, core_seconds=0.0, peak_bytes=0, results=dict.fromkeys(graders_of(number), False),
            error=TaskOpen.__name__, feedback=said(number, refused.task, refused.grade),
            message=f"lab {number}, '{refused.task}' is open, and nothing was run: change that cell, then check again.",
        )  # fmt: skip
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
