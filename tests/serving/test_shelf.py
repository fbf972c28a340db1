"""Adapters that vanish or change between a look at the shelf and the copy that a job is drawn with."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from detour.adapter_files.writing import write_adapter
from detour.generation.engine import PictureEngine
from detour.serving.refusals import BadRequest, NotFound
from detour.serving.shelf import Shelf, ShelfEntry
from tests.generation.pool import make_adapters

FORMS = ("file", "folder")


@pytest.fixture
def shelf(engine: PictureEngine, tmp_path: Path) -> Shelf:
    """A shelf with a file and a PEFT folder, which has looked once."""
    made = make_adapters(engine)["rank2"]
    write_adapter(tmp_path / "shelf" / "file.safetensors", made, family=engine.base.family)
    write_adapter(tmp_path / "shelf" / "folder", made, file_format="peft", family=engine.base.family)
    shelf = Shelf(tmp_path / "shelf", engine.base, tmp_path / "pinned")
    shelf.refresh()
    return shelf


def path_of(shelf: Shelf, name: str) -> Path:
    """File or folder of an adapter."""
    return shelf.find(name).path


@pytest.mark.parametrize("name", FORMS)
def test_an_adapter_that_has_just_been_removed_is_not_there(shelf: Shelf, name: str) -> None:
    path = path_of(shelf, name)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(NotFound, match="removed just now") as caught:
        shelf.pin(name, 1.0)
    assert caught.value.code == "no_adapter"
    assert not [one for one in shelf.pinned.glob("*") if not one.name.startswith(".")]


@pytest.mark.parametrize("name", FORMS)
def test_an_adapter_that_has_just_been_replaced_is_asked_for_again(
    shelf: Shelf, engine: PictureEngine, name: str
) -> None:
    path, other = path_of(shelf, name), make_adapters(engine)["rank5 conv"]
    write_adapter(path, other, file_format="peft" if path.is_dir() else "kohya", family=engine.base.family)
    with pytest.raises(BadRequest, match="replaced just now") as caught:
        shelf.pin(name, 1.0)
    assert caught.value.code == "adapter_changed"
    shelf.refresh()
    assert shelf.pin(name, 1.0).sha256 == shelf.find(name).sha256


@pytest.mark.parametrize("name", FORMS)
def test_an_adapter_that_is_being_written_is_asked_for_again(shelf: Shelf, name: str) -> None:
    path = path_of(shelf, name)
    (path / "adapter_model.safetensors" if path.is_dir() else path).write_bytes(b"half")
    with pytest.raises(BadRequest, match="replaced just now"):
        shelf.pin(name, 1.0)


@pytest.mark.parametrize("name", FORMS)
def test_requests_that_come_together_copy_an_adapter_once(
    shelf: Shelf, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, copied = Shelf._copy, list[str]()

    def slow(self: Shelf, entry: ShelfEntry) -> None:
        copied.append(entry.name)
        time.sleep(0.2)  # the others look for the copy meanwhile
        copy(self, entry)

    monkeypatch.setattr(Shelf, "_copy", slow)
    with ThreadPoolExecutor(4) as requests:
        pinned = list(requests.map(lambda _: shelf.pin(name, 1.0).sha256, range(4)))
    assert copied == [name]
    assert set(pinned) == {shelf.find(name).sha256}
