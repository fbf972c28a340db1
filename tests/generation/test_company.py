"""A picture has the same pixels whatever is drawn beside it; adapters of requests leave nothing behind."""

import itertools
import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detour.adapters.adapter import Adapter
from detour.adapters.attach import attach_adapter
from detour.bases.base import open_base
from detour.errors import AdapterError, DetourError, PictureNotFinite
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.generation.widths import WidthClass
from detour.specs.generation import PictureSpec
from tests.generation.pool import WORD, lora, make_adapters, make_pool

Pixels = np.ndarray


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> PictureEngine:
    return PictureEngine.load(open_base(str(tiny_base)))


@pytest.fixture(scope="module")
def pool(engine: PictureEngine) -> list[PictureRequest]:
    return make_pool(make_adapters(engine))


def alone(engine: PictureEngine, pool: Sequence[PictureRequest], width: WidthClass) -> list[Pixels]:
    """Each picture drawn when nothing else is; no two are alike, so that none can be taken for another."""
    pictures = [engine.submit(replace(one, width_class=width)).result().pixels for one in pool]
    for a, b in itertools.combinations(pictures, 2):
        assert not np.array_equal(a, b)
    return pictures


def in_random_company(
    engine: PictureEngine, pool: Sequence[PictureRequest], num_batches: int, width: WidthClass, *, seed: int
) -> None:
    references = alone(engine, pool, width)
    draw = random.Random(seed)
    for _ in range(num_batches):
        picked = draw.sample(range(len(pool)), draw.randint(2, 7))
        with engine.paused():  # so that they are there together when the first one starts
            handles = [engine.submit(replace(pool[i], width_class=width), owner=str(i % 3)) for i in picked]
        for index, handle in zip(picked, handles, strict=True):
            picture = handle.result(60)
            assert picture.width_class == width
            assert np.array_equal(picture.pixels, references[index]), pool[index]


def test_pictures_are_the_same_pixel_for_pixel_in_twenty_random_batches(
    engine: PictureEngine, pool: list[PictureRequest]
) -> None:
    in_random_company(engine, pool, 20, 8, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("width", [4, 8, 16])
def test_pictures_are_the_same_in_two_hundred_random_batches(
    engine: PictureEngine, pool: list[PictureRequest], width: WidthClass
) -> None:
    in_random_company(engine, pool, 200, width, seed=2)


def from_threads(engine: PictureEngine, pool: Sequence[PictureRequest], calls: int, num_threads: int) -> None:
    """Every thread asks for its own pictures, one or two a call, and gets them."""
    references = {width: dict(enumerate(alone(engine, pool, width))) for width in (2, 4, 8, 16)}
    references[1] = {  # of pictures without guidance alone
        index: engine.submit(replace(one, width_class=1)).result().pixels
        for index, one in enumerate(pool)
        if engine._drawing.measure(one)[0] == 1
    }
    wrong: list[object] = []
    counted: list[int] = []

    def ask(thread: int) -> None:
        draw = random.Random(thread)
        for _ in range(calls // num_threads):
            picked = draw.sample(range(len(pool)), draw.choice([1, 1, 2]))
            handles = [engine.submit(pool[i], owner=str(thread)) for i in picked]
            for index, handle in zip(picked, handles, strict=True):
                try:
                    picture = handle.result(300)
                except Exception as error:
                    wrong.append(error)
                    continue
                counted.append(index)
                if not np.array_equal(picture.pixels, references[picture.width_class][index]):
                    wrong.append((thread, index, picture.width_class))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(counted) >= calls // num_threads * num_threads


def test_threads_get_their_own_pictures(engine: PictureEngine) -> None:
    from_threads(engine, make_pool(make_adapters(engine), num=6, steps=1), 12, 4)


@pytest.mark.slow
def test_a_thousand_calls_from_eight_threads_get_their_own_pictures(engine: PictureEngine) -> None:
    from_threads(engine, make_pool(make_adapters(engine), steps=2), 1000, 8)


@pytest.mark.parametrize("index", range(8))
def test_a_request_s_adapter_draws_what_attaching_it_draws(
    engine: PictureEngine, tiny_base: Path, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, adapter = list(make_adapters(engine).items())[index]
    request = PictureRequest(prompt=f"a {WORD} house", seed=3, how=PictureSpec(steps=3, guidance_scale=5.0))
    mine = engine.draw([request], adapters=[AdapterInUse(adapter=adapter, weight=0.7)]).pictures
    assert not np.array_equal(mine, engine.draw([request]).pictures), name
    attached = attach_adapter(engine.models, adapter, 0.7)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(engine.text, "words", adapter.words)
            theirs = engine.draw([request]).pictures
    finally:
        attached.detach()
    assert np.abs(mine.astype(int) - theirs.astype(int)).max() <= 1


def test_several_adapters_of_a_request_add_up_as_attached(engine: PictureEngine) -> None:
    adapters = make_adapters(engine)
    request = PictureRequest(prompt="a house", seed=3, how=PictureSpec(steps=3))
    used = [("rank2", 0.8), ("dora", 0.5), ("loha", 1.0)]
    mine = engine.draw(
        [request], adapters=[AdapterInUse(adapter=adapters[n], weight=w) for n, w in used]
    ).pictures
    on = [attach_adapter(engine.models, adapters[n], w, name=n) for n, w in used]
    theirs = engine.draw([request]).pictures
    for one in on:
        one.detach()
    assert np.abs(mine.astype(int) - theirs.astype(int)).max() <= 1


def test_strengths_follow_the_steps(engine: PictureEngine) -> None:
    adapter = make_adapters(engine)["rank16 all"]
    request = PictureRequest(prompt="a house", seed=3, how=PictureSpec(steps=4))

    def drawn(weight: float, *along: tuple[float, float]) -> Pixels:
        asked = replace(request, adapters=(AdapterInUse(adapter=adapter, weight=weight),), step_weights=along)
        return engine.draw([asked]).pictures

    assert np.array_equal(drawn(1.0, (0.0, 0.5)), drawn(0.5))
    assert np.array_equal(drawn(1.0, (0.0, 0.0)), engine.draw([request]).pictures)
    late = drawn(1.0, (0.0, 0.0), (0.5, 1.0))
    assert not np.array_equal(late, drawn(1.0))
    assert not np.array_equal(late, drawn(0.0))


def test_nothing_is_left_of_a_request(engine: PictureEngine, pool: list[PictureRequest]) -> None:
    request = PictureRequest(prompt=f"a {WORD} house", seed=1, how=PictureSpec(steps=2))
    before = engine.draw([request]).pictures
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    engine.draw(pool[:8])
    for thread in threading.enumerate():  # the worker ends a moment after the last picture
        if thread.name == "detour-drawing":
            thread.join(20)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not engine.text.words
    assert not any(module._forward_hooks for model in engine.models.values() for module in model.modules())
    assert not [one for one in threading.enumerate() if one.name == "detour-drawing"]
    assert np.array_equal(engine.draw([request]).pictures, before)


def test_what_is_attached_between_two_calls_is_drawn_with(engine: PictureEngine) -> None:
    """Texts are kept while pictures are drawn; kept on after the call, they would be those of the models before."""
    request = PictureRequest(prompt="a house", seed=1, how=PictureSpec(steps=1))
    plain = engine.draw([request]).pictures
    assert not engine._drawing._texts
    text_layers = {
        k: v for k, v in make_adapters(engine)["rank40 text"].layers.items() if k.startswith("text")
    }
    attached = attach_adapter(engine.models, Adapter(text_layers))
    try:
        assert not np.array_equal(engine.draw([request]).pictures, plain)
    finally:
        attached.detach()
    assert np.array_equal(engine.draw([request]).pictures, plain)


def broken(engine: PictureEngine, kind: str) -> AdapterInUse:
    adapter = make_adapters(engine)["rank2"]
    key, layer = next(iter(adapter.layers.items()))
    if kind == "not finite":
        changed = replace(layer, up=torch.full_like(layer.tensors["up"], float("nan")))  # type: ignore[type-var]
        return AdapterInUse(adapter=replace(adapter, layers={**adapter.layers, key: changed}))
    misfit = lora(torch.zeros(3, 7), 2, 0)
    return AdapterInUse(adapter=replace(adapter, layers={**adapter.layers, key: misfit}))


@pytest.mark.parametrize(("kind", "error"), [("not finite", DetourError), ("misfit", AdapterError)])
def test_a_picture_that_fails_fails_alone(
    engine: PictureEngine, pool: list[PictureRequest], kind: str, error: type[Exception]
) -> None:
    well = [replace(one, width_class=8) for one in pool[:3]]
    references = [engine.submit(one).result().pixels for one in well]
    bad = replace(well[0], adapters=(broken(engine, kind),))
    with engine.paused():
        handles = [engine.submit(one) for one in (well[0], bad, *well[1:])]
    with pytest.raises(error, match="not finite" if kind == "not finite" else "maps"):
        handles[1].result(60)
    for handle, reference in zip([handles[0], *handles[2:]], references, strict=True):
        assert np.array_equal(handle.result(60).pixels, reference)


def test_a_picture_that_is_not_finite_is_black_among_its_neighbours_where_that_is_asked_for(
    engine: PictureEngine, pool: list[PictureRequest]
) -> None:
    well = list(pool[:3])
    bad = replace(well[0], adapters=(broken(engine, "not finite"),))
    plain = engine.draw([well[0], well[0], *well[1:]], batch=4)
    drawn = engine.draw([well[0], bad, *well[1:]], batch=4, blacken=True)
    assert not drawn.pictures[1].any()
    assert drawn.width_classes == plain.width_classes
    for index in (0, 2, 3):
        assert np.array_equal(drawn.pictures[index], plain.pictures[index])
    with pytest.raises(PictureNotFinite, match="not finite"):
        engine.draw([well[0], bad], batch=4)
    misfit = replace(well[0], adapters=(broken(engine, "misfit"),))
    with pytest.raises(AdapterError, match="maps"):
        engine.draw([well[0], misfit], batch=4, blacken=True)


def test_guidance_may_ask_for_three_rows(engine: PictureEngine) -> None:
    class ThirdRow:
        """Steers away from a further text too."""

        num_rows = 3

        def __init__(self, scale: float, away: float) -> None:
            self.scale, self.away = scale, away

        def combine(self, predictions: torch.Tensor, noise_scale: float = 1.0) -> torch.Tensor:
            plain, text, further = predictions
            return plain + self.scale * (text - plain) - self.away * (further - plain)

    request = PictureRequest(prompt="a house", seed=3, how=PictureSpec(steps=3, guidance_scale=5.0))
    two = engine.draw([request]).pictures.astype(int)

    def three(away: float) -> Pixels:
        asked = replace(request, guidance=lambda scale: ThirdRow(scale, away), further_texts=("blood",))
        return engine.draw([asked]).pictures.astype(int)

    assert np.abs(three(0.0) - two).max() <= 1
    assert np.abs(three(4.0) - two).max() > 1


def test_a_hook_sees_each_step_and_the_picture_as_it_stands(engine: PictureEngine) -> None:
    request = PictureRequest(prompt="a house", seed=3, how=PictureSpec(steps=3))
    seen: list[tuple[int, int]] = []
    shown: list[Pixels] = []

    def look(step) -> None:  # type: ignore[no-untyped-def]
        seen.append((step.done, step.total))
        shown.append(step.preview())

    picture = engine.submit(request, on_step=look).result()
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert np.array_equal(shown[-1], picture.pixels)
    assert not np.array_equal(shown[0], picture.pixels)
