"""Controls of a run: trained at rate 0, and on shuffled captions."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from detour.adapter_files import read_adapter
from detour.adapters.delta import largest_relative_difference
from detour.errors import ConfigError, DataError, Interrupted
from detour.specs.sources import with_changes
from detour.verbs.judge.controls import control_spec, train_control
from detour.verbs.judge.finished_run import FinishedRun, read_finished_run
from detour.verbs.progress import Progress
from detour.verbs.train import run as training
from detour.verbs.train.run import train_adapter
from tests.verbs.photos import make_photos, quick_spec


@pytest.fixture
def run(tiny_base: Path, tmp_path: Path) -> FinishedRun:
    spec = quick_spec(tiny_base, make_photos(tmp_path / "photos"))
    return read_finished_run(train_adapter(spec, runs=tmp_path, prove=False).run_folder)


def factors(path: Path) -> dict[str, np.ndarray]:
    layers = read_adapter(path).layers
    return {
        f"{key}.{name}": np.asarray(t) for key, layer in layers.items() for name, t in layer.tensors.items()
    }


def test_at_rate_zero_nothing_moves_so_two_steps_are_as_good_as_six(run: FinishedRun) -> None:
    two = factors(train_control(run, "rate_zero"))
    longer = with_changes(control_spec(run.spec, "rate_zero"), {"name": "longer", "train.steps": 6})
    six = factors(train_adapter(longer, runs=run.folder, prove=False).adapter_file)
    assert two.keys() == six.keys()
    assert all((two[key] == six[key]).all() for key in two)
    ups = [values for key, values in two.items() if key.endswith(".up")]
    assert ups
    assert not any(values.any() for values in ups)


def test_shuffled_captions_train_another_adapter_as_long(run: FinishedRun) -> None:
    control = train_control(run, "shuffled")
    mine, theirs = read_adapter(run.adapter_file), read_adapter(control)
    assert theirs.metadata["ss_steps"] == mine.metadata["ss_steps"]
    assert largest_relative_difference(mine, theirs) > 0.01


def test_without_class_pictures_the_same_run_is_trained_again(tiny_base: Path, tmp_path: Path) -> None:
    spec = with_changes(
        quick_spec(tiny_base, make_photos(tmp_path / "photos")),
        {"goal": "subject", "data.trigger": "sks", "prior.class_prompts": ("a dog",), "prior.pictures": 2,
         "prior.steps": 2, "prior.folder": str(tmp_path / "class")},
    )  # fmt: skip
    run = read_finished_run(train_adapter(spec, runs=tmp_path, prove=False).run_folder)
    assert control_spec(run.spec, "no_prior").prior.use is False
    control = read_finished_run(train_control(run, "no_prior").parent)
    plain = with_changes(spec, {"prior.use": False, "name": "plain"})
    other = train_adapter(plain, runs=tmp_path / "other", prove=False).adapter_file
    assert factors(control.adapter_file).keys() == factors(other).keys()
    assert all((factors(control.adapter_file)[key] == value).all() for key, value in factors(other).items())
    assert largest_relative_difference(read_adapter(run.adapter_file), read_adapter(other)) > 0.01


def test_a_run_without_class_pictures_has_none_to_leave_out(run: FinishedRun) -> None:
    with pytest.raises(ConfigError, match="Leave --no-prior out"):
        train_control(run, "no_prior")


def test_a_control_that_stands_there_is_not_trained_again(
    run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train_control(run, "shuffled")
    with monkeypatch.context() as patch:
        patch.setattr(training, "train_adapter", lambda *_, **__: pytest.fail("it trained"))
        assert train_control(run, "shuffled") == first


def test_a_control_on_other_captions_than_the_runs_is_not_trained(run: FinishedRun, tmp_path: Path) -> None:
    (tmp_path / "photos" / "3.txt").write_text("something else\n")
    with pytest.raises(DataError, match=r"the pictures are not those of the run: 3.png \(changed\)"):
        train_control(run, "shuffled")


def test_a_control_that_was_stopped_goes_on_and_ends_as_one_that_was_not(
    run: FinishedRun, tmp_path: Path
) -> None:
    def stop(report: Progress) -> None:
        if "training" in report.stage and report.done == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train_control(run, "shuffled", progress=stop)
    done: list[int] = []
    resumed = train_control(
        run, "shuffled", progress=lambda r: done.append(r.done) if "training" in r.stage else None
    )
    assert min(done) > 4
    straight = train_adapter(control_spec(run.spec, "shuffled"), runs=tmp_path / "other", prove=False)
    assert resumed.read_bytes() == straight.adapter_file.read_bytes()


def test_pictures_with_one_caption_have_no_shuffled_control(tiny_base: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos")
    for sidecar in photos.glob("*.txt"):
        sidecar.write_text("sks dog\n")
    spec = quick_spec(tiny_base, photos)
    run = read_finished_run(train_adapter(spec, runs=tmp_path, prove=False).run_folder)
    with pytest.raises(DataError, match="same caption"):
        train_control(run, "shuffled")


def test_a_fully_trained_base_gets_no_trained_controls(run: FinishedRun) -> None:
    full = with_changes(run.spec, {"adapter.method": "full"})
    whole = FinishedRun(**{**vars(run), "spec": full})
    with pytest.raises(ConfigError, match="as large as the base"):
        train_control(whole, "rate_zero")
