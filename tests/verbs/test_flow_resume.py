"""Runs on SD 3 and Flux that are killed, or trained by several processes, leave what one straight run leaves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from detour.verbs.train import run as recipe
from detour.verbs.train.run import train_adapter
from tests.tiny_flow import make_tiny_flux, make_tiny_sd3
from tests.verbs.killed_runs import SMALL, differences, metrics
from tests.verbs.photos import make_photos, quick_flags, quick_spec
from tests.verbs.test_killed_processes import kill_runs, report
from tests.verbs.test_killed_runs import die, killed_when
from tests.verbs.test_several_processes import trained_by_one_and_by_two

FLOW: Mapping[str, Any] = {
    "data__resolution": 64,
    "adapter__targets": "attn",
    "train__optim__lr": 0.02,
    "train__batch": 2,
}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "averaged, told less": {"train__ema": 0.9, "train__loss__caption_dropout": 0.3, "train__grad_accum": 2},
    "text encoders": {"adapter__text_encoder__rank": 2, "train__gradient_checkpointing": True},
}
"""What adds to the state of a run, on the processes and conditioning of a flow."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("bases")
    return {"sd3": make_tiny_sd3(place / "sd3"), "flux": make_tiny_flux(place / "flux")}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        ("sd3", "averaged, told less"),
        pytest.param("flux", "text encoders", marks=pytest.mark.slow),
        pytest.param("flux", "plain", marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_twice_is_the_straight_run(
    bases: dict[str, Path],
    photos: Path,
    tmp_path: Path,
    family: str,
    variant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed after step 3, before the checkpoint of step 4 and after the samples of step 3; then at step 5."""
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    spec = quick_spec(bases[family], photos, **{**SMALL, **FLOW, **VARIANTS[variant]})
    straight = train_adapter(spec, runs=tmp_path / "straight").run_folder
    folder = tmp_path / "quick"
    die(folder, spec=spec, runs=tmp_path, progress=killed_when("training", 3))
    die(folder, spec=None, resume=folder, progress=killed_when("training", 5))
    train_adapter(None, resume=folder)
    assert differences(straight, folder) == []
    assert len(metrics(folder)) > 7


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_runs_killed_at_random_moments_are_the_straight_run(
    bases: dict[str, Path], photos: Path, tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By SIGKILL, at a moment in each third of the run."""
    own = {key.replace("__", "."): value for key, value in FLOW.items()}
    flags = quick_flags(bases[family], photos) | {"sample.every": 3, "train.steps": 7} | own
    died = kill_runs(tmp_path, flags, 3, seed=1)
    report(died, capsys)
    assert died["not killed in time"] < 3


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_two_processes_give_the_adapter_of_one(
    bases: dict[str, Path], photos: Path, tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {key.replace("__", "."): value for key, value in FLOW.items()}
    flags = quick_flags(bases[family], photos) | own | {"train.steps": 6, "train.batch": 4}
    one, two = trained_by_one_and_by_two(flags, tmp_path, family, capsys)
    losses = [[line["loss"] for line in metrics(folder) if "loss" in line] for folder in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(losses[0]) == 6
