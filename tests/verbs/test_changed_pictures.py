"""Pictures that change while a run goes on, or after it, are never taken for those that were trained on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detour.data.folder import read_dataset
from detour.data.holdout import split_holdout
from detour.data.transform import to_square
from detour.errors import DataError
from detour.training.recorded_pictures import read_findings
from detour.verbs.judge.controls import train_control
from detour.verbs.judge.finished_run import read_finished_run
from detour.verbs.judge.held_out_material import training_pictures_or_note
from detour.verbs.judge.proof_of_run import prove_run
from detour.verbs.progress import Progress
from detour.verbs.train.run import TrainResult, load_run_material, train_adapter
from detour.verbs.train.run_plan import plan_run
from tests.verbs.photos import make_photos, quick_spec


def edit(path: Path) -> None:
    Image.new("RGB", (64, 70), (1, 2, 3)).save(path)


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_picture_edited_before_it_is_encoded_poisons_nothing(
    tiny_base: Path, tmp_path: Path, cache: str
) -> None:
    photos = make_photos(tmp_path / "photos", 3)
    plan = plan_run(
        quick_spec(tiny_base, photos, data__cache=cache, data__cache_folder=str(tmp_path / "cache"))
    )
    whole = (photos / "1.png").read_bytes()
    edit(photos / "1.png")
    with pytest.raises(DataError, match=r"1.png: changed since the pictures were checked"):
        load_run_material(plan, lambda _: None)
    (photos / "1.png").write_bytes(whole)
    material, _ = load_run_material(plan, lambda _: None)
    fresh, _ = load_run_material(
        plan_run(quick_spec(tiny_base, photos, data__cache_folder=str(tmp_path / "new"), data__cache=cache)),
        lambda _: None,
    )
    for number in range(3):
        for found, expected in zip(
            material.train.latents.moments(number, 0), fresh.train.latents.moments(number, 0), strict=True
        ):
            assert np.array_equal(found.numpy(), expected.numpy())


@pytest.fixture(scope="module")
def trained(
    tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainResult, Path, list[Progress]]:
    """(result, photos, what was told) of a run on eleven pictures with two more in a folder, unproved."""
    place = tmp_path_factory.mktemp("changed")
    photos = make_photos(place / "photos", 11)
    make_photos(photos / "more", 2)
    settings = {"train.steps": 2, "train.optim.lr": 0.3, "validate.every": 0, "checkpoint.every": 0}
    told: list[Progress] = []
    spec = quick_spec(tiny_base, photos, **settings)
    return train_adapter(spec, runs=place / "runs", prove=False, progress=told.append), photos, told


def test_a_run_says_and_keeps_what_is_wrong_with_its_pictures(
    trained: tuple[TrainResult, Path, list[Progress]],
) -> None:
    result, _, told = trained
    kept = read_findings(result.run_folder)
    assert {"not read", "same words", "amount"} <= {finding.kind for finding in kept}
    for finding in kept:
        assert finding.line in result.notes
        assert any(report.note == finding.line and report.stage == "preparing" for report in told)
    assert any("2 pictures are not read: 2 in more/" in note for note in result.notes)


def test_the_proof_compares_with_what_was_trained_on_alone(
    trained: tuple[TrainResult, Path, list[Progress]],
) -> None:
    folder, photos = trained[0].run_folder, trained[1]
    spec = read_finished_run(folder).spec
    before, notes = training_pictures_or_note(spec, size_px=64, run_folder=folder)
    assert before is not None
    assert notes == ()
    train, _ = split_holdout(plan_run(spec).dataset, float(spec.data.holdout), spec.seed)
    changed = train.examples[0].path
    assert changed is not None
    whole = changed.read_bytes()
    try:
        edit(changed)
        edit(photos / "new.png")
        after, notes = training_pictures_or_note(spec, size_px=64, run_folder=folder)
        assert after is not None
        assert np.array_equal(after.train, before.train[1:])
        assert np.array_equal(after.held_out, before.held_out)
        assert after.captions == before.captions
        assert notes == (
            f"2 pictures in the folder are not what the run was trained on and left out: {changed.name} (changed), "
            "new.png (new).",
        )
        proof = prove_run(folder)
        assert any(notes[0] in reason for reason in proof.reasons), proof.reasons
        with pytest.raises(
            DataError, match=rf"not those of the run: {changed.name} \(changed\), new.png \(new\)"
        ):
            train_control(read_finished_run(folder), "shuffled")
    finally:
        changed.write_bytes(whole)
        (photos / "new.png").unlink()
    loose, _ = training_pictures_or_note(spec, size_px=64)
    assert loose is not None
    assert np.array_equal(loose.train, before.train)
    assert np.array_equal(before.train[0], to_square(train.examples[0].open(), 64))


def test_a_run_reads_its_pictures_once_and_leaves_out_what_changed_before_the_proof(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is listed once; a picture that is edited after training is looked at again, and named."""
    reads: list[str] = []
    monkeypatch.setattr(
        "detour.verbs.train.run_plan.read_dataset", lambda spec: reads.append("train") or read_dataset(spec)
    )
    monkeypatch.setattr("detour.data.folder.read_dataset", lambda *_, **__: pytest.fail("read a second time"))
    photos = make_photos(tmp_path / "photos", 5)

    def edit_one(told: Progress) -> None:
        if told.stage == "gathering held-out prompts":
            edit(photos / "2.png")
            (photos / "3.png").unlink()

    settings = {"train.steps": 2, "train.optim.lr": 0.3, "validate.every": 0, "checkpoint.every": 0}
    result = train_adapter(
        quick_spec(tiny_base, photos, **settings), runs=tmp_path / "runs", progress=edit_one
    )
    assert reads == ["train"]
    assert result.proof is not None
    said = "2 pictures in the folder are not what the run was trained on and left out: 2.png (changed), 3.png (gone)."
    assert any(said in reason for reason in result.proof.reasons), result.proof.reasons
