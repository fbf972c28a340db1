"""What counts as edited settings when a run goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from detour.errors import RunError
from detour.specs import load_run_spec, to_toml
from detour.training.resume import _refuse_changed_settings


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
