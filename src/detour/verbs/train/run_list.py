"""Which runs there are, in what state, with which verdict: read from their folders, whoever made them."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from detour.errors import ConfigError, RunError
from detour.training.run_folder import RUN_STATE, is_locked, read_state


class RunSummary(BaseModel):
    """What there is to say of a run in one row."""

    model_config = ConfigDict(frozen=True)

    name: str
    folder: Path
    state: str
    """running, finished, interrupted, failed, diverged; ``died`` where it says running and nothing runs."""
    step: int
    steps: int | None
    base: str
    goal: str
    method: str
    """lora, dora, loha, lokr, pissa, olora, or full: the base's own weights."""
    verdict: str | None
    final_loss: float | None
    val_loss: float | None
    seconds: float | None
    error: str | None


def list_runs(runs: Path = Path("runs")) -> list[RunSummary]:
    """Every run in a folder, by name; a folder that holds none is no error.

    Args:
        runs: folder of all runs.

    Raises:
        ConfigError: ``runs`` is there and is not a folder.
    """
    if runs.exists() and not runs.is_dir():
        raise ConfigError(f"{runs}: not a folder. Name the folder of your runs with --runs.")
    folders = sorted(path.parent for path in runs.glob(f"*/{RUN_STATE}"))
    return [summary_of(folder) for folder in folders]


def summary_of(folder: Path) -> RunSummary:
    """One run's state, whatever of it can be read."""
    try:
        state = read_state(folder)
    except RunError:
        state = {"state": "unreadable"}
    named = str(state.get("state", "unreadable"))
    if named == "running" and not is_locked(folder):
        named = "died"
    return RunSummary(
        name=folder.name,
        folder=folder,
        state=named,
        step=int(_number(state.get("step")) or 0),
        steps=int(steps) if (steps := _number(state.get("steps"))) is not None else None,
        base=str(state.get("base", "")),
        goal=str(state.get("goal", "")),
        method=str(state.get("method", "lora")),
        verdict=_verdict(folder),
        final_loss=_number(state.get("loss")),
        val_loss=_number(state.get("val_loss")),
        seconds=_number(state.get("seconds")),
        error=str(state["error"]) if state.get("error") else None,
    )


def _verdict(folder: Path) -> str | None:
    """Read the verdict of ``proof.json``; ``None`` where it is missing or cannot be read."""
    try:
        proof = json.loads((folder / "proof.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    verdict = proof.get("verdict") if isinstance(proof, dict) else None
    return verdict if isinstance(verdict, str) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
