"""A run on several folders: weights, class pictures, and resuming."""

import json
from pathlib import Path

import pytest

from detour.adapter_files import read_adapter
from detour.errors import Interrupted, RunError
from detour.specs import FolderSpec, RunSpec
from detour.verbs.train import run as recipe
from detour.verbs.train.run import train_adapter
from tests.verbs.photos import make_photos, quick_spec
from tests.verbs.test_train_adapter import stop_after


@pytest.fixture(autouse=True)
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)


@pytest.fixture
def spec(tiny_base: Path, tmp_path: Path) -> RunSpec:
    make_photos(tmp_path / "dog", 4)
    make_photos(tmp_path / "dogs", 3)
    folders = (
        FolderSpec(source=str(tmp_path / "dog"), repeats=2, trigger="sks"),
        FolderSpec(source=str(tmp_path / "dogs"), role="class", weight=0.5),
    )
    quick = quick_spec(tiny_base, Path(), train__steps=3, validate__every=0)
    return quick.model_copy(update={"data": quick.data.model_copy(update={"source": "", "folders": folders})})


def test_a_run_on_two_folders_resumes_to_the_same_bytes_and_refuses_other_pictures(
    spec: RunSpec, tmp_path: Path
) -> None:
    straight = train_adapter(spec, runs=tmp_path / "straight")
    with pytest.raises(Interrupted):
        train_adapter(spec, runs=tmp_path / "broken", progress=stop_after(2))
    folder = tmp_path / "broken" / "quick"
    caption = tmp_path / "dogs" / "1.txt"
    before = caption.read_text()
    caption.write_text("another")
    with pytest.raises(RunError, match=r"not those of the run: dogs/1\.png \(changed\)"):
        train_adapter(None, resume=folder)
    caption.write_text(before)
    train_adapter(None, resume=folder)
    assert (folder / "quick.safetensors").read_bytes() == straight.adapter_file.read_bytes()
    assert "dog: 4 pictures: pictures with .txt captions beside them" in straight.notes
    metadata = read_adapter(straight.adapter_file).metadata
    assert list(json.loads(metadata["ss_tag_frequency"])) == ["dog", "dogs"]
    assert metadata["modelspec.trigger_phrase"] == "sks"
    assert str(tmp_path) not in "".join(metadata.values())


def test_weights_and_class_pictures_change_what_is_learned(spec: RunSpec, tmp_path: Path) -> None:
    def trained(name: str, **changed: object) -> float:
        folders = (spec.data.folders[0], spec.data.folders[1].model_copy(update=changed))
        data = spec.data.model_copy(update={"folders": folders})
        result = train_adapter(spec.model_copy(update={"data": data}), runs=tmp_path / name)
        return sum(float(layer.up.abs().sum()) for layer in read_adapter(result.adapter_file).layers.values())

    first = trained("a")
    assert trained("same") == first
    assert trained("heavier", weight=2.0) != first
    assert trained("learned", role="train") != first
