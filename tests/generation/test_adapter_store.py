"""Adapters are read once, what is in use stays, and all of them together have a bound."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detour.adapter_files.writing import write_adapter
from detour.bases.base import open_base
from detour.errors import AdapterError
from detour.files import sha256_of
from detour.generation import requests
from detour.generation.adapter_store import AdapterStore, NoRoom, content_sha256
from detour.generation.engine import AdapterFile, AdapterInUse, PictureEngine, PictureRequest
from detour.specs.generation import PictureSpec
from tests.generation.pool import chosen, lora, make_adapters


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> PictureEngine:
    return PictureEngine.load(open_base(str(tiny_base)))


def sized(engine: PictureEngine, num: int) -> list[AdapterInUse]:
    """Adapters of one size."""
    layers = chosen(engine.unet, "unet", "attn2")
    adapters = [{key: lora(weight, 4, 7 * i) for key, weight in layers.items()} for i in range(num)]
    return [AdapterInUse(adapter=replace(make_adapters(engine)["rank2"], layers=one)) for one in adapters]


def store_for(engine: PictureEngine, num: float, used: AdapterInUse) -> AdapterStore:
    """Room for so many adapters of this size."""
    one = AdapterStore(engine.base, engine.models)
    one.hold(used)
    return AdapterStore(engine.base, engine.models, max_bytes=int(num * one.num_bytes))


def test_equal_content_is_prepared_once_and_other_content_apart(engine: PictureEngine) -> None:
    first, second = sized(engine, 2)
    store = store_for(engine, 4, first)
    again = AdapterInUse(adapter=replace(first.adapter), weight=0.3)
    assert store.hold(first) is store.hold(again)
    assert store.hold(second) is not store.hold(first)
    assert len(store) == 2


def test_the_least_recently_used_goes_and_what_is_in_use_stays(engine: PictureEngine) -> None:
    a, b, c = sized(engine, 3)
    store = store_for(engine, 2.5, a)
    held = store.hold(a)
    store.release(store.hold(b))
    store.release(store.hold(c))  # b goes, a is in use
    assert store.hold(a) is held
    assert len(store) == 2
    assert store.num_bytes <= store.max_bytes


def test_there_is_no_room_while_all_are_in_use_and_then_there_is(engine: PictureEngine) -> None:
    a, b, c = sized(engine, 3)
    store = store_for(engine, 2, a)
    first, _ = store.hold(a), store.hold(b)
    with pytest.raises(NoRoom):
        store.hold(c)
    store.release(first)
    store.hold(c)
    assert store.num_bytes <= store.max_bytes


def test_an_adapter_that_is_larger_than_the_bound_is_refused_with_both_sizes(engine: PictureEngine) -> None:
    (a,) = sized(engine, 1)
    with pytest.raises(AdapterError, match=r"takes .* MiB, and the engine keeps .* MiB"):
        store_for(engine, 0.5, a).hold(a)


def test_more_adapters_than_there_is_memory_for_are_drawn_one_after_the_other(engine: PictureEngine) -> None:
    used = sized(engine, 5)
    request = PictureRequest(prompt="a house", seed=1, how=PictureSpec(steps=2), width_class=8)
    asked = [replace(request, adapters=(one,)) for one in used]
    references = [engine.submit(one).result().pixels for one in asked]
    tight = PictureEngine(
        engine.base, unet=engine.unet, vae=engine.vae, text=engine.text,
        adapter_bytes=int(1.5 * store_for(engine, 1, used[0]).max_bytes),
    )  # fmt: skip
    with tight.paused():
        handles = [tight.submit(one) for one in asked]
    for handle, reference in zip(handles, references, strict=True):
        assert np.array_equal(handle.result(60).pixels, reference)


def test_a_file_is_read_once_however_often_it_is_asked_for(
    engine: PictureEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "style.safetensors"
    write_adapter(path, make_adapters(engine)["rank2"], family=engine.base.family)
    read: list[Path] = []
    real = requests.read_adapter

    def counted(place: Path, **options: object):  # type: ignore[no-untyped-def]
        read.append(place)
        return real(place, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(requests, "read_adapter", counted)
    file = AdapterFile(path=path, sha256=sha256_of(path))
    request = PictureRequest(prompt="a house", seed=1, how=PictureSpec(steps=1))
    asked = [replace(request, adapters=(AdapterInUse(adapter=file, weight=w),)) for w in (0.5, 1.0)]
    first, second = engine.draw(asked).pictures
    assert not np.array_equal(first, second)
    engine.draw(asked)
    assert read == [path]


def test_a_file_that_is_another_one_now_is_refused(engine: PictureEngine, tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    write_adapter(path, make_adapters(engine)["rank2"], family=engine.base.family)
    file = AdapterFile(path=path, sha256="0" * 64)
    with pytest.raises(AdapterError, match="another file since it was chosen"):
        engine.draw([PictureRequest(prompt="a", seed=1)], adapters=[AdapterInUse(adapter=file)])


def test_everything_that_decides_what_is_drawn_is_in_the_hash(engine: PictureEngine) -> None:
    adapter = make_adapters(engine)["text and word"]
    key, layer = next(iter(adapter.layers.items()))
    others = [
        replace(adapter, words={}),
        replace(adapter, layers={**adapter.layers, key: replace(layer, alpha=9.0)}),  # type: ignore[type-var]
        replace(adapter, layers={**adapter.layers, key: replace(layer, up=layer.tensors["up"] + 1)}),  # type: ignore[type-var]
        replace(adapter, layers={k: v for k, v in adapter.layers.items() if k != key}),
    ]
    hashes = {content_sha256(one) for one in (adapter, *others)}
    assert len(hashes) == 5
    assert content_sha256(replace(adapter, metadata={"a": "b"})) == content_sha256(adapter)
