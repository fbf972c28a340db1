"""What was accepted is on the disk, survives a death, and has one result."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from detour.errors import RunError, StorageError
from detour.safety.audit import read_entries
from detour.serving import held
from detour.serving.jobs import Job, JobRequest
from detour.serving.store import ASIDE_DEATHS, FATAL_DEATHS, BodyDiffers, JobStore, NewJob, QuotaSpent

HOUR = 3600.0


def request(num: int = 1) -> JobRequest:
    return JobRequest(
        prompts=("a cat",) * num,
        seeds=tuple(range(num)),
        width_px=64,
        height_px=64,
        steps=2,
        scheduler="dpm++",
        guidance_scale=5.0,
        width_class=2,
    )


def accepted(store: JobStore, num: int = 1, **values: object) -> Job:
    job, is_new = store.accept(NewJob(key="k", request=request(num), **values))  # type: ignore[arg-type]
    assert is_new
    return job


def reopened(store: JobStore) -> JobStore:
    """The store as the next process finds it: what a kill leaves is what is on the disk."""
    store.close()
    OPENED.append(again := JobStore(store.folder))
    return again


OPENED: list[JobStore] = []


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    OPENED.append(made := JobStore(tmp_path / "state"))
    yield made
    while OPENED:
        OPENED.pop().close()


def draw(store: JobStore, job: Job, number: int = 0) -> None:
    store.begin([(job.id, number)])
    store.path_of(job.pictures[number].token).write_bytes(b"picture")
    assert store.finish(job.id, number, "done", keep_s=HOUR, num_bytes=7)


def test_another_process_reads_an_accepted_job_at_once(store: JobStore) -> None:
    job = accepted(store)
    other = sqlite3.connect(store.folder / "jobs.sqlite")
    assert other.execute("SELECT id, state FROM jobs").fetchall() == [(job.id, "queued")]
    other.close()
    assert store._db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert store._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_after_a_death_unfinished_pictures_are_queued_again_and_finished_ones_stay(store: JobStore) -> None:
    job = accepted(store, 3)
    draw(store, job, 0)
    store.begin([(job.id, 1)])
    store = reopened(store)
    (again,) = store.recover()
    assert [one.state for one in again.pictures] == ["done", "queued", "queued"]
    assert [one.deaths for one in again.pictures] == [0, 1, 0]
    assert again.request == job.request
    assert store.shown(job.pictures[0].token) is not None


def test_a_file_without_a_row_that_counts_it_is_swept(store: JobStore) -> None:
    job = accepted(store)
    path = store.path_of(job.pictures[0].token)
    path.write_bytes(b"written, and then the server died")
    store = reopened(store)
    store.recover()
    assert not path.exists()


def test_a_picture_has_one_result(store: JobStore) -> None:
    job = accepted(store)
    draw(store, job)
    assert not store.finish(job.id, 0, "failed", keep_s=HOUR)
    assert store.end(job.id, "cancelled", "late", keep_s=HOUR) == []
    found = store.job(job.id)
    assert found is not None
    assert found.state == "done"


def test_what_belongs_to_a_connection_ends_with_the_process(store: JobStore) -> None:
    job = accepted(store, attached=True)
    store = reopened(store)
    assert store.recover() == []
    found = store.job(job.id)
    assert found is not None
    assert found.state == "cancelled"


def test_a_picture_during_which_the_server_dies_alone_is_set_aside_and_fails_in_the_end(
    store: JobStore,
) -> None:
    poisoned, other = accepted(store), accepted(store)
    for deaths in range(1, FATAL_DEATHS + 1):
        store.begin([(poisoned.id, 0)])
        store = reopened(store)
        store.recover()
        found, left = store.job(poisoned.id), store.job(other.id)
        assert found is not None
        assert left is not None
        assert (found.pictures[0].code == "poisoned") is (deaths >= ASIDE_DEATHS)
        assert (found.state == "failed") is (deaths == FATAL_DEATHS)
        assert (left.state, left.pictures[0].code) == ("queued", None)
    assert "died 5 times" in str(found.pictures[0].cause)


def test_deaths_in_company_set_nothing_aside(store: JobStore) -> None:
    jobs = [accepted(store), accepted(store)]
    for _ in range(10):
        store.begin([(job.id, 0) for job in jobs])
        store = reopened(store)
        assert len(store.recover()) == 2


def test_a_stop_in_good_order_is_no_death(store: JobStore) -> None:
    job = accepted(store)
    store.begin([(job.id, 0)])
    store.put_back([(job.id, 0)])
    store = reopened(store)
    (again,) = store.recover()
    assert (again.pictures[0].deaths, again.pictures[0].state) == (0, "queued")


def test_an_idempotency_key_gets_its_job_again_and_another_body_is_refused(store: JobStore) -> None:
    first = accepted(store, idempotency="i", body_sha256="a")
    again, is_new = store.accept(NewJob(key="k", request=request(), idempotency="i", body_sha256="a"))
    assert (again.id, is_new) == (first.id, False)
    with pytest.raises(BodyDiffers):
        store.accept(NewJob(key="k", request=request(), idempotency="i", body_sha256="b"))
    other, is_new = store.accept(NewJob(key="other", request=request(), idempotency="i", body_sha256="b"))
    assert is_new
    assert other.id != first.id


def test_a_quota_counts_the_pictures_of_a_day_and_survives(store: JobStore) -> None:
    accepted(store, 3, per_day=4)
    store = reopened(store)
    with pytest.raises(QuotaSpent, match="4 pictures a day and has had 3"):
        accepted(store, 2, per_day=4)
    accepted(store, 1, per_day=4)
    with pytest.raises(QuotaSpent, match="4 pictures a day and has had 4"):
        accepted(store, 1, per_day=4)


def test_what_is_refused_costs_nothing(store: JobStore) -> None:
    with pytest.raises(QuotaSpent):
        accepted(store, 5, per_day=4)
    assert store.open_jobs() == []
    accepted(store, 4, per_day=4)


def test_pictures_expire_and_their_files_go(store: JobStore) -> None:
    job = accepted(store)
    store.begin([(job.id, 0)])
    path = store.path_of(job.pictures[0].token)
    path.write_bytes(b"picture")
    store.finish(job.id, 0, "done", keep_s=0.01, num_bytes=7)
    time.sleep(0.02)
    assert store.shown(job.pictures[0].token) is None
    assert store.clean(job_s=HOUR, max_bytes=100) == 1
    assert not path.exists()
    assert store.job(job.id) is not None


def test_beyond_the_space_the_oldest_pictures_go_first(store: JobStore) -> None:
    jobs = [accepted(store) for _ in range(3)]
    for job in jobs:
        draw(store, job)
        time.sleep(0.002)
    assert store.clean(job_s=HOUR, max_bytes=14) == 1
    assert [store.shown(job.pictures[0].token) is not None for job in jobs] == [False, True, True]


def test_old_jobs_go_with_their_files_and_open_ones_stay(store: JobStore) -> None:
    old, waiting = accepted(store), accepted(store)
    draw(store, old)
    store.clean(job_s=-1, max_bytes=100)
    assert store.job(old.id) is None
    assert not store.path_of(old.pictures[0].token).exists()
    assert store.job(waiting.id) is not None


def test_a_held_picture_is_shown_after_its_release_alone(store: JobStore) -> None:
    job = accepted(store)
    store.begin([(job.id, 0)])
    store.path_of(job.pictures[0].token).write_bytes(b"picture")
    store.finish(job.id, 0, "held", keep_s=HOUR, cause="look", num_bytes=7)
    assert store.shown(job.pictures[0].token) is None
    said = {"key": "k", "name": "eve", "keep_s": HOUR}
    assert store.decide(job.id, 0, release=True, cause="fine", **said) == "done"
    assert store.shown(job.pictures[0].token) is not None
    assert store.decide(job.id, 0, release=False, cause="too late", **said) is None


def test_a_held_picture_outlasts_its_job_and_counts_as_refused_when_its_time_is_over(store: JobStore) -> None:
    job = accepted(store)
    store.begin([(job.id, 0)])
    path = store.path_of(job.pictures[0].token)
    path.write_bytes(b"picture")
    store.finish(job.id, 0, "held", keep_s=HOUR, num_bytes=7)
    store.clean(job_s=-1, max_bytes=100)
    assert path.exists()
    assert [one.index for _, one, _ in store.held(limit=5)] == [0]
    store._db.execute("UPDATE pictures SET expires=1")
    assert store.held(limit=5) == []
    assert store.held_path(job.id, 0) is None
    said = {"key": "k", "name": "eve", "keep_s": HOUR}
    assert store.decide(job.id, 0, release=True, cause="fine", **said) is None
    store.clean(job_s=HOUR, max_bytes=100)
    assert not path.exists()
    found = store.job(job.id)
    assert found is not None
    assert [(one.state, one.cause) for one in found.pictures] == [("refused", "nobody decided in time")]
    assert [one.facts["kind"] for one in read_entries(store.folder / "jobs.sqlite")] == ["expired"]


def test_a_decision_and_its_entry_are_written_together_or_not_at_all(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = accepted(store)
    store.begin([(job.id, 0)])
    store.finish(job.id, 0, "held", keep_s=HOUR, num_bytes=7)
    said = {"key": "k", "name": "eve", "keep_s": HOUR}

    def fails(*_: object, **__: object) -> str:
        raise sqlite3.OperationalError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(held, "append_entry", fails)
        with pytest.raises(StorageError, match="nothing was changed"):
            store.decide(job.id, 0, release=True, cause="fine", **said)
    assert [one.index for _, one, _ in store.held(limit=5)] == [0]
    assert store.decide(job.id, 0, release=True, cause="fine", **said) == "done"
    assert [one.facts["name"] for one in read_entries(store.folder / "jobs.sqlite")] == ["eve"]
    assert store._db.execute("PRAGMA synchronous").fetchone()[0] == 2, "each commit waits for the disk"


def test_a_state_of_the_earlier_format_gets_the_new_tables(tmp_path: Path) -> None:
    first = JobStore(tmp_path / "state")
    job = accepted(first)
    for table in ("votes", "audit"):
        first._db.execute(f"DROP TABLE {table}")
    first._db.execute("ALTER TABLE pictures DROP COLUMN hold")
    first._db.execute("UPDATE jobs SET hold='a sword'")
    first._db.execute("PRAGMA user_version=1")
    first.close()
    second = JobStore(tmp_path / "state")
    (found,) = second.open_jobs()
    assert (found.id, [one.hold for one in found.pictures]) == (job.id, ["a sword"])
    second.note("seen", job=job.id)
    second.close()
    assert len(read_entries(tmp_path / "state" / "jobs.sqlite")) == 1


def test_two_servers_cannot_have_one_folder(store: JobStore) -> None:
    with pytest.raises(RunError, match="another server uses it"):
        JobStore(store.folder)


def test_a_full_disk_accepts_nothing_and_loses_nothing(store: JobStore) -> None:
    kept = accepted(store)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages}")
    big = NewJob(key="k", request=request(2000))
    with pytest.raises(StorageError, match="full"):
        store.accept(big)
    store._db.execute("PRAGMA max_page_count=1000000")
    assert store.job(kept.id) is not None
    accepted(store)


def test_a_job_of_another_key_is_not_found(store: JobStore) -> None:
    job = accepted(store)
    assert store.job(job.id, key="k") is not None
    assert store.job(job.id, key="other") is None
    assert store.jobs_of("other", limit=10) == []
