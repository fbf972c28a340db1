import json
from pathlib import Path

import pytest

from detour.errors import ConfigError
from detour.training.run_folder import locked, write_state
from detour.verbs.train.run_list import list_runs


def test_runs_are_listed_with_state_and_verdict(tmp_path: Path) -> None:
    facts = {"step": 20, "steps": 20, "base": "pocket-v1", "goal": "style", "loss": 0.1, "seconds": 4.5}
    write_state(tmp_path / "b-done", "finished", facts)
    (tmp_path / "b-done" / "proof.json").write_text(json.dumps({"verdict": "learned"}))
    write_state(tmp_path / "a-stopped", "interrupted", {**facts, "step": 7, "error": "stopped after step 7"})
    (tmp_path / "not-a-run").mkdir()
    first, second = list_runs(tmp_path)
    assert (first.name, first.state, first.step, first.verdict) == ("a-stopped", "interrupted", 7, None)
    assert first.error == "stopped after step 7"
    assert (second.name, second.state, second.verdict, second.final_loss) == (
        "b-done",
        "finished",
        "learned",
        0.1,
    )


def test_a_run_whose_process_is_gone_is_not_called_running(tmp_path: Path) -> None:
    write_state(tmp_path / "lost", "running", {"step": 3})
    assert [run.state for run in list_runs(tmp_path)] == ["died"]
    with locked(tmp_path / "lost"):
        assert [run.state for run in list_runs(tmp_path)] == ["running"]


@pytest.mark.parametrize("text", ["", "[]", '{"state": 3, "step": "x", "loss": true}', "{"])
def test_a_damaged_run_is_listed_and_hides_no_other(tmp_path: Path, text: str) -> None:
    write_state(tmp_path / "good", "finished", {"step": 1})
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text(text)
    (tmp_path / "bad" / "proof.json").write_text("{")
    assert [run.name for run in list_runs(tmp_path)] == ["bad", "good"]


def test_no_runs_yet_is_an_empty_list_and_a_file_is_refused(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="not a folder"):
        list_runs(tmp_path / "file")
