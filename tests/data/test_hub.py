import io
import sys
import types

import pytest
from PIL import Image

from detour.data.folder import read_dataset
from detour.errors import DataError, MissingExtra
from detour.specs import DataSpec


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 4), value).save(stream, "PNG")
    return stream.getvalue()


class Rows(list):  # type: ignore[type-arg]
    def __init__(self, rows, names):  # type: ignore[no-untyped-def]
        super().__init__(rows)
        self.column_names = names
        self.cast = None

    def cast_column(self, name, kind):  # type: ignore[no-untyped-def]
        self.cast = (name, kind.decode)
        return self


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("datasets")
    rows = [{"image": {"bytes": png(i), "path": None}, "text": f" caption {i}\n"} for i in range(3)]
    module.rows = Rows(rows, ["image", "text"])
    module.asked = []
    module.Image = lambda decode: types.SimpleNamespace(decode=decode)
    module.load_dataset = lambda identifier, split: module.asked.append((identifier, split)) or module.rows
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_hub_rows_become_examples_and_the_split_is_passed_on(hub: types.ModuleType) -> None:
    data = read_dataset(DataSpec(source="hub:owner/name", split="train[:3]"))
    assert hub.asked == [("owner/name", "train[:3]")]
    assert hub.rows.cast == ("image", False)
    assert [example.caption for example in data.examples] == ["caption 0", "caption 1", "caption 2"]
    assert data.examples[1].open().getpixel((0, 0)) == (1, 1, 1)
    assert data.examples[1].path is None
    assert data.found == ("3 pictures: hub data set owner/name, split train[:3]",)


def test_hub_pictures_go_through_the_same_checks(hub: types.ModuleType) -> None:
    hub.rows[1]["image"] = {"bytes": b"GIF89a", "path": None}
    with pytest.raises(DataError, match="not readable"):
        read_dataset(DataSpec(source="hub:o/n"))
    assert len(read_dataset(DataSpec(source="hub:o/n", skip_bad_images=True))) == 2


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install detour-lora\[hub\]"):
        read_dataset(DataSpec(source="hub:o/n"))


def test_failure_of_the_hub_is_one_line(hub: types.ModuleType) -> None:
    def fail(identifier: str, split: str) -> None:
        raise ConnectionError("no route\nto host")

    hub.load_dataset = fail
    with pytest.raises(DataError, match=r"hub:o/n, split 'train': cannot be loaded \(no route to host\)"):
        read_dataset(DataSpec(source="hub:o/n"))


def test_data_set_without_pictures_lists_its_columns(hub: types.ModuleType) -> None:
    hub.rows.column_names = ["audio", "text"]
    with pytest.raises(DataError, match=r"no column 'image' \(columns: audio, text\)"):
        read_dataset(DataSpec(source="hub:o/n"))
