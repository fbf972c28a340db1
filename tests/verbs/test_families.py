"""Each family on its own architecture: it trains, saves, reloads, changes the picture and resumes."""

from pathlib import Path

import pytest

from detour.adapter_files import read_adapter
from detour.errors import Interrupted
from detour.specs import RunSpec
from detour.verbs.train import run as recipe
from detour.verbs.train.run import TrainResult, train_adapter
from tests.true_layout import LAYOUTS, Layout, make_true_layout
from tests.verbs.photos import make_photos, quick_spec
from tests.verbs.test_train_adapter import metrics, stop_after


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def spec(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    place = tmp_path_factory.mktemp(layout)
    base = make_true_layout(place / "base", layout)
    photos = make_photos(place / "photos", 4)
    flags = {
        "data.holdout": 0.25,
        "train.steps": 4,
        "train.batch": 1,
        "adapter.targets": "attn",
        "adapter.alpha": 6,
    }
    flags |= {"train.optim.lr": 0.02, "evaluate.steps": 2}
    return quick_spec(base, photos, **flags)


@pytest.fixture(scope="module")
def straight(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train_adapter(spec, runs=tmp_path_factory.mktemp("straight"))


def test_every_layer_learns_and_the_base_stays_as_it_was(layout: Layout, straight: TrainResult) -> None:
    assert straight.proof is not None
    gradients = straight.proof.gradients
    assert gradients is not None
    assert gradients.base_unchanged
    assert gradients.base_tensors_with_gradient == 0
    assert gradients.adapter_tensors_with_gradient == gradients.adapter_tensors
    assert gradients.dead_by_structure == ()
    layers = read_adapter(straight.adapter_file).layers
    assert len(layers) == 8 * (
        70 if layout == "sdxl" else 16
    )  # attn1 and attn2, q, k, v and out, of every block
    assert all(layer.up.any() for layer in layers.values())  # type: ignore[attr-defined]


def test_the_file_gives_the_trained_picture_and_merges_into_the_base(straight: TrainResult) -> None:
    proof = straight.proof
    assert proof is not None
    assert proof.pixels.mean_abs_diff > 0.1
    assert proof.reload.max_abs_diff is not None
    assert proof.reload.max_abs_diff <= 1
    assert proof.merge.max_abs_diff <= 1


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    spec: RunSpec, straight: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the small SD 1.x, SD 2.x and SDXL of test_text_encoder_runs.py it is held by `make test`."""
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    with pytest.raises(Interrupted):
        train_adapter(spec, runs=tmp_path, progress=stop_after(3))
    resumed = train_adapter(None, resume=tmp_path / "quick")
    assert resumed.adapter_file.read_bytes() == straight.adapter_file.read_bytes()
    assert metrics(resumed.run_folder) == metrics(straight.run_folder)
