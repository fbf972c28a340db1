"""A backup is taken from a running server, and a server that starts on it finishes what was accepted."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from detour.cli.main import cli
from detour.errors import ConfigError, StorageError
from detour.serving import backup
from detour.serving.backup import back_up
from tests.conftest import WatchedDisk
from tests.serving.conftest import Served, serving


def pixels(served: Served, job: dict[str, object], folder: Path) -> list[np.ndarray]:
    found = served.service.store.job(str(job["id"]))
    assert found is not None
    return [np.asarray(Image.open(folder / "pictures" / f"{one.token}.png")) for one in found.pictures]


def test_a_server_on_the_backup_draws_what_was_open_with_the_same_pixels(
    served: Served, engine: object, shelf_folder: Path, tmp_path: Path
) -> None:
    first = served.job({"prompts": ["a red house"], "steps": 2, "seed": 1})
    served.done(first["id"])
    body = {"prompts": ["a cat"], "count": 3, "steps": 25, "seed": 5, "adapters": [{"name": "style"}]}
    opened = served.job(body)
    served.keys.add("me", scopes=("draw",))
    made = back_up(served.spec.state, tmp_path / "copy")
    assert (made.jobs, made.pictures) == (2, 1)
    assert served.http.get(f"/v1/jobs/{opened['id']}").json()["state"] in ("queued", "drawing")
    served.done(opened["id"])
    before = pixels(served, opened, served.spec.state)
    with serving(engine, shelf_folder, tmp_path / "copy") as again:
        key = {"authorization": "Bearer wrong"}
        assert again.http.get("/v1/jobs", headers=key).status_code == 401  # the keys came along
        assert again.done(opened["id"])["state"] == "done"
        for mine, theirs in zip(pixels(again, opened, tmp_path / "copy"), before, strict=True):
            assert np.array_equal(mine, theirs)
        assert len(list((tmp_path / "copy" / "pictures").glob("*.png"))) == 4
        assert len(list((tmp_path / "copy" / "pictures").glob("*.json"))) == 4


def test_what_was_written_last_is_in_the_backup_though_it_is_still_in_the_wal(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "pictures").mkdir(parents=True)
    db = sqlite3.connect(state / "jobs.sqlite", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.executescript("CREATE TABLE jobs (id TEXT); CREATE TABLE pictures (token TEXT, bytes INTEGER);")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.execute("INSERT INTO jobs VALUES ('new')")
    assert b"new" not in (state / "jobs.sqlite").read_bytes()
    assert back_up(state, tmp_path / "copy").jobs == 1
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["jobs.sqlite", "pictures"]
    db.close()


def test_everything_that_was_copied_is_on_the_disk_before_the_backup_has_its_name(
    tmp_path: Path, watched_disk: WatchedDisk
) -> None:
    state = tmp_path / "state"
    (state / "pictures").mkdir(parents=True)
    db = sqlite3.connect(state / "jobs.sqlite")
    db.executescript(
        "CREATE TABLE jobs (id TEXT); CREATE TABLE pictures (token TEXT, bytes INTEGER);"
        "INSERT INTO pictures VALUES ('abc', 1);"
    )
    db.close()
    for name in ("pictures/abc.png", "pictures/abc.json", "keys.json"):
        (state / name).write_text("x")
    back_up(state, tmp_path / "copy")
    assert watched_disk.synced_before("copy") >= {
        *("jobs.sqlite", "abc.png", "abc.json", "keys.json", "pictures", ".copy.partial")
    }
    assert watched_disk.events[-1] == tmp_path.name


def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no jobs\.sqlite"):
        back_up(tmp_path, tmp_path / "copy")
    state = tmp_path / "state"
    state.mkdir()
    (state / "jobs.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match="Nothing was kept"):
        back_up(state, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        back_up(state, tmp_path / "there")
    with pytest.raises(ConfigError, match="is inside"):
        back_up(state, state / "copy")


def test_the_command_says_what_it_copied(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "pictures").mkdir(parents=True)
    db = sqlite3.connect(state / "jobs.sqlite")
    db.executescript("CREATE TABLE jobs (id TEXT); CREATE TABLE pictures (token TEXT, bytes INTEGER);")
    db.close()
    shown = CliRunner().invoke(
        cli, ["serve", "backup", "--out", str(tmp_path / "out"), "--state", str(state)]
    )
    assert shown.exit_code == 0, shown.output
    assert "0 jobs, 0 pictures" in shown.output
    assert backup.DATABASE in {path.name for path in (tmp_path / "out").iterdir()}
