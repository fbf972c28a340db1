"""The cache on disk: whole, bounded, shared, and never taken from under a run."""

import os
import threading
from pathlib import Path

import pytest
import torch

from detour import entry_store, tensor_files
from detour.entry_store import EntryStore
from detour.errors import StorageError

GENEROUS = 1 << 30


def entry(number: int, size: int = 8) -> dict[str, torch.Tensor]:
    return {"mean": torch.full((2, size), float(number)), "std": torch.full((2, size), 0.5)}


def key(number: int) -> str:
    return f"{number:064x}"[::-1]


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "entries").glob("*/*"))


def test_what_is_put_is_read_by_this_run_and_by_the_next(tmp_path: Path) -> None:
    first = EntryStore(tmp_path, max_bytes=GENEROUS)
    assert not first.hold(key(1))
    first.put(key(1), entry(1))
    assert first.hold(key(1))
    second = EntryStore(tmp_path, max_bytes=GENEROUS)
    assert second.hold(key(1))
    assert torch.equal(second.read(key(1))["mean"], entry(1)["mean"])
    assert second.read(key(1))["std"].dtype == torch.float32
    with pytest.raises(StorageError):
        second.read(key(2))


@pytest.mark.parametrize("damage", ["flip", "cut", "other", "empty"])
def test_a_damaged_entry_is_dropped_counted_and_made_again(tmp_path: Path, damage: str) -> None:
    writer = EntryStore(tmp_path, max_bytes=GENEROUS)
    writer.put(key(1), entry(1))
    writer.put(key(2), entry(2))
    writer.close()
    (path,) = [p for p in entries(tmp_path) if p.name.startswith(key(1))]
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    other = next(p for p in entries(tmp_path) if p != path).read_bytes()
    path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-9]), "other": other, "empty": b""}[damage])
    store = EntryStore(tmp_path, max_bytes=GENEROUS)
    assert not store.hold(key(1))
    assert store.damaged == 1
    assert not path.exists()
    store.put(key(1), entry(1))
    assert torch.equal(store.read(key(1))["mean"], entry(1)["mean"])
    assert EntryStore(tmp_path, max_bytes=GENEROUS).hold(key(1))
    assert store.hold(key(2))


@pytest.mark.parametrize("kind", ["folder", "filled folder", "link to nothing", "link to itself"])
def test_whatever_stands_in_an_entrys_place_is_dropped_and_made_again(tmp_path: Path, kind: str) -> None:
    store = EntryStore(tmp_path, max_bytes=GENEROUS)
    store.put(key(1), entry(1))
    store.close()
    [path] = entries(tmp_path)
    path.unlink()
    if kind.endswith("folder"):
        path.mkdir()
        if kind.startswith("filled"):
            (path / "file").write_text("x")
    else:
        path.symlink_to(path if kind.endswith("itself") else tmp_path / "gone")
    store = EntryStore(tmp_path, max_bytes=GENEROUS)
    assert not store.hold(key(1))
    assert store.damaged == 1
    store.put(key(1), entry(1))
    assert EntryStore(tmp_path, max_bytes=GENEROUS).hold(key(1))


def test_the_bound_is_kept_and_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    writer = EntryStore(tmp_path, max_bytes=GENEROUS)
    for number in range(6):
        writer.put(key(number), entry(number))
    writer.close()
    size = entries(tmp_path)[0].stat().st_size
    for age, number in enumerate([3, 0, 5, 1, 4, 2]):
        path = next(p for p in entries(tmp_path) if p.name.startswith(key(number)))
        os.utime(path, (1000 + age, 1000 + age))
    reader = EntryStore(tmp_path, max_bytes=GENEROUS)
    assert reader.hold(key(3))  # used now, so no longer the oldest
    reader.close()
    assert EntryStore(tmp_path, max_bytes=3 * size).evict() == 0
    left = {p.name for p in entries(tmp_path)}
    assert left == {f"{key(number)}.safetensors" for number in (3, 4, 2)}


def test_entries_that_a_run_holds_are_never_taken_from_it(tmp_path: Path) -> None:
    reader = EntryStore(tmp_path, max_bytes=GENEROUS)
    for number in range(3):
        reader.put(key(number), entry(number))
    greedy = EntryStore(tmp_path, max_bytes=1)
    assert greedy.evict() > 0
    assert len(entries(tmp_path)) == 3
    for path in entries(tmp_path):  # even where somebody deletes the whole cache's names
        path.unlink()
    assert all(torch.equal(reader.read(key(n))["mean"], entry(n)["mean"]) for n in range(3))
    reader.close()
    greedy.put(key(7), entry(7))
    greedy.close()
    assert EntryStore(tmp_path, max_bytes=1).evict() == 0
    assert entries(tmp_path) == []


def test_what_a_killed_run_held_is_let_go_and_what_a_living_one_holds_is_not(tmp_path: Path) -> None:
    living = EntryStore(tmp_path, max_bytes=GENEROUS)
    living.put(key(1), entry(1))
    dead = tmp_path / "held" / "999-dead"
    dead.mkdir()
    (dead / key(2)).write_bytes(b"x")
    (tmp_path / "held" / "999-dead.lock").touch()
    EntryStore(tmp_path, max_bytes=GENEROUS).close()
    assert not dead.exists()
    assert torch.equal(living.read(key(1))["mean"], entry(1)["mean"])
    living.close()
    assert list((tmp_path / "held").iterdir()) == []


def test_many_writers_of_the_same_entries_leave_each_whole(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            store = EntryStore(tmp_path, max_bytes=2000)
            for _ in range(4):
                for number in range(5):
                    if not store.hold(key(number)):
                        store.put(key(number), entry(number))
                    assert torch.equal(store.read(key(number))["mean"], entry(number)["mean"])
                store.evict()
            assert store.damaged == 0
            store.close()
        except BaseException as error:  # a thread's own traceback would be lost
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not [p for p in entries(tmp_path) if p.suffix != ".safetensors"]


def test_a_file_system_without_hard_links_gets_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        source.stat()
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(entry_store.os, "link", refuse)
    EntryStore(tmp_path, max_bytes=GENEROUS).put(key(1), entry(1))
    reader = EntryStore(tmp_path, max_bytes=0)
    assert reader.hold(key(1))
    reader.evict()
    assert torch.equal(reader.read(key(1))["mean"], entry(1)["mean"])


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EntryStore(tmp_path, max_bytes=GENEROUS)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", full)
    with pytest.raises(StorageError, match="disk full"):
        store.put(key(1), entry(1))
    assert entries(tmp_path) == []


def test_leftovers_of_killed_writers_go_in_time(tmp_path: Path) -> None:
    store = EntryStore(tmp_path, max_bytes=GENEROUS)
    store.put(key(1), entry(1))
    left = entries(tmp_path)[0].with_name(f".{key(2)}.abcd")
    left.write_bytes(b"half")
    store.evict()
    assert left.exists()  # its writer may still be alive
    os.utime(left, (1000, 1000))
    store.evict()
    assert not left.exists()
