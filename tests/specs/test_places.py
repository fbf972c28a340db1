"""Paths in a settings file: the run is repeated from anywhere, and after both were moved together."""

import shutil
from pathlib import Path

import pytest

from detour.bases.names import KNOWN
from detour.specs import load_run_spec, save_run_spec, to_toml
from detour.specs.places import NAMED_BASES, without_places


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, a base and a first adapter, in which a command was called."""
    for name in ("photos", "more", "models/base", "runs/x"):
        (tmp_path / "project" / name).mkdir(parents=True)
    (tmp_path / "project" / "first.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


FLAGS = {
    "data.source": "photos",
    "data.folders": ({"source": "more", "role": "class"}, {"source": "hub:owner/data"}),
    "data.cache_folder": "cache",
    "base.name": "models/base",
    "adapter.from_file": "first.safetensors",
}


def test_a_written_file_names_the_same_places_from_anywhere(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_run_spec(flags=FLAGS)
    file = project / "runs" / "x" / "resolved.toml"
    save_run_spec(file, spec)
    assert 'source = "../../photos"' in file.read_text()
    for place in (project, file.parent, tmp_path, Path("/")):
        monkeypatch.chdir(place)
        read = load_run_spec(config=file)
        assert Path(read.data.source).samefile(project / "photos")
        assert Path(read.data.folders[0].source).samefile(project / "more")
        assert read.data.folders[1].source == "hub:owner/data"
        assert Path(read.base.name).samefile(project / "models" / "base")
        assert Path(read.adapter.from_file).samefile(project / "first.safetensors")
        assert read.data.cache_folder == str(project / "cache")
    monkeypatch.chdir(project)
    again = load_run_spec(config=file)
    assert (again.data.source, again.base.name) == (spec.data.source, spec.base.name)


def test_both_may_be_moved_together(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_run_spec(project / "runs" / "x" / "resolved.toml", load_run_spec(flags=FLAGS))
    monkeypatch.chdir(tmp_path)
    moved = Path(shutil.move(project, tmp_path / "elsewhere"))
    read = load_run_spec(config=moved / "runs" / "x" / "resolved.toml")
    assert Path(read.data.source).samefile(moved / "photos")


def test_a_file_from_before_is_read_as_before(project: Path) -> None:
    """Older versions wrote paths as they were given: relative to where the command was called."""
    spec = load_run_spec(flags=FLAGS)
    file = project / "runs" / "x" / "resolved.toml"
    file.write_text(to_toml(spec))
    assert load_run_spec(config=file) == spec


def test_names_that_are_no_paths_stay(project: Path) -> None:
    (project / "pocket").mkdir()
    (project / "sd15").mkdir()
    for name in ("pocket", "sd15", "owner/name", str(project / "models" / "base")):
        save_run_spec(project / "run.toml", load_run_spec(flags={"base.name": name}))
        assert load_run_spec(config=project / "run.toml").base.name == name


def test_two_spellings_of_a_run_are_one_and_another_setting_is_not(project: Path) -> None:
    def compared(**changes: object) -> dict[str, object]:
        return without_places(load_run_spec(flags=FLAGS | changes).model_dump(by_alias=True))

    assert compared() == compared(**{"data.source": str(project / "photos"), "base.name": "/other/base"})
    assert compared() != compared(**{"train.steps": 3})
    assert compared() != compared(
        **{"data.folders": ({"source": "more", "role": "train"}, {"source": "hub:owner/data"})}
    )


@pytest.mark.parametrize(
    "text", ["data = 3", "data.source = 3", "data.folders = 3", "data.folders = [3]", "base = []"]
)
def test_what_is_no_table_is_an_error_of_the_settings(tmp_path: Path, text: str) -> None:
    from detour.errors import ConfigError

    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ConfigError):
        load_run_spec(config=tmp_path / "run.toml")


def test_a_file_that_begins_with_a_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(b"\xef\xbb\xbfseed = 7\n")
    assert load_run_spec(config=tmp_path / "run.toml").seed == 7


def test_the_names_of_bases_are_those_that_open_one() -> None:
    assert set(NAMED_BASES) == set(KNOWN)


def test_a_data_folder_may_be_called_like_a_base(project: Path) -> None:
    (project / "pocket").mkdir()
    save_run_spec(project / "runs" / "x" / "run.toml", load_run_spec(flags=FLAGS | {"data.source": "pocket"}))
    assert 'source = "../../pocket"' in (project / "runs" / "x" / "run.toml").read_text()
