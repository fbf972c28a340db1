"""Who is drawn when, with pictures that cost nothing: a fake drawing counts steps and notes every batch."""

import threading
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from detour.errors import ConfigError, DetourError, QueueFull
from detour.generation.adapter_store import NoRoom
from detour.generation.requests import Picture, PictureRequest
from detour.generation.scheduling import PATIENCE, PictureHandle, Scheduler, Step
from detour.generation.widths import WIDTH_CLASSES, WidthClass, check_width, width_for, widths_of_chunks
from detour.specs.generation import PictureSpec


@dataclass(eq=False)
class FakeState:
    request: PictureRequest
    width: WidthClass
    company: tuple[Any, ...]
    steps_done: int = 0

    @property
    def how(self) -> PictureSpec:
        return self.request.how

    @property
    def is_finished(self) -> bool:
        return self.steps_done >= self.how.steps


@dataclass
class FakeDrawing:
    """Notes which pictures shared each pass; prompts that begin with a stage's name fail there."""

    room_for: int = 1000
    batches: list[list[str]] = field(default_factory=list)
    widths: dict[str, WidthClass] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    held: int = 0
    rested: int = 0

    def measure(self, request: PictureRequest) -> tuple[int, tuple[int, int]]:
        how = request.how
        side = 64 if how.width_px == "auto" else how.width_px
        return (1 if how.guidance_scale == 1 else 2), (side, side)

    def start(self, request: PictureRequest, width: WidthClass) -> Any:
        if request.prompt.startswith("start"):
            raise ConfigError(request.prompt)
        if self.held >= self.room_for:
            raise NoRoom
        self.held += 1
        self.begun.append(request.prompt)
        self.widths[request.prompt] = width
        return FakeState(request, width, (width, self.measure(request)[1]))

    def tick(self, states: Any) -> dict[Any, Exception]:
        assert len({state.company for state in states}) == 1
        assert sum(self.measure(state.request)[0] for state in states) <= states[0].width
        self.batches.append([state.request.prompt for state in states])
        failed: dict[Any, Exception] = {}
        for state in states:
            state.steps_done += 1
            if state.request.prompt.startswith("tick"):
                failed[state] = DetourError(state.request.prompt)
        return failed

    def finish(self, state: Any) -> Picture:
        if state.request.prompt.startswith("finish"):
            raise DetourError(state.request.prompt)
        pixels = np.full((1, 1, 3), state.request.seed, np.uint8)
        return Picture(pixels=pixels, width_class=state.width, how=state.how)

    def preview(self, state: Any) -> np.ndarray:
        return np.full((1, 1, 3), state.steps_done, np.uint8)

    def release(self, state: Any) -> None:
        self.held -= 1

    def rest(self) -> None:
        self.rested += 1


def ask(prompt: str, *, steps: int = 3, rows: int = 2, side: int = 64, **others: Any) -> PictureRequest:
    how = PictureSpec(steps=steps, guidance_scale=float(rows), width_px=side, height_px=side)
    return PictureRequest(prompt=prompt, seed=0, how=how, **others)


def together(scheduler: Scheduler, requests: list[PictureRequest], **others: Any) -> list[PictureHandle]:
    with scheduler.borrow():
        return [scheduler.submit(one, **others) for one in requests]


def drawn(handles: list[PictureHandle]) -> list[Picture]:
    return [handle.result(20) for handle in handles]


@pytest.mark.parametrize(("num", "width"), [(1, 2), (2, 4), (3, 8), (4, 8), (5, 16), (8, 16), (30, 16)])
def test_the_load_chooses_the_width_and_a_lone_picture_gets_the_narrowest(num: int, width: int) -> None:
    drawing = FakeDrawing()
    pictures = drawn(together(Scheduler(drawing), [ask(str(index)) for index in range(num)]))
    assert {one.width_class for one in pictures} == {width}
    assert max(map(len, drawing.batches)) == min(num, 8)


def test_a_picture_keeps_the_width_that_it_started_with() -> None:
    drawing = FakeDrawing()
    scheduler = Scheduler(drawing)
    ticking, go = threading.Event(), threading.Event()

    def hold(_: Step) -> None:
        ticking.set()
        go.wait(20)

    first = scheduler.submit(ask("first"), on_step=hold)
    assert ticking.wait(20)
    others = [scheduler.submit(ask(str(index))) for index in range(6)]
    go.set()
    assert {one.width_class for one in drawn(others)} == {16}
    assert first.result(20).width_class == 2


def test_pictures_join_and_leave_between_ticks() -> None:
    drawing = FakeDrawing()
    handles = together(Scheduler(drawing), [ask(str(index), steps=1 + index % 3) for index in range(12)])
    drawn(handles)
    assert drawing.batches[0] == [str(index) for index in range(8)]
    assert all(len(batch) == 8 for batch in drawing.batches[:2])  # others joined those that were not through
    assert len({name for batch in drawing.batches for name in batch}) == 12


def test_an_asked_width_is_obeyed_and_a_wrong_one_refused() -> None:
    scheduler = Scheduler(FakeDrawing())
    wide = [width for width in WIDTH_CLASSES if width >= 2]  # each picture here takes two rows
    pictures = drawn(together(scheduler, [ask(str(width), width_class=width) for width in wide]))
    assert [one.width_class for one in pictures] == wide
    with pytest.raises(ConfigError, match=r"width class 3: .* Choose one of 2, 4, 8, 16"):
        check_width(3, 2)
    with pytest.raises(ConfigError, match=r"takes 3 rows\. Choose one of 4, 8, 16"):
        check_width(2, 3)


def test_owners_are_taken_in_turn() -> None:
    drawing = FakeDrawing()
    scheduler = Scheduler(drawing)
    with scheduler.borrow():
        many = [scheduler.submit(ask(f"many {index}"), owner="a") for index in range(40)]
        few = [scheduler.submit(ask(f"few {index}"), owner="b") for index in range(2)]
    drawn(many + few)
    assert drawing.begun[:5] == ["many 0", "few 0", "many 1", "few 1", "many 2"]


def test_a_rare_size_does_not_wait_until_the_stream_of_others_ends() -> None:
    drawing = FakeDrawing()
    scheduler = Scheduler(drawing)
    with scheduler.borrow():
        stream = [scheduler.submit(ask(str(index)), owner=f"o{index % 8}") for index in range(200)]
        rare = scheduler.submit(ask("rare", side=128), owner="rare")
    drawn([*stream, rare])
    assert drawing.begun.index("rare") < 16


def test_one_that_is_always_passed_over_goes_first_in_the_end() -> None:
    """Three rows never fit where two leave and two come at once; without patience they would wait for ever."""
    drawing = FakeDrawing()
    drawing.measure = lambda request: (3 if request.prompt == "wide" else 2, (64, 64))  # type: ignore[method-assign]
    scheduler = Scheduler(drawing, max_waiting=10_000)
    with scheduler.borrow():
        stream = [
            scheduler.submit(ask(str(index), steps=1 + index % 7, width_class=16), owner=f"o{index % 20}")
            for index in range(1000)
        ]
        wide = scheduler.submit(ask("wide", width_class=16), owner="wide")
    drawn([*stream, wide])
    assert drawing.begun.index("wide") <= 20 + 2 * PATIENCE


def test_the_queue_has_a_bound() -> None:
    scheduler = Scheduler(FakeDrawing(), max_waiting=3)
    with scheduler.borrow():
        handles = [scheduler.submit(ask(str(index))) for index in range(3)]
        with pytest.raises(QueueFull, match="3 pictures are waiting"):
            scheduler.submit(ask("one more"))
    drawn(handles)


@pytest.mark.parametrize("stage", ["start", "tick", "finish"])
def test_a_picture_that_fails_fails_alone_and_lets_go_of_everything(stage: str) -> None:
    drawing = FakeDrawing()
    scheduler = Scheduler(drawing)
    well, bad, also = together(scheduler, [ask("a"), ask(f"{stage} fails"), ask("b")])
    with pytest.raises(DetourError, match=f"{stage} fails"):
        bad.result(20)
    drawn([well, also])
    assert drawing.held == 0


def test_a_hook_that_raises_fails_its_own_picture() -> None:
    drawing, seen = FakeDrawing(), []
    scheduler = Scheduler(drawing)

    def look(step: Step) -> None:
        seen.append((step.done, step.total, int(step.preview()[0, 0, 0])))
        if step.done == 2:
            raise ValueError("the client has gone")

    with scheduler.borrow():
        bad, well = scheduler.submit(ask("a"), on_step=look), scheduler.submit(ask("b"))
    with pytest.raises(ValueError, match="has gone"):
        bad.result(20)
    well.result(20)
    assert seen == [(1, 3, 1), (2, 3, 2)]


def test_a_waiting_picture_is_cancelled_at_once_and_a_running_one_after_its_tick() -> None:
    drawing, ticking, go = FakeDrawing(), threading.Event(), threading.Event()

    def hold(_: Step) -> None:
        ticking.set()
        go.wait(20)

    scheduler = Scheduler(drawing)
    running = scheduler.submit(ask("running", steps=50), on_step=hold)
    assert ticking.wait(20)
    waiting = scheduler.submit(ask("waiting"))
    waiting.cancel()
    with pytest.raises(CancelledError):
        waiting.result(0)
    running.cancel()
    running.cancel()  # twice is once
    assert not running.done
    go.set()
    with pytest.raises(CancelledError):
        running.result(20)
    assert drawing.begun == ["running"]
    assert len(drawing.batches) == 1
    assert drawing.held == 0


def test_pictures_wait_while_adapters_in_use_take_all_the_memory() -> None:
    drawing = FakeDrawing(room_for=2)
    drawn(together(Scheduler(drawing), [ask(str(index)) for index in range(7)]))
    assert max(map(len, drawing.batches)) == 2
    assert drawing.held == 0


def test_what_can_never_start_is_told_so() -> None:
    handle = Scheduler(FakeDrawing(room_for=0)).submit(ask("a"))
    with pytest.raises(DetourError, match="all the memory"):
        handle.result(20)


def test_the_worker_ends_when_there_is_nothing_to_draw_and_comes_back() -> None:
    drawing = FakeDrawing()
    scheduler = Scheduler(drawing)
    for round_ in (1, 2):
        scheduler.submit(ask("a")).result(20)
        for thread in threading.enumerate():
            if thread.name == "detour-drawing":
                thread.join(20)
        assert drawing.rested == round_
    assert not [one for one in threading.enumerate() if one.name == "detour-drawing"]


def test_nobody_waits_for_ever_when_the_worker_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    drawing = FakeDrawing()
    drawing.tick = lambda states: 1 / 0  # type: ignore[method-assign]
    scheduler = Scheduler(drawing)
    handles = together(scheduler, [ask(str(index)) for index in range(40)])
    for handle in handles:
        with pytest.raises(ZeroDivisionError):
            handle.result(20)
    drawing.tick = FakeDrawing.tick.__get__(drawing)  # type: ignore[method-assign]
    assert scheduler.submit(ask("again")).result(20)


def test_many_threads_get_their_own_pictures() -> None:
    scheduler = Scheduler(FakeDrawing(), max_waiting=10_000)
    wrong: list[int] = []

    def work(thread: int) -> None:
        for index in range(50):
            seed = (thread * 50 + index) % 256
            handle = scheduler.submit(replace(ask("x", steps=1 + index % 3), seed=seed), owner=str(thread))
            if int(handle.result(60).pixels[0, 0, 0]) != seed:
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_widths_of_a_list_are_a_function_of_the_list() -> None:
    assert widths_of_chunks([2] * 5, 4) == [8, 8, 8, 8, 2]
    assert widths_of_chunks([1, 2, 3], 2) == [4, 4, 4]
    assert widths_of_chunks([2] * 20, 20) == [16] * 20
    assert [width_for(rows) for rows in (1, 2, 3, 9, 40)] == [1, 2, 4, 16, 16]
