"""The review queue: who may release, what expires, and a log that shows every change to it."""

import sqlite3
import threading
from pathlib import Path

import pytest

from detour.errors import ConfigError, StorageError
from detour.safety.decision import Decision
from detour.safety.policy_file import RetentionSpec, ReviewSpec
from detour.safety.review import DAY_S, LogBroken, NotWaiting, ReviewQueue

HELD = Decision(action="hold", layer="texts", code="texts", score=0.4, policy="test@1:abc")
PICTURE = b"picture" * 1000


class Clock:
    at = 1_000_000.0

    def __call__(self) -> float:
        return self.at


def queue(folder: Path, clock: Clock, *, two: bool = False, **retention: object) -> ReviewQueue:
    return ReviewQueue(
        folder / "review.db",
        review=ReviewSpec(two_persons=two),
        retention=RetentionSpec(**retention),  # type: ignore[arg-type]
        now=clock,
    )


def put(made: ReviewQueue, owner: str = "client") -> str:
    return made.hold(PICTURE, decision=HELD, prompt="a duck", owner=owner)


def test_a_held_picture_reaches_its_owner_after_release_and_nobody_else(tmp_path: Path) -> None:
    made = queue(tmp_path, Clock())
    name = put(made)
    assert made.fetch(name, owner="client") == ("held", None)
    assert [one.id for one in made.waiting()] == [name]
    assert made.look(name) == PICTURE
    assert made.release(name, person="Ada") == "released"
    assert made.fetch(name, owner="client") == ("released", PICTURE)
    with pytest.raises(NotWaiting):
        made.fetch(name, owner="other")
    with pytest.raises(NotWaiting, match="released already"):
        made.refuse(name, person="Ada")
    assert made.waiting() == []


def test_two_different_people_have_to_release_and_one_can_refuse(tmp_path: Path) -> None:
    made = queue(tmp_path, Clock(), two=True)
    name, other = put(made), put(made)
    assert made.release(name, person="Ada") == "held"
    with pytest.raises(ConfigError, match="second person"):
        made.release(name, person=" ada ")
    assert made.fetch(name, owner="client") == ("held", None)
    assert made.waiting()[0].released_by == ("Ada",)
    assert made.release(name, person="Grace") == "released"
    assert made.release(other, person="Ada") == "held"
    assert made.refuse(other, person="Ada") == "refused"
    assert made.fetch(other, owner="client") == ("refused", None)
    with pytest.raises(ConfigError, match="name of the person"):
        made.release(put(made), person="  ")


def test_two_people_at_once_release_once(tmp_path: Path) -> None:
    made = queue(tmp_path, Clock(), two=True)
    name = put(made)
    states: list[str] = []

    def release(person: str) -> None:
        try:
            states.append(made.release(name, person=person))
        except NotWaiting:
            states.append("late")

    threads = [threading.Thread(target=release, args=(f"person {number}",)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(states) == ["held", "late", "late", "released"]
    made.check_log()


def test_what_is_refused_or_expired_is_deleted_and_its_bytes_are_gone(tmp_path: Path) -> None:
    clock = Clock()
    made = queue(tmp_path, clock, held_pictures_days=2.0, decisions_days=5.0)
    refused, expired, released = put(made), put(made), put(made)
    made.refuse(refused, person="Ada")
    made.release(released, person="Ada")
    clock.at += 2 * DAY_S
    assert made.waiting() == []
    assert made.fetch(expired, owner="client") == ("expired", None)
    assert made.fetch(released, owner="client")[1] is None
    with pytest.raises(NotWaiting, match="expired already"):
        made.release(expired, person="Ada")
    with sqlite3.connect(tmp_path / "review.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    assert b"picturepicture" not in (tmp_path / "review.db").read_bytes()
    clock.at += 3 * DAY_S
    with pytest.raises(NotWaiting, match="no picture"):
        made.fetch(refused, owner="client")
    assert [one["kind"] for one in made.log()] == ["held"] * 3 + ["refuse", "release", "expired", "expired"]


def test_only_what_is_held_is_kept_and_prompts_can_be_hashes(tmp_path: Path) -> None:
    made = queue(tmp_path, Clock(), prompts="hash")
    put(made)
    assert len(made.waiting()[0].prompt) == 64
    refused = HELD.model_copy(update={"action": "refuse"})
    with pytest.raises(ConfigError, match="not for the review queue"):
        made.hold(PICTURE, decision=refused, prompt="x", owner="client")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE log SET body = replace(body, 'Ada', 'Eve') WHERE number = 2",
        "UPDATE log SET at = at + 1 WHERE number = 2",
        "DELETE FROM log WHERE number = 2",
        "UPDATE log SET number = 9 WHERE number = 3",
        "DELETE FROM log WHERE number = 3",
    ],
)
def test_every_change_of_the_log_is_noticed(tmp_path: Path, change: str) -> None:
    made = queue(tmp_path, Clock())
    made.release(put(made), person="Ada")
    put(made)
    head = made.check_log()
    assert made.check_log(head=head) == head
    with sqlite3.connect(tmp_path / "review.db") as connection:
        connection.execute(change)
    connection.close()
    with pytest.raises(LogBroken):
        made.check_log(head=head)


def test_a_queue_is_there_after_it_was_opened_again_and_others_cannot_read_it(tmp_path: Path) -> None:
    name = put(queue(tmp_path, Clock()))
    assert queue(tmp_path, Clock()).look(name) == PICTURE
    assert (tmp_path / "review.db").stat().st_mode & 0o077 == 0


def test_a_file_that_is_no_queue_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "review.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="cannot be used"):
        queue(tmp_path, Clock())
