"""A run that was stopped and resumed is the run that was not, for everything that a run carries along."""

from pathlib import Path
from typing import Any

import pytest

from detour.adapter_files import read_adapter
from detour.adapters.delta import largest_relative_difference
from detour.errors import Interrupted
from detour.specs import RunSpec
from detour.verbs.train import run as recipe
from detour.verbs.train.run import train_adapter
from tests.verbs.photos import make_photos, quick_spec
from tests.verbs.test_train_adapter import files, metrics, stop_after

ROWS: dict[str, dict[str, Any]] = {
    "adamw8bit": {"train__optim__name": "adamw8bit"},
    "adafactor": {"train__optim__name": "adafactor"},
    "prodigy": {"train__optim__name": "prodigy", "train__optim__lr": "auto"},
    "lion": {"train__optim__name": "lion"},
    "schedule_free": {"train__optim__name": "schedule_free"},
    "ema": {"train__ema": 0.9, "train__schedule__kind": "cosine_restarts"},
    "nf4": {"base__quantize": "nf4", "train__gradient_checkpointing": True, "adapter__dropout": 0.2},
    "int8": {"base__quantize": "int8", "base__dtype": "bf16"},
    "checkpointing": {"train__gradient_checkpointing": True, "adapter__dropout": 0.2},
    "fp16": {"base__dtype": "fp16", "train__loss__timesteps": "logit_normal"},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos", 5)


NEEDS = {"adamw8bit": "bitsandbytes", "nf4": "bitsandbytes", "int8": "torchao"}

QUICK = ("schedule_free", "ema", "fp16")
"""The state of every optimizer is put back exactly in tests/training/test_library_optim.py; these carry more."""


@pytest.mark.parametrize(
    "row", [row if row in QUICK else pytest.param(row, marks=pytest.mark.slow) for row in ROWS]
)
def test_resume_is_bit_exact(
    row: str, tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if row in NEEDS:
        pytest.importorskip(NEEDS[row], reason="large; an extra (detour-lora[quant])")
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)

    def spec() -> RunSpec:
        return quick_spec(
            tiny_base,
            photos,
            train__steps=5,
            data__holdout=0.2,
            validate__every=2,
            validate__ship="lowest_loss",
            checkpoint__every=0,
            sample__every=4,
            sample__count=1,
            **ROWS[row],
        )

    straight = train_adapter(spec(), runs=tmp_path / "straight").run_folder
    with pytest.raises(Interrupted):
        train_adapter(spec(), runs=tmp_path / "broken", progress=stop_after(3))
    broken = tmp_path / "broken" / "quick"
    early = read_adapter(broken / "quick.safetensors")
    train_adapter(None, resume=broken)
    assert files(straight, "*.safetensors") == files(broken, "*.safetensors")
    assert files(straight, "samples/**/*.png") == files(broken, "samples/**/*.png")
    assert metrics(straight) == metrics(broken)
    assert all(layer.up.any() for layer in early.layers.values())  # type: ignore[attr-defined]
    if row == "ema":
        assert largest_relative_difference(early, read_adapter(straight / "quick.safetensors")) > 0
