"""Every method and saver of memory on SD 3 and Flux: it learns, its file gives its picture; what fails is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detour.adapter_files import read_adapter
from detour.errors import ConfigError
from detour.verbs.train.run import train_adapter
from tests.tiny_flow import make_tiny_flux, make_tiny_sd3
from tests.verbs.photos import make_photos, quick_spec
from tests.verbs.test_train_adapter import metrics

METHODS: dict[str, dict[str, Any]] = {
    "dora": {"adapter__method": "dora"},
    "loha": {"adapter__method": "loha"},
    "lokr": {"adapter__method": "lokr"},
    "pissa": {"adapter__init": "pissa"},
    "rslora": {"adapter__rslora": True},
    "lora+": {"train__optim__up_rate": 16.0},
    "full": {"adapter__method": "full", "adapter__targets": "auto", "train__optim__lr": 1e-3},
    "text encoders": {"adapter__text_encoder__rank": 2},
    "ema": {"train__ema": 0.5},
    "checkpointing": {"train__gradient_checkpointing": True},
    "mode law": {"train__loss__timesteps": "mode", "train__loss__weighting": "cosmap"},
    "huber and perturbation": {"train__loss__distance": "huber", "train__loss__input_perturbation": 0.1},
    "every layer": {"adapter__targets": "all"},
}
FLUX_TOO = ("dora", "loha", "lokr", "pissa", "full", "checkpointing", "text encoders", "every layer")
"""Rates, averages and losses do not look at the family; factors, weights and passes do."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("bases")
    return {"sd3": make_tiny_sd3(place / "sd3"), "flux": make_tiny_flux(place / "flux")}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos", 4)


def spec_of(base: Path, photos: Path, **flags: Any) -> Any:
    plain: dict[str, Any] = {
        "data__resolution": 64,
        "data__holdout": 0.25,
        "adapter__targets": "attn",
        "train__steps": 4,
        "train__batch": 1,
        "train__optim__lr": 0.02,
        "validate__every": 4,
        "checkpoint__every": 0,
    }
    return quick_spec(base, photos, **{**plain, **flags})


@pytest.mark.parametrize(
    ("family", "method"), [("sd3", method) for method in METHODS] + [("flux", method) for method in FLUX_TOO]
)
def test_a_run_learns_and_is_proved_on_the_file_that_it_leaves(
    bases: dict[str, Path], photos: Path, tmp_path: Path, family: str, method: str
) -> None:
    spec = spec_of(bases[family], photos, **METHODS[method])
    result = train_adapter(spec, runs=tmp_path)
    assert result.proof is not None
    gradients = result.proof.gradients
    assert gradients is not None
    assert gradients.base_unchanged
    assert gradients.adapter_tensors_with_gradient == gradients.adapter_tensors > 0
    assert result.proof.pixels.mean_abs_diff > 0.05
    if method != "full":
        assert result.proof.reload.max_abs_diff is not None
        assert result.proof.reload.max_abs_diff <= 1
        assert result.proof.merge.max_abs_diff is not None
        assert result.proof.merge.max_abs_diff <= 1
        parts = read_adapter(result.adapter_file).parts
        assert ("text_encoder" in parts) == (method == "text encoders")
        unjoined = method in (
            "dora",
            "lokr",
        )  # q, k and v of these are no one matrix, as kohya's names would have it
        assert any("lycoris_" in note for note in result.notes) == unjoined
    losses = [line["val_loss"] for line in metrics(result.run_folder) if "val_loss" in line]
    assert losses[-1] != losses[0]


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_checkpointing_changes_no_byte(
    bases: dict[str, Path], photos: Path, tmp_path: Path, family: str
) -> None:
    files = [
        train_adapter(
            spec_of(bases[family], photos, train__steps=2, train__gradient_checkpointing=saves),
            runs=tmp_path / str(saves),
            prove=False,
        ).adapter_file
        for saves in (False, True)
    ]
    plain, saving = (read_adapter(path).layers for path in files)
    assert plain.keys() == saving.keys()
    for key, layer in plain.items():
        for name, tensor in layer.tensors.items():
            assert torch.equal(tensor, saving[key].tensors[name]), (key, name)


@pytest.mark.parametrize(("family", "num_layers"), [("sd3", 14), ("flux", 22)])
def test_buckets_masks_and_class_pictures_go_together(
    bases: dict[str, Path], tmp_path: Path, family: str, num_layers: int
) -> None:
    photos = make_photos(tmp_path / "photos", 4)
    for index in range(4):
        shown = np.zeros((70, 64), dtype=np.uint8)
        shown[:32] = 255
        Image.fromarray(shown).save(photos / f"{index}.mask.png")
    flags: dict[str, Any] = {
        "goal": "subject",
        "data__buckets": True,
        "data__trigger": "sks",
        "prior__class_prompts": ("a robot",),
        "prior__pictures": 2,
        "prior__steps": 1,
        "prior__folder": str(tmp_path / "class"),
        "train__steps": 2,
    }
    files = [
        train_adapter(
            spec_of(bases[family], photos, data__mask=mask, **flags), runs=tmp_path / mask, prove=False
        ).adapter_file
        for mask in ("file", "off")
    ]
    assert len(list((tmp_path / "class").rglob("*.png"))) == 2
    masked, plain = (read_adapter(path).layers for path in files)
    assert len(masked) == num_layers
    assert any(not torch.equal(masked[key].delta(), plain[key].delta()) for key in plain)


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_transformer_trains(
    bases: dict[str, Path],
    photos: Path,
    tmp_path: Path,
    kind: str,
    family: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip({"nf4": "bitsandbytes", "int8": "torchao"}[kind])
    monkeypatch.setattr("detour.bases.quantize.SMALLEST_WEIGHTS", 256)
    result = train_adapter(
        spec_of(bases[family], photos, base__quantize=kind, train__steps=2), runs=tmp_path, prove=False
    )
    layers = read_adapter(result.adapter_file).layers
    assert all(layer.up.any() for layer in layers.values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_quantised_transformer_is_refused_by_name_where_it_cannot_be(
    bases: dict[str, Path],
    photos: Path,
    tmp_path: Path,
    family: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the library; and, with or without it, under methods that read or rewrite the frozen weights."""
    for flags in (
        {"adapter__method": "dora"},
        {"adapter__method": "loha"},
        {"adapter__method": "full"},
        {"adapter__init": "pissa"},
    ):
        with pytest.raises(
            ConfigError, match=f"base.quantize '{kind}' with method .*frozen weights as they are"
        ):
            train_adapter(spec_of(bases[family], photos, base__quantize=kind, **flags), runs=tmp_path)
    monkeypatch.setattr("detour.bases.quantize.importlib.util.find_spec", lambda name: None)
    package = {"nf4": "bitsandbytes", "int8": "torchao"}[kind]
    with pytest.raises(ConfigError, match=rf"'{package}', which is not installed.*pip install"):
        train_adapter(spec_of(bases[family], photos, base__quantize=kind), runs=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_t5_takes_no_adapter_and_that_is_said(bases: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    spec = spec_of(
        bases["sd3"], photos, adapter__text_encoder__rank=2, adapter__text_encoder__targets="linear"
    )
    result = train_adapter(spec, runs=tmp_path, prove=False)
    assert set(read_adapter(result.adapter_file).parts) == {"transformer", "text_encoder", "text_encoder_2"}
    assert any("T5" in note for note in result.notes)


def test_new_words_are_refused_where_a_t5_reads_them(
    bases: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    spec = spec_of(bases["sd3"], photos, adapter__tokens__words=("<bob>",), adapter__tokens__init=("fish",))
    with pytest.raises(ConfigError, match=r"new words.*T5"):
        train_adapter(spec, runs=tmp_path)


@pytest.mark.parametrize(
    "flags", [{"data__resolution": 272}, {"data__resolution": 256, "data__buckets": True}]
)
def test_pictures_beyond_the_table_of_positions_are_refused_before_training(
    bases: dict[str, Path], tmp_path: Path, flags: dict[str, Any]
) -> None:
    """The table of this base reaches 256 px; a bucket of a wide picture has a longer side than the resolution."""
    photos = make_photos(tmp_path / "photos", 4)
    for path in photos.glob("*.png"):
        with Image.open(path) as picture:
            wide = picture.resize((800, 400))
        wide.save(path)
    with pytest.raises(ConfigError, match=r"the position table of base .* ends at 256 px"):
        train_adapter(spec_of(bases["sd3"], photos, **flags), runs=tmp_path / "runs")
    assert not list((tmp_path / "runs").rglob("*.safetensors"))
