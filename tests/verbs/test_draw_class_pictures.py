"""Prior preservation: class pictures are drawn once, kept by content, trained beside the subject's, and resumable."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from detour.bases.base import Base, open_base
from detour.errors import Interrupted, RunError
from detour.generation.png import read_png_metadata
from detour.specs import RunSpec, load_run_spec
from detour.verbs.progress import Progress
from detour.verbs.train import class_pictures as drawing
from detour.verbs.train import run as recipe
from detour.verbs.train.class_pictures import cost_sentence, draw_class_pictures
from detour.verbs.train.run import train_adapter
from detour.verbs.train.run_plan import plan_run
from tests.verbs.photos import make_photos, quick_spec


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", 3)


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)


def subject(base: Path, photos: Path, cache: Path, **flags: Any) -> RunSpec:
    """A quick subject run with three class pictures of two prompts."""
    own = {
        "goal": "subject",
        "data.trigger": "sks",
        "prior.class_prompts": ("a cat", "a dog"),
        "prior.pictures": 3,
        "prior.steps": 1,
        "prior.folder": str(cache),
        "data.holdout": 0.0,
    }
    return quick_spec(base, photos, **{**own, **flags})


def planned(spec: RunSpec) -> tuple[RunSpec, Base]:
    plan = plan_run(spec)
    return plan.spec, plan.base


def test_class_pictures_are_drawn_once_and_found_by_later_runs(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, base = planned(subject(tiny_base, photos, tmp_path / "cache"))
    told: list[Progress] = []
    drawn = draw_class_pictures(spec, base, progress=told.append)
    assert drawn is not None
    assert [example.caption for example in drawn.examples] == ["a cat", "a dog", "a cat"]
    assert [(report.done, report.total) for report in told if report.total] == [(0, 3), (3, 3)]
    assert "the base draws 3 pictures of the class, 1 steps each" in told[0].note
    described = read_png_metadata(next(example.path for example in drawn.examples if example.path))
    assert described is not None
    assert (described.prompt, described.seed) == ("a cat", 0)

    asked: list[int] = []
    monkeypatch.setattr(drawing, "_draw", lambda wanted, missing, *_: asked.append(len(missing)))
    again = draw_class_pictures(spec, base)
    assert again is not None
    assert again.fingerprint == drawn.fingerprint
    assert asked == []


def test_only_missing_and_damaged_class_pictures_are_drawn(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    spec, base = planned(subject(tiny_base, photos, tmp_path / "cache"))
    drawn = draw_class_pictures(spec, base)
    assert drawn is not None
    paths = [example.path for example in drawn.examples if example.path]
    before = [path.read_bytes() for path in paths]
    paths[1].write_bytes(before[1][:40])
    marked = paths[0].stat().st_mtime_ns
    told: list[Progress] = []
    again = draw_class_pictures(spec, base, progress=told.append)
    assert again is not None
    assert [report.total for report in told if report.total] == [1, 1]
    assert paths[0].stat().st_mtime_ns == marked
    assert again.examples[0].sha256 == drawn.examples[0].sha256
    assert [path.read_bytes() for path in paths] == before


def test_other_weights_prompts_sizes_or_settings_have_other_pictures(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    edited = shutil.copytree(tiny_base, tmp_path / tiny_base.name)
    weights = edited / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))

    def place(base: Path, **flags: Any) -> Path:
        spec, opened = planned(subject(base, photos, tmp_path / "cache", **flags))
        return next(drawing.wanted_pictures(spec, opened)).path.parent

    assert open_base(str(edited)).identity == open_base(str(tiny_base)).identity
    places = [
        place(tiny_base),
        place(edited),
        place(tiny_base, prior__class_prompts=("a kitten",)),
        place(tiny_base, data__resolution=72),
        place(tiny_base, prior__steps=2),
        place(tiny_base, prior__guidance_scale=3.0),
    ]
    assert len(set(places)) == len(places)
    assert place(tiny_base, seed=9, prior__weight=0.5) == places[0]


def test_a_subject_run_with_its_class_resumes_to_the_same_bytes(
    tiny_base: Path, photos: Path, tmp_path: Path, unproved: None
) -> None:
    spec = subject(tiny_base, photos, tmp_path / "cache")
    straight = train_adapter(spec, runs=tmp_path / "straight").adapter_file
    without = train_adapter(
        spec.model_copy(update={"prior": spec.prior.model_copy(update={"use": False})}),
        runs=tmp_path / "without",
    ).adapter_file

    def stop(report: Progress) -> None:
        if report.stage == "training" and report.done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train_adapter(spec, runs=tmp_path / "stopped", progress=stop)
    resumed = train_adapter(None, resume=tmp_path / "stopped" / "quick").adapter_file
    assert resumed.read_bytes() == straight.read_bytes()
    assert without.read_bytes() != straight.read_bytes()


def test_resuming_refuses_other_class_pictures(
    tiny_base: Path, photos: Path, tmp_path: Path, unproved: None
) -> None:
    cache = tmp_path / "cache"

    def stop(report: Progress) -> None:
        if report.stage == "training" and report.done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train_adapter(subject(tiny_base, photos, cache), runs=tmp_path / "runs", progress=stop)
    first, second = sorted(cache.rglob("*.png"))[:2]
    shutil.copyfile(second, first)
    with pytest.raises(RunError, match="class pictures are not those"):
        train_adapter(None, resume=tmp_path / "runs" / "quick")


def test_photos_of_a_subject_need_no_captions(tiny_base: Path, photos: Path, tmp_path: Path) -> None:
    for sidecar in photos.glob("*.txt"):
        sidecar.unlink()
    plan = plan_run(subject(tiny_base, photos, tmp_path, data__trigger="sks robot"))
    assert set(plan.captions) == {"sks robot"}


def test_the_cost_is_counted_in_training_steps() -> None:
    """100 pictures of 25 steps with guidance are 5,000 passes; a step of 8 samples takes 24."""
    values = {"train.batch": 8, "train.steps": 150, "prior.steps": 25, "prior.guidance_scale": 3.0}
    assert "as 208 training steps, and the run has 150" in cost_sentence(load_run_spec(flags=values), 100)
    assert "as 104 training steps" in cost_sentence(
        load_run_spec(flags=values | {"prior.guidance_scale": 1.0}), 100
    )
