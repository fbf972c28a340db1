"""Text encoders that train beside the UNet, on each family: proved, resumed, saved, read back, drawn alike."""

import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from detour.adapter_files import read_adapter, write_adapter
from detour.adapters.adapter import part_of
from detour.adapters.delta import largest_relative_difference
from detour.bases.base import open_base
from detour.errors import Interrupted
from detour.specs import RunSpec
from detour.verbs.train import run as recipe
from detour.verbs.train.run import TrainResult, train_adapter
from tests.tiny_base import make_tiny_base, make_tiny_sdxl
from tests.verbs.photos import make_photos, quick_spec
from tests.verbs.test_train_adapter import metrics, stop_after

RATE, TEXT_RATE = 0.01, 0.25
PREFIXES = {"sd1": ("lora_te_",), "sd2": ("lora_te_",), "sdxl": ("lora_te1_", "lora_te2_")}


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


TWO_ENCODERS = pytest.mark.parametrize("family", ["sdxl"], indirect=True, scope="module")
"""For what does not depend on the family, on the one with most parts."""


@pytest.fixture(scope="module")
def spec(family: str, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    place = tmp_path_factory.mktemp(family)
    if family == "sdxl":
        base = make_tiny_sdxl(place / "base")
    else:
        base = make_tiny_base(place / "base", linear_projection=family == "sd2")
    flags = {
        "adapter.text_encoder.rank": 3,
        "adapter.text_encoder.targets": "kohya",
        "adapter.text_encoder.rate": TEXT_RATE,
        "train.optim.lr": RATE,
        "train.schedule.kind": "constant",
        "train.schedule.warmup": 0,
        "train.loss.caption_dropout": 0.4,
        "train.steps": 4,
        "data.holdout": 0.25,
        "evaluate.steps": 2,
    }
    return quick_spec(base, make_photos(place / "photos", 4), **flags)


@pytest.fixture(scope="module")
def straight(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train_adapter(spec, runs=tmp_path_factory.mktemp("straight"))


def test_every_layer_of_every_part_learns_and_no_base_changes(family: str, straight: TrainResult) -> None:
    assert straight.proof is not None
    gradients = straight.proof.gradients
    assert gradients is not None
    assert gradients.base_unchanged
    assert gradients.base_tensors_with_gradient == 0
    assert gradients.adapter_tensors_with_gradient == gradients.adapter_tensors
    adapter = read_adapter(straight.adapter_file)
    parts = ("unet", "text_encoder", "text_encoder_2") if family == "sdxl" else ("unet", "text_encoder")
    assert adapter.parts == parts
    assert all(layer.tensors["up"].any() for layer in adapter.layers.values())
    assert {layer.rank for key, layer in adapter.layers.items() if part_of(key) != "unet"} == {3}
    last_of_first = "text_encoder.encoder.layers.2."  # nothing reads it: the UNet takes the one before
    assert any(key.startswith(last_of_first) for key in gradients.dead_by_structure) == (family == "sdxl")
    assert not any(key.startswith(last_of_first) for key in adapter.layers if family == "sdxl")


def test_the_file_is_named_as_other_tools_expect(family: str, straight: TrainResult) -> None:
    with safe_open(straight.adapter_file, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith("lora_te")]  # noqa: SIM118
    assert {name.partition("text_model_")[0] for name in names} == set(PREFIXES[family])
    assert any(name.endswith("encoder_layers_0_self_attn_q_proj.lora_down.weight") for name in names)


def test_the_file_draws_what_the_trained_model_drew(straight: TrainResult) -> None:
    proof = straight.proof
    assert proof is not None
    assert proof.pixels.mean_abs_diff > 0.1
    assert proof.reload.max_abs_diff is not None
    assert proof.reload.max_abs_diff <= 1
    assert proof.merge.max_abs_diff is not None
    assert proof.merge.max_abs_diff <= 1


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    spec: RunSpec, straight: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    with pytest.raises(Interrupted):
        train_adapter(spec, runs=tmp_path, progress=stop_after(3))
    resumed = train_adapter(None, resume=tmp_path / "quick")
    assert resumed.adapter_file.read_bytes() == straight.adapter_file.read_bytes()
    assert metrics(resumed.run_folder) == metrics(straight.run_folder)


def test_all_formats_hold_all_parts(straight: TrainResult, spec: RunSpec, tmp_path: Path) -> None:
    adapter, family = read_adapter(straight.adapter_file), open_base(spec.base.name).family
    for file_format in ("diffusers", "peft"):
        place = write_adapter(tmp_path / file_format, adapter, file_format=file_format, family=family)
        assert largest_relative_difference(adapter, read_adapter(place)) < 1e-6


@TWO_ENCODERS
def test_the_text_encoders_have_a_rate_of_their_own(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first update of Adam moves every weight by its rate, whatever the gradient."""
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    one_step = spec.model_copy(update={"train": spec.train.model_copy(update={"steps": 1})})
    layers = read_adapter(train_adapter(one_step, runs=tmp_path).adapter_file).layers
    for key, layer in layers.items():
        wanted = RATE if part_of(key) == "unet" else RATE * TEXT_RATE
        largest = float(layer.tensors["up"].abs().max())
        assert math.isclose(largest, wanted, rel_tol=0.1), key


@TWO_ENCODERS
def test_validation_hears_the_text_encoders(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the UNet's part of the rate gone, what is left to move the validation loss is the text."""
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    text = spec.adapter.text_encoder.model_copy(update={"rate": 1e6})
    quiet = spec.model_copy(
        update={
            "adapter": spec.adapter.model_copy(update={"text_encoder": text}),
            "train": spec.train.model_copy(
                update={"optim": spec.train.optim.model_copy(update={"lr": 1e-8})}
            ),
        }
    )
    folder = train_adapter(quiet, runs=tmp_path).run_folder
    losses = [line["val_loss"] for line in metrics(folder) if "val_loss" in line]
    assert abs(losses[-1] - losses[0]) > 1e-6
    assert torch.isfinite(torch.tensor(losses)).all()


@pytest.mark.parametrize("method", [{"method": "dora"}, {"method": "loha"}, {"init": "olora"}])
def test_other_methods_train_the_text_encoders_too(
    spec: RunSpec, method: dict[str, str], tmp_path: Path, family: str
) -> None:
    if family != "sd1":
        pytest.skip("the methods know no families")
    adapter = spec.adapter.model_copy(update=method)
    proof = train_adapter(spec.model_copy(update={"adapter": adapter}), runs=tmp_path).proof
    assert proof is not None
    assert proof.gradients is not None
    assert proof.gradients.adapter_tensors_with_gradient == proof.gradients.adapter_tensors
    assert proof.reload.max_abs_diff is not None
    assert proof.reload.max_abs_diff <= 1
