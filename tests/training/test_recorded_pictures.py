"""A run knows its own pictures again, whatever its folder holds now."""

import json
from pathlib import Path

import pytest

from detour.data.finding import Finding
from detour.data.folder import Dataset, read_dataset
from detour.data.holdout import split_holdout
from detour.errors import RunError
from detour.specs import DataSpec
from detour.training.recorded_pictures import (
    FINDINGS,
    PICTURES,
    RunPictures,
    as_trained_on,
    changes,
    read_findings,
    read_recorded,
    remember_pictures,
    write_findings,
)
from tests.data.test_folder import picture

HOLDOUT, SEED = 0.25, 5


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(12):
        picture(tmp_path / "photos" / f"{number:02d}.png", f"caption {number}", seed=number)
    return tmp_path / "photos"


def read(photos: Path) -> Dataset:
    return read_dataset(DataSpec(source=str(photos)), lenient=True, decode=False)


def later(run: Path, photos: Path) -> RunPictures:
    return as_trained_on(read(photos), read_recorded(run), holdout=HOLDOUT, seed=SEED)


@pytest.fixture
def run(photos: Path, tmp_path: Path) -> Path:
    remember_pictures(tmp_path / "run", read(photos), holdout=HOLDOUT, seed=SEED)
    return tmp_path / "run"


def names(found: RunPictures) -> tuple[list[str], list[str]]:
    return [e.name for e in found.train], [e.name for e in found.held_out]


def test_an_unchanged_folder_gives_the_runs_own_split(run: Path, photos: Path) -> None:
    found, (train, held_out) = later(run, photos), split_holdout(read(photos), HOLDOUT, SEED)
    assert names(found) == ([e.name for e in train.examples], [e.name for e in held_out.examples])
    assert len(found.held_out) == 3
    assert found.notes == ()


@pytest.mark.parametrize("old", [False, True], ids=["", "a run that did not write its split down"])
def test_changed_gone_and_new_pictures_are_left_out_named_and_move_nobody_to_the_other_side(
    run: Path, photos: Path, old: bool
) -> None:
    if old:
        recorded = json.loads((run / PICTURES).read_text())
        (run / PICTURES).write_text(json.dumps({name: facts[:5] for name, facts in recorded.items()}))
    train, held_out = names(later(run, photos))
    changed, gone, kept_out_gone = train[0], train[1], held_out[0]
    picture(photos / changed, seed=99)
    (photos / gone).unlink()
    (photos / kept_out_gone).unlink()
    for number in range(20, 40):
        picture(photos / f"{number}.png", "new", seed=number)
    found = later(run, photos)
    assert names(found) == (train[2:], held_out[1:])
    assert len(found.train_captions) == 9
    assert len(found.held_out_captions) == 3
    assert "new" not in (*found.train_captions, *found.held_out_captions)
    [note] = found.notes
    assert note.startswith("23 pictures in the folder are not what the run was trained on and left out")


def test_captions_are_those_of_the_run(run: Path, photos: Path) -> None:
    (photos / "00.txt").write_text("another caption")
    found = later(run, photos)
    assert found.notes == ()
    captions = {e.name: e.caption for e in (*found.train, *found.held_out)}
    assert captions["00.png"] == "caption 0"
    assert changes(read_recorded(run) or {}, read(photos)) == ["00.png (changed)"]


def test_without_a_record_what_is_there_is_taken(tmp_path: Path, photos: Path) -> None:
    assert read_recorded(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / PICTURES).write_text('{"a.png": 3}')
    assert read_recorded(tmp_path) is None
    found = as_trained_on(read(photos), None, holdout=HOLDOUT, seed=SEED)
    assert (len(found.train), len(found.held_out)) == (9, 3)


def test_findings_are_kept_for_the_verdict(tmp_path: Path) -> None:
    assert read_findings(tmp_path) == ()
    findings = (Finding(severity="warning", kind="amount", cause="3 pictures are few", fix="add some"),)
    write_findings(tmp_path, findings)
    assert read_findings(tmp_path) == findings
    (tmp_path / FINDINGS).write_text('[{"severity": "loud"}]')
    with pytest.raises(RunError, match=r"findings.json: not what a run writes"):
        read_findings(tmp_path)
