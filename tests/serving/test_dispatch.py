"""The queue in front of the engine: whose turn it is, what is drawn alone, what a full disk and a stop do."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detour.errors import ConfigError, StorageError
from detour.generation.requests import Picture, PictureRequest
from detour.safety.audit import read_entries
from detour.serving.dispatch import ROWS_AHEAD, SUSPECT_DEATHS, Dispatcher
from detour.serving.jobs import Job
from detour.serving.policy import Held, NoPolicy, Policy, Refused
from detour.serving.rate import Rate
from detour.serving.store import ASIDE_DEATHS, JobStore, NewJob
from detour.specs.generation import PictureSpec
from tests.serving.conftest import WAIT_S, eventually
from tests.serving.test_store import reopened, request

PIXELS = np.zeros((64, 64, 3), np.uint8)


class Handle:
    """Stands for a picture in the engine until the test says that it is drawn."""

    def __init__(self, asked: PictureRequest, owner: str) -> None:
        from concurrent.futures import Future

        self.request, self.owner = asked, owner
        self.future: Future[Picture] = Future()

    def cancel(self) -> None:
        from concurrent.futures import CancelledError

        if not self.future.done():
            self.future.set_exception(CancelledError())

    def land(self) -> None:
        self.future.set_result(Picture(pixels=PIXELS, width_class=2, how=PictureSpec()))


class Engine:
    """Takes pictures and draws none."""

    def __init__(self) -> None:
        self.taken: list[Handle] = []
        self.came = threading.Condition()

    def submit(self, asked: PictureRequest, *, owner: str = "", on_step: Any = None) -> Any:
        with self.came:
            self.taken.append(handle := Handle(asked, owner))
            self.came.notify_all()
        return handle

    def wait(self, num: int) -> list[Handle]:
        with self.came:
            assert self.came.wait_for(lambda: len(self.taken) >= num, WAIT_S), len(self.taken)
            return list(self.taken)


class Files:
    """Writes a byte for a picture, or fails as a full disk does."""

    def __init__(self, store: JobStore) -> None:
        self.store, self.full = store, False

    def request_of(self, job: Job, number: int) -> PictureRequest:
        return PictureRequest(prompt=f"{job.key} {job.id} {number}", seed=job.request.seeds[number])

    def write(self, job: Job, number: int, picture: Picture) -> int:
        if self.full:
            raise StorageError("disk full")
        self.store.path_of(job.pictures[number].token).write_bytes(b"x")
        return 1

    def preview_of(self, pixels: np.ndarray) -> bytes:
        return b""


class Bench:
    """A dispatcher over a store, with an engine that the test plays."""

    def __init__(self, folder: Path, policy: Policy | None = None, store: JobStore | None = None) -> None:
        self.store, self.engine = store or JobStore(folder), Engine()
        self.files, self.news = Files(self.store), threading.Condition()
        self.dispatcher = Dispatcher(
            self.engine,
            self.store,
            self.files,
            policy or NoPolicy(),
            native_px=64,
            keep_s=60,
            on_change=self.told,
        )

    def told(self, job: str) -> None:
        with self.news:
            self.news.notify_all()

    def add(self, key: str = "k", num: int = 1, **values: Any) -> Job:
        job, _ = self.store.accept(NewJob(key=key, request=request(num), **values))
        self.dispatcher.add(job)
        return job

    def until(self, job: Job, state: str) -> Job:
        with self.news:
            assert self.news.wait_for(lambda: self.store.job(job.id).state == state, WAIT_S)  # type: ignore[union-attr]
        found = self.store.job(job.id)
        assert found is not None
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.dispatcher.stop(0)
    made.store.close()


FULL = ROWS_AHEAD // 2
"""Pictures of two rows that the engine gets at once."""


def test_keys_take_turns_though_one_came_first_with_many(bench: Bench) -> None:
    bench.add("a", FULL + 20)
    bench.engine.wait(FULL)
    bench.add("b", 3)
    for index in range(6):
        bench.engine.taken[index].land()
        bench.engine.wait(FULL + index + 1)
    assert [handle.owner for handle in bench.engine.taken[FULL:]].count("b") == 3


def test_the_engine_never_has_more_than_its_window(bench: Bench) -> None:
    bench.add(num=FULL * 2)
    bench.engine.wait(FULL)
    bench.engine.taken[0].land()
    bench.engine.wait(FULL + 1)
    assert bench.dispatcher.num_drawing == FULL


def test_within_a_key_the_nearer_deadline_goes_first(bench: Bench) -> None:
    bench.add(num=FULL)
    bench.engine.wait(FULL)
    late, soon = bench.add(deadline=2e9), bench.add(deadline=1.9e9)
    for index in range(2):
        bench.engine.taken[index].land()
        bench.engine.wait(FULL + index + 1)
    assert [h.request.prompt.split()[1] for h in bench.engine.taken[FULL:]] == [soon.id, late.id]


def test_a_cancelled_job_gives_its_place_to_the_next(bench: Bench) -> None:
    first, second = bench.add(num=FULL), bench.add(num=2)
    bench.engine.wait(FULL)
    numbers = bench.store.end(first.id, "cancelled", "no more", keep_s=60)
    bench.dispatcher.drop(first.id, numbers)
    bench.engine.wait(FULL + 2)
    assert {h.request.prompt.split()[1] for h in bench.engine.taken[FULL:]} == {second.id}
    assert bench.dispatcher.work_of_key("k") == pytest.approx(2 * request().work_of_picture(64))


def test_a_suspect_is_drawn_alone(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    suspect, _ = store.accept(NewJob(key="k", request=request()))
    other, _ = store.accept(NewJob(key="k", request=request()))
    for _ in range(SUSPECT_DEATHS):
        store.begin([(suspect.id, 0), (other.id, 0)])
        store = reopened(store)
        store.recover()
    third, _ = store.accept(NewJob(key="k", request=request()))
    bench = Bench(tmp_path, store=store)
    for job in store.open_jobs():
        bench.dispatcher.add(job)
    alone = []
    for num in (1, 2):
        alone.append([h.request.prompt.split()[1] for h in bench.engine.wait(num)])
        assert bench.dispatcher.num_drawing == 1
        bench.engine.taken[num - 1].land()
    assert [h.request.prompt.split()[1] for h in bench.engine.wait(3)] == [suspect.id, other.id, third.id]
    bench.dispatcher.stop(0)
    store.close()


def test_what_is_set_aside_is_drawn_when_nothing_else_waits(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    aside, _ = store.accept(NewJob(key="k", request=request()))
    for _ in range(max(ASIDE_DEATHS, SUSPECT_DEATHS)):
        store.begin([(aside.id, 0)])
        store = reopened(store)
        store.recover()
    others = [store.accept(NewJob(key="k", request=request()))[0] for _ in range(2)]
    bench = Bench(tmp_path, store=store)
    bench.dispatcher.add(*store.open_jobs())
    bench.engine.wait(2)
    assert [h.request.prompt.split()[1] for h in bench.engine.taken] == [job.id for job in others]
    for handle in list(bench.engine.taken):
        handle.land()
    assert bench.engine.wait(3)[2].request.prompt.split()[1] == aside.id
    bench.dispatcher.stop(0)
    store.close()


def test_while_the_disk_is_full_nothing_is_lost_and_later_it_is_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detour.serving.dispatch.STORAGE_RETRY_S", 0.01)
    bench.files.full = True
    job = bench.add()
    bench.engine.wait(1)[0].land()
    eventually(lambda: bench.dispatcher.storage_problem is not None)
    assert bench.store.job(job.id).state == "drawing"  # type: ignore[union-attr]
    bench.files.full = False
    bench.until(job, "done")
    eventually(lambda: bench.dispatcher.storage_problem is None)


def test_a_stop_lets_running_pictures_finish_and_keeps_the_others(bench: Bench) -> None:
    running = bench.add(num=FULL)
    bench.engine.wait(FULL)
    waiting = bench.add()
    stopper = threading.Thread(target=bench.dispatcher.stop, args=(WAIT_S,))
    stopper.start()
    assert bench.dispatcher._stopping.wait(WAIT_S)
    for handle in bench.engine.taken:
        handle.land()
    stopper.join(WAIT_S)
    assert not stopper.is_alive()
    assert bench.store.job(running.id).state == "done"  # type: ignore[union-attr]
    assert bench.store.job(waiting.id).state == "queued"  # type: ignore[union-attr]


def test_what_a_stop_cuts_short_waits_again(bench: Bench) -> None:
    job = bench.add()
    bench.engine.wait(1)
    assert bench.dispatcher.stop(0.05) == 1
    (found,) = bench.store.open_jobs()
    assert (found.id, found.pictures[0].state) == (job.id, "queued")


class Strict(NoPolicy):
    """Refuses the first picture, holds the second, and cannot look at the third."""

    checks_pictures = True

    def __init__(self) -> None:
        self.seen = 0

    def check_picture(self, picture: np.ndarray, request: Any, *, flagged: bool | None = None) -> Any:
        self.seen += 1
        if self.seen == 1:
            return Refused(code="layer5", cause="a crown")
        if self.seen == 2:
            return Held(cause="perhaps a crown")
        raise RuntimeError("the classifier broke")


def test_a_picture_of_a_job_is_refused_or_held_alone_and_what_cannot_be_checked_is_not_shown(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, Strict())
    job = bench.add(num=3)
    for handle in bench.engine.wait(3):
        handle.land()
    found = bench.until(job, "done")
    assert [one.state for one in found.pictures] == ["refused", "held", "refused"]
    assert [one.code for one in found.pictures] == ["layer5", None, "check_failed"]
    assert all(bench.store.shown(one.token) is None for one in found.pictures)
    bench.dispatcher.stop(0)
    bench.store.close()


def test_a_picture_that_cannot_be_signed_fails_alone_and_the_next_one_is_drawn(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> int:
        raise ConfigError("chain.pem: cannot sign pictures (expired).")

    job = bench.add()
    with monkeypatch.context() as patch:
        patch.setattr(bench.files, "write", refuses)
        bench.engine.wait(1)[0].land()
        found = bench.until(job, "failed")
    assert [(one.state, one.code) for one in found.pictures] == [("failed", "not_written")]
    assert "chain.pem" not in str(found.pictures[0].cause), (
        "the log is for the operator, the cause for the client"
    )
    later = bench.add()
    bench.engine.wait(2)[1].land()
    assert [one.state for one in bench.until(later, "done").pictures] == ["done"]
    (entry,) = read_entries(bench.store.folder / "jobs.sqlite")
    assert "chain.pem" in entry.facts["cause"]


class Unexpected(RuntimeError):
    """Neither a full disk nor a locked database."""


def test_a_picture_that_the_store_rejects_fails_alone_and_the_queue_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = bench.store.begin

    def picky(pictures: list[tuple[str, int]]) -> None:
        if any(number == 1 for _, number in pictures):
            raise Unexpected("no such picture")
        begin(pictures)

    monkeypatch.setattr(bench.store, "begin", picky)
    job = bench.add(num=3)
    for handle in bench.engine.wait(2):
        handle.land()
    assert [one.state for one in bench.until(job, "done").pictures] == ["done", "failed", "done"]
    eventually(lambda: bench.dispatcher.num_drawing == 0)
    assert bench.dispatcher.work == 0


@pytest.mark.parametrize(("times", "outcome"), [(1, "failed"), (99, "unwritten")])
def test_a_result_that_the_store_rejects_does_not_stay_in_the_engine(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, times: int, outcome: str
) -> None:
    finish, left = bench.store.finish, [times]

    def broken(job: str, number: int, *given: Any, **values: Any) -> bool:
        if job == first.id and left[0]:
            left[0] -= 1
            raise Unexpected("no such column")
        return finish(job, number, *given, **values)

    monkeypatch.setattr(bench.store, "finish", broken)
    first = bench.add()
    bench.engine.wait(1)[0].land()
    eventually(lambda: bench.dispatcher.outcomes == {outcome: 1})
    eventually(lambda: bench.dispatcher.num_drawing == 0)
    second = bench.add()
    bench.engine.wait(2)[1].land()
    assert bench.until(second, "done")
    assert bench.dispatcher.storage_problem is None


def test_a_long_queue_of_pictures_that_cannot_be_begun_ends(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> PictureRequest:
        raise ConfigError("the copy of the adapter is gone.")

    monkeypatch.setattr(bench.files, "request_of", gone)
    job = bench.add(num=400)  # each failure once called the next one, three frames deeper
    eventually(lambda: bench.dispatcher.num_waiting + bench.dispatcher.num_drawing == 0)
    found = bench.store.job(job.id)
    assert found is not None
    assert {(one.state, one.cause) for one in found.pictures} == {
        ("failed", "the copy of the adapter is gone.")
    }


def test_a_rate_counts_the_time_of_drawing_and_no_pause() -> None:
    rate = Rate()
    assert rate.per_second is None
    for second in range(10):
        rate.add(3.0, now=float(second))
    rate.add(3.0, now=1000.0)
    assert rate.per_second == pytest.approx(3 * 10 / 11)
