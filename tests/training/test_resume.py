"""What counts as edited settings when a run goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from detour.errors import RunError
from detour.specs import load_run_spec, to_toml
from detour.training.resume import _completed, _refuse_changed_settings


def checkpoint(settings: str) -> Any:
    return SimpleNamespace(facts={"settings": settings})


def test_a_setting_that_an_older_version_did_not_have_is_no_edit() -> None:
    spec = load_run_spec(flags={"data.source": "photos"})
    text = to_toml(spec)
    assert "recursive = false\n" in text
    _refuse_changed_settings(Path("run"), checkpoint(text.replace("recursive = false\n", "")), spec)


def test_a_setting_that_differs_is_named() -> None:
    spec = load_run_spec(flags={"data.source": "photos", "data.recursive": True})
    text = to_toml(spec).replace("recursive = true\n", "")
    with pytest.raises(RunError, match=r"edited since the checkpoint: data.recursive"):
        _refuse_changed_settings(Path("run"), checkpoint(text), spec)


def test_a_setting_that_came_after_the_run_had_begun_is_taken_from_the_checkpoint(tmp_path: Path) -> None:
    known = load_run_spec(flags={"data.source": "photos", "train.loss.timesteps": "uniform"})
    settings = tmp_path / "resolved.toml"
    settings.write_text(to_toml(known).replace('timesteps = "uniform"\n', ""))
    read = load_run_spec(config=settings)
    assert read.train.loss.timesteps == "auto"
    assert _completed(read, checkpoint(to_toml(known)), settings) == known
    assert _completed(read, checkpoint(to_toml(read)), settings) == read  # the checkpoint is as old


def test_a_setting_that_was_set_to_auto_is_an_edit(tmp_path: Path) -> None:
    known = load_run_spec(flags={"data.source": "photos", "train.steps": 200})
    settings = tmp_path / "resolved.toml"
    settings.write_text(to_toml(known).replace("steps = 200\n", 'steps = "auto"\n'))
    spec = _completed(load_run_spec(config=settings), checkpoint(to_toml(known)), settings)
    with pytest.raises(RunError, match=r"edited since the checkpoint: train.steps \(200 → auto\)"):
        _refuse_changed_settings(tmp_path, checkpoint(to_toml(known)), spec)
