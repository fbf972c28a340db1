import os
import subprocess
import sys
from pathlib import Path

import pytest

from detour.errors import RunError
from detour.training.run_folder import (
    check_name,
    claimed,
    free_name,
    is_locked,
    locked,
    name_from,
    read_state,
    write_state,
)


def test_a_taken_name_gets_a_number_and_nothing_is_written_over(tmp_path: Path) -> None:
    for expected in ("demo", "demo-2", "demo-3"):
        with claimed(tmp_path, "demo", force=False) as folder:
            assert folder.name == expected
            write_state(folder, "finished", {"step": 1})
    assert read_state(tmp_path / "demo")["state"] == "finished"


def test_a_folder_without_a_run_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "demo" / "data").mkdir(parents=True)
    with claimed(tmp_path, "demo", force=False) as folder:
        assert folder == tmp_path / "demo"


def test_force_clears_the_run_and_leaves_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    (folder / "samples").mkdir(parents=True)
    for name in ("run.json", "demo.safetensors", "notes.txt", "other.safetensors", "samples/a.png"):
        (folder / name).write_text("x")
    with claimed(tmp_path, "demo", force=True) as claimed_folder:
        assert claimed_folder == folder
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "notes.txt", "other.safetensors"]


def test_a_locked_folder_is_refused_with_the_process_named(tmp_path: Path) -> None:
    # flock belongs to the open file, so a second descriptor of one process stands for a second process.
    with locked(tmp_path / "demo"):
        assert is_locked(tmp_path / "demo")
        with (
            pytest.raises(RunError, match=f"process {os.getpid()} is training here"),
            locked(tmp_path / "demo"),
        ):
            pass
        with pytest.raises(RunError, match="is training"), claimed(tmp_path, "demo", force=True):
            pass
        assert free_name(tmp_path, "demo") == "demo-2"
    assert not is_locked(tmp_path / "demo")


def test_the_lock_falls_with_a_killed_process(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from detour.training.run_folder import locked\n"
        "with locked(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "demo")], check=False)
    assert result.returncode == -9
    with locked(tmp_path / "demo"):
        pass


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("photos/", "photos"),
        ("/data/My photos", "My-photos"),
        ("hub:owner/Some_Set", "Some_Set"),
        ("C:\\pics\\dog", "dog"),
        ("***", "run"),
    ],
)
def test_a_run_is_named_after_its_data(source: str, name: str) -> None:
    assert name_from(source) == name
    check_name(name)


@pytest.mark.parametrize("name", ["", "../evil", "a/b", ".hidden", "a" * 81, "a:b", "nul\0"])
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(RunError, match="cannot be the name of a run"):
        check_name(name)


def test_a_folder_without_state_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no readable run\.json"):
        read_state(tmp_path)
