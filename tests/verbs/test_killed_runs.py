"""A run that was killed and gone on with is the run that was not: whenever it was killed, whatever its settings.

Here a kill is an exception that nothing catches, at every stage of a run; `test_killed_processes.py` has real ones.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detour.errors import ConfigError, RunError
from detour.training.run_folder import read_state, write_state
from detour.verbs.progress import Progress
from detour.verbs.train import run as recipe
from detour.verbs.train.run import train_adapter
from tests.verbs.killed_runs import SMALL, VARIANTS, differences, metrics
from tests.verbs.photos import make_photos, quick_spec


class Killed(BaseException):
    """Nothing of ours catches it; what it leaves is made to look as a kill leaves it."""


def killed_when(stage: str, done: int = 0) -> Callable[[Progress], None]:
    def progress(report: Progress) -> None:
        if report.stage == stage and report.done >= done:
            raise Killed

    return progress


def die(folder: Path, **start: Any) -> None:
    """Run until killed; ``run.json`` goes on saying what it said."""
    with pytest.raises(Killed):
        train_adapter(**start)
    if read_state(folder)["state"] == "failed":
        write_state(folder, "running", {})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_killed_twice_is_the_straight_run(
    tiny_base: Path,
    photos: Path,
    tmp_path: Path,
    variant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed after step 3, before the checkpoint of step 4 and after the samples of step 3; then at step 5."""
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    folder = tmp_path / "quick"
    spec = quick_spec(tiny_base, photos, **{**SMALL, **VARIANTS[variant]})
    straight = train_adapter(spec, runs=tmp_path / "straight").run_folder
    die(folder, spec=spec, runs=tmp_path, progress=killed_when("training", 3))
    last = metrics(straight)[-1]["step"]
    if last > 5:
        die(folder, spec=None, resume=folder, progress=killed_when("training", 5))
    train_adapter(None, resume=folder)
    assert differences(straight, folder) == []


def test_a_run_killed_at_every_stage_goes_on(tiny_base: Path, photos: Path, tmp_path: Path) -> None:
    """The same run dies while it encodes, proves its gradients, draws and scores, and is the straight run."""
    spec = quick_spec(tiny_base, photos, train__steps=2)
    straight = train_adapter(spec, runs=tmp_path / "straight").run_folder
    folder = tmp_path / "quick"
    die(folder, spec=spec, runs=tmp_path, progress=killed_when("encoding pictures"))
    for stage in ("proving gradients", "drawing with the trained model", "scoring"):
        (folder / ".run.json.a1b2c3d4.part").write_text("half")
        die(folder, spec=None, resume=folder, progress=killed_when(stage))
    result = train_adapter(None, resume=folder)
    assert differences(straight, folder) == []
    assert result.proof is not None
    assert (result.steps, result.name) == (2, "quick")
    with pytest.raises(RunError, match="is finished"):
        train_adapter(None, resume=folder)


@pytest.mark.usefixtures("unproved")
def test_a_run_that_begins_again_refuses_other_pictures(tiny_base: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos")
    folder = tmp_path / "quick"
    spec = quick_spec(tiny_base, photos)
    die(folder, spec=spec, runs=tmp_path, progress=killed_when("encoding pictures"))
    (photos / "4.txt").write_text("another caption")
    with pytest.raises(RunError, match=r"not those of the run: 4\.png \(changed\)"):
        train_adapter(None, resume=folder)


@pytest.mark.usefixtures("unproved")
def test_patience_ends_the_run_and_ships_the_best(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([0.9, 0.5, 0.7, 0.6, 0.1])
    monkeypatch.setattr(
        "detour.training.validation.FixedValidation.loss", lambda self, denoiser: next(losses)
    )
    spec = quick_spec(
        tiny_base, photos, validate__patience=2, validate__every=1, checkpoint__every=0, checkpoint__keep=1
    )
    result = train_adapter(spec, runs=tmp_path)
    assert (result.steps, result.best_step) == (3, 1)
    assert any("Stopped after step 3 of 6" in note for note in result.notes)
    kept = sorted(path.name for path in (result.run_folder / "checkpoints").glob("step-*"))
    assert kept == ["step-000001", "step-000003"]
    assert read_state(result.run_folder)["step"] == 3


def test_patience_without_validation_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 4)
    with pytest.raises(ConfigError, match=r"patience is 2, but nothing is validated"):
        train_adapter(quick_spec(tiny_base, photos, validate__patience=2), runs=tmp_path)


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the proof, which has tests of its own."""
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
