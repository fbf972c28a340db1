"""Proving an adapter file that has no run."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from detour.adapter_files import kohya_metadata, write_adapter
from detour.bases.base import open_base
from detour.errors import AdapterError, ConfigError
from detour.verbs.judge.finished_run import is_run_folder, run_of_file
from detour.verbs.judge.proof_of_run import prove_adapter
from tests.verbs.photos import make_photos
from tests.verbs.test_prove_run import make_spec, trained_adapter


def write(path: Path, base: Path, *, told: bool) -> Path:
    """An adapter file, with the settings of its run in it or with none."""
    opened, adapter = open_base(str(base)), trained_adapter(base)
    metadata = kohya_metadata(
        adapter,
        family=opened.family,
        identity=opened.identity,
        title="x",
        resolution_px=64,
        run=make_spec(base, path.parent),
        tags={"train": {"a cat": 1, "a dog": 3}, "more": {"a cup": 2}},
    )
    write_adapter(path, replace(adapter, metadata=metadata) if told else adapter, family=opened.family)
    return path


def test_a_lone_file_is_proved_against_the_base_that_is_named(tiny_base: Path, tmp_path: Path) -> None:
    file, out = write(tmp_path / "lone.safetensors", tiny_base, told=False), tmp_path / "out"
    photos = make_photos(tmp_path / "photos", 4)
    proof = prove_adapter(file, out=out, base=str(tiny_base), pictures=photos, prompts=["a cup"])
    assert proof.pixels.mean_abs_diff > 0.5
    assert proof.reload.max_abs_diff is None  # nobody kept the trained model's own pictures
    assert proof.merge.max_abs_diff is not None
    assert proof.held_out.prompts == 1
    assert {"proof.json", "report.html", "samples"} == {path.name for path in out.iterdir()}


def test_what_the_file_says_of_its_run_is_used(tiny_base: Path, tmp_path: Path) -> None:
    told = write(tmp_path / "told.safetensors", tiny_base, told=True)
    run = run_of_file(told, out=tmp_path, base=str(tiny_base))
    assert (run.spec.adapter.rank, run.spec.data.resolution, run.spec.data.source) == (2, 64, "")
    assert run.tags == ("a dog", "a cup", "a cat")


def test_a_file_that_names_no_base_needs_one(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--base"):
        run_of_file(write(tmp_path / "lone.safetensors", tiny_base, told=False), out=tmp_path)
    with pytest.raises(AdapterError, match="no such adapter"):
        run_of_file(tmp_path / "none.safetensors", out=tmp_path)


def test_runs_and_adapter_folders_are_told_apart(tmp_path: Path) -> None:
    run, adapter, empty = (tmp_path / name for name in ("run", "adapter", "empty"))
    for folder in (run, adapter, empty):
        folder.mkdir()
    (run / "resolved.toml").touch()
    (run / "run.safetensors").touch()
    (adapter / "adapter_model.safetensors").touch()
    Image.new("RGB", (8, 8)).save(empty / "picture.png")
    assert [is_run_folder(path) for path in (run, adapter, empty)] == [True, False, True]
