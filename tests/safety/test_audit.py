"""The log of decisions: every change of it is noticed, and the first entry that is wrong is named."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from detour.errors import ConfigError, LogBroken, StorageError
from detour.safety.audit import (
    FIRST,
    TABLE,
    append_entry,
    check_entries,
    entries_of,
    prune_entries,
    read_entries,
)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "log.sqlite", isolation_level=None)
    connection.execute(TABLE)
    for number in range(1, 6):
        append_entry(connection, float(number), "release", picture=number, name="Ada")
    yield connection
    connection.close()


def checked(db: sqlite3.Connection, head: str | None = None) -> str:
    return check_entries(list(entries_of(db)), head=head)


def test_a_log_that_nobody_touched_is_whole(db: sqlite3.Connection, tmp_path: Path) -> None:
    head = checked(db)
    assert [one.facts["picture"] for one in read_entries(tmp_path / "log.sqlite")] == [1, 2, 3, 4, 5]
    assert checked(db, head) == head
    later = append_entry(db, 6.0, "refuse", picture=6)
    assert checked(db, head) == later, "an earlier head is still there"
    assert check_entries([]) == FIRST


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        ("UPDATE audit SET body = replace(body, 'Ada', 'Eve') WHERE number = 2", 2),
        ("UPDATE audit SET body = 'no JSON' WHERE number = 2", 2),
        ("UPDATE audit SET at = at + 1 WHERE number = 3", 3),
        ("UPDATE audit SET previous = hash WHERE number = 4", 4),
        ("DELETE FROM audit WHERE number = 1", 1),
        ("DELETE FROM audit WHERE number = 3", 3),
        ("UPDATE audit SET number = 9 WHERE number = 5", 5),
        ("INSERT INTO audit SELECT 6, at, body, previous, hash FROM audit WHERE number = 5", 6),
    ],
)
def test_the_first_entry_that_does_not_follow_is_named(
    db: sqlite3.Connection, change: str, entry: int
) -> None:
    db.execute(change)
    with pytest.raises(LogBroken, match=rf"entry {entry} was"):
        checked(db)


def test_a_cut_end_is_noticed_by_who_kept_the_last_hash(db: sqlite3.Connection) -> None:
    head = checked(db)
    db.execute("DELETE FROM audit WHERE number = 5")
    checked(db)
    with pytest.raises(LogBroken, match="entries at its end were removed"):
        checked(db, head)


def test_old_entries_go_and_the_rest_is_held_against_the_last_of_them(db: sqlite3.Connection) -> None:
    head = checked(db)
    assert prune_entries(db, 10.0, before=3.0) == 3
    assert [one.number for one in entries_of(db)] == [4, 5, 6]
    assert checked(db, head)
    assert prune_entries(db, 10.0, before=3.0) == 0
    db.execute("DELETE FROM audit WHERE number = 4")
    with pytest.raises(LogBroken, match="entry 1 was"):
        checked(db)


def test_a_log_of_old_entries_alone_goes_too_and_says_so(db: sqlite3.Connection) -> None:
    assert prune_entries(db, 10.0, before=9.0) == 5
    assert [one.facts["kind"] for one in entries_of(db)] == ["pruned"]
    checked(db)


def test_a_folder_without_a_log_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_entries(tmp_path / "jobs.sqlite")
    (tmp_path / "jobs.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="cannot be read"):
        read_entries(tmp_path / "jobs.sqlite")
    sqlite3.connect(tmp_path / "empty.sqlite").close()
    with pytest.raises(ConfigError, match="has no log"):
        read_entries(tmp_path / "empty.sqlite")
