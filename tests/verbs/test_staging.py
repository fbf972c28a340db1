import shutil
from pathlib import Path

import pytest

from detour.errors import ConfigError
from detour.verbs.staging import staged
from tests.conftest import WatchedDisk


def write_text_then_fail(out: Path) -> None:
    with staged(out, force=True) as place:
        place.write_text("half")
        raise ValueError("broken")


def write_folder(out: Path, text: str) -> None:
    with staged(out, force=True) as place:
        place.mkdir()
        (place / "config.json").write_text(text)


def test_an_output_stands_only_after_the_block(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "a.txt"
    with staged(out, force=False) as place:
        place.write_text("new")
        assert not out.exists()
    assert out.read_text() == "new"
    assert [path.name for path in out.parent.iterdir()] == ["a.txt"]


def test_what_was_copied_into_it_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, watched_disk: WatchedDisk
) -> None:
    (tmp_path / "source.txt").write_text("x")
    with staged(tmp_path / "out", force=False) as place:
        place.mkdir()
        shutil.copyfile(tmp_path / "source.txt", place / "config.json")
    assert watched_disk.synced_before("out") >= {"config.json", "out"}
    assert watched_disk.events[-1] == tmp_path.name


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "a.txt"
    out.write_text("old")
    with pytest.raises(ValueError, match="broken"):
        write_text_then_fail(out)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_what_is_there_is_kept_without_force(tmp_path: Path) -> None:
    out = tmp_path / "a.txt"
    out.write_text("old")
    with pytest.raises(ConfigError, match="is there already"), staged(out, force=False):
        raise AssertionError("the work began")
    with staged(out, force=True) as place:
        place.write_text("new")
    assert out.read_text() == "new"


def test_a_folder_is_replaced_only_by_one_that_has_all_its_names(tmp_path: Path) -> None:
    out = tmp_path / "folder"
    out.mkdir()
    (out / "config.json").write_text("old")
    write_folder(out, "new")
    assert (out / "config.json").read_text() == "new"
    (out / "thesis.docx").write_text("years of work")
    with pytest.raises(ConfigError, match=r"thesis\.docx"):
        write_folder(out, "newer")
    assert (out / "config.json").read_text() == "new"
    assert (out / "thesis.docx").exists()


def test_a_folder_and_a_file_do_not_replace_one_another(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    with pytest.raises(ConfigError, match="is a folder"), staged(tmp_path / "folder", force=True) as place:
        place.write_text("x")
    with pytest.raises(ConfigError, match="is a file"), staged(tmp_path / "file", force=True) as place:
        place.mkdir()
