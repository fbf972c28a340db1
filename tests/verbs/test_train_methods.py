"""Every method as a whole run: proved on its file, resumed bit for bit, at its own rate."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from detour.adapter_files import read_adapter
from detour.adapter_files.kohya import DORA_ELSEWHERE
from detour.bases.base import open_base
from detour.errors import ConfigError, Interrupted
from detour.verbs.train import run as recipe
from detour.verbs.train.run import train_adapter
from detour.verbs.train.run_list import list_runs
from tests.tiny_base import make_tiny_sd2, make_tiny_sdxl
from tests.verbs.photos import make_photos, quick_spec
from tests.verbs.test_train_adapter import files, metrics, stop_after

METHODS: dict[str, dict[str, Any]] = {
    "dora": {"adapter__method": "dora", "adapter__targets": "attn,conv_in,conv1"},
    "loha": {"adapter__method": "loha", "adapter__targets": "attn,conv_in,conv1"},
    "lokr": {"adapter__method": "lokr", "adapter__targets": "attn,conv_in,conv1"},
    "pissa": {"adapter__init": "pissa"},
    "olora": {"adapter__init": "olora"},
    "rslora": {"adapter__rslora": True, "adapter__alpha": 3.0},
    "lora+": {"train__optim__up_rate": 16.0},
}


def some(*fast: str) -> pytest.MarkDecorator:
    """Every method, those that are not named only among the slow tests."""
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        "method", [name if name in fast else pytest.param(name, marks=slow) for name in METHODS]
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos")


@some("dora", "pissa")
def test_a_run_is_proved_on_the_file_that_it_leaves(
    tiny_base: Path, photos: Path, tmp_path: Path, method: str
) -> None:
    spec = quick_spec(tiny_base, photos, train__optim__lr=1e-2, **METHODS[method])
    result = train_adapter(spec, runs=tmp_path / "runs")
    assert result.proof is not None
    assert result.proof.gradients is not None
    assert result.proof.gradients.base_unchanged
    assert result.proof.gradients.adapter_tensors_with_gradient == result.proof.gradients.adapter_tensors > 0
    assert result.proof.reload.max_abs_diff is not None
    assert result.proof.reload.max_abs_diff <= 1
    assert result.proof.merge.max_abs_diff is not None
    assert result.proof.merge.max_abs_diff <= 1
    assert result.proof.pixels.mean_abs_diff > 0.2
    losses = [line["val_loss"] for line in metrics(result.run_folder) if "val_loss" in line]
    assert losses[-1] < losses[0]


@some("lokr", "olora", "lora+")
def test_resume_is_bit_exact(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    flags = {"train__steps": 3, "checkpoint__every": 0, **METHODS[method]}
    straight = train_adapter(quick_spec(tiny_base, photos, **flags), runs=tmp_path / "straight").run_folder
    with pytest.raises(Interrupted):
        train_adapter(
            quick_spec(tiny_base, photos, **flags), runs=tmp_path / "broken", progress=stop_after(1)
        )
    broken = tmp_path / "broken" / "quick"
    train_adapter(None, resume=broken)
    assert files(straight, "*.safetensors") == files(broken, "*.safetensors")
    assert metrics(straight) == metrics(broken)


def test_files_say_what_they_are(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)

    def trained(method: str) -> Any:
        spec = quick_spec(tiny_base, photos, train__steps=1, **METHODS[method])
        result = train_adapter(spec, runs=tmp_path / method)
        # Written in kohya's format, a DoRA is drawn otherwise by other programs: said where it is made.
        assert (DORA_ELSEWHERE in result.notes) == (method == "dora")
        return read_adapter(result.adapter_file)

    stabilised = trained("rslora")
    assert all(layer.alpha == pytest.approx(3.0 * 2**0.5) for layer in stabilised.layers.values())
    assert stabilised.metadata["detour.rslora"] == "folded into alpha"
    doubled = trained("pissa")
    assert doubled.ranks == (4,)
    assert "twice the trained rank" in doubled.metadata["detour.init"]
    dora = trained("dora")
    assert dict(dora.kinds) == {"dora": len(dora.layers)}
    assert json.loads(dora.metadata["ss_network_args"])["dora_wd"] == "True"


def test_convolutions_are_refused_where_the_start_is_taken_from_linear_layers(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    spec = quick_spec(tiny_base, photos, adapter__init="olora", adapter__targets="attn-proj")
    with pytest.raises(ConfigError, match=r"olora starts from factors of Linear layers.*Set --targets"):
        train_adapter(spec, runs=tmp_path)
    spec = quick_spec(tiny_base, photos, adapter__init="pissa", adapter__rank=33)
    with pytest.raises(ConfigError, match=r"rank is 33, but pissa can take only 32 .*Set --rank 32"):
        train_adapter(spec, runs=tmp_path)


def test_a_run_tells_that_its_method_is_off_the_fused_path(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)

    def told(method: str) -> tuple[str, ...]:
        spec = quick_spec(tiny_base, photos, train__steps=1, **METHODS[method])
        return train_adapter(spec, runs=tmp_path / method).notes

    assert any("Method loha trains on its own layers" in note for note in told("loha"))
    assert not any("own layers" in note for note in told("rslora"))


FULL: dict[str, Any] = {"adapter__method": "full", "train__optim__lr": 3e-3}


@pytest.mark.parametrize("targets", ["all", "cross-attn"])
def test_full_fine_tuning_changes_the_chosen_weights_alone_and_leaves_a_whole_base(
    tiny_base: Path, photos: Path, tmp_path: Path, targets: str
) -> None:
    spec = quick_spec(tiny_base, photos, **FULL, adapter__targets=targets)
    result = train_adapter(spec, runs=tmp_path / "runs")
    assert result.adapter_file == result.run_folder / "quick-full"
    assert not list(result.run_folder.glob("*.safetensors"))
    before, after = (
        open_base(str(place)).load_network().state_dict() for place in (tiny_base, result.adapter_file)
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert list(before) == list(after)
    if targets == "all":
        assert len(changed) > 0.95 * len(before)
    else:
        assert changed == {name for name in before if ".attn2." in name}
    proof = result.proof
    assert proof is not None
    assert proof.gradients is not None
    assert proof.gradients.base_unchanged
    assert proof.gradients.base_tensors_with_gradient == 0
    assert proof.gradients.adapter_tensors >= len(changed)
    assert (proof.reload.max_abs_diff, proof.merge.max_abs_diff) == (0, None)
    assert proof.pixels.mean_abs_diff > 0.2
    assert "quick-full" in (result.run_folder / "README.md").read_text()
    assert [run.method for run in list_runs(tmp_path / "runs")] == ["full"]


def test_full_fine_tuning_resumes_bit_for_bit_and_force_replaces_its_folder(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    spec = quick_spec(tiny_base, photos, **FULL, train__steps=3, checkpoint__every=0)
    straight = train_adapter(spec, runs=tmp_path / "straight").run_folder
    with pytest.raises(Interrupted):
        train_adapter(spec, runs=tmp_path / "broken", progress=stop_after(1))
    broken = tmp_path / "broken" / "quick"
    train_adapter(None, resume=broken)
    assert len(files(straight, "quick-full/**/*.safetensors")) == 3
    assert files(straight, "quick-full/**/*.*") == files(broken, "quick-full/**/*.*")
    assert metrics(straight) == metrics(broken)
    train_adapter(quick_spec(tiny_base, photos, train__steps=1), runs=tmp_path / "broken", force=True)
    assert not (broken / "quick-full").exists()


TEXT: dict[str, Any] = {"adapter__text_encoder__rank": 2}
OTHERS: dict[str, dict[str, Any]] = {
    **METHODS,
    "lora": {},
    "full": FULL,
    "dora with text": {"adapter__method": "dora", "adapter__targets": "attn", **TEXT},
    "lokr with text": {"adapter__method": "lokr", "adapter__targets": "attn", **TEXT},
    "pissa with text": {"adapter__init": "pissa", **TEXT},
}


@pytest.fixture(scope="module", params=["sd2", "sdxl"])
def other_base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make = {"sd2": make_tiny_sd2, "sdxl": make_tiny_sdxl}[request.param]
    return make(tmp_path_factory.mktemp("others") / request.param)


@pytest.mark.slow
@pytest.mark.parametrize("method", OTHERS)
def test_every_method_is_proved_on_the_other_families(
    other_base: Path, photos: Path, tmp_path: Path, method: str
) -> None:
    flags = {"train__optim__lr": 1e-2, "train__steps": 2, "validate__every": 0, **OTHERS[method]}
    if "adapter__targets" in flags:
        flags["adapter__targets"] = "attn,conv_in,conv1"
    proof = train_adapter(quick_spec(other_base, photos, **flags), runs=tmp_path).proof
    assert proof is not None
    assert proof.gradients is not None
    assert proof.gradients.base_unchanged
    assert proof.gradients.adapter_tensors_with_gradient == proof.gradients.adapter_tensors > 0
    assert proof.pixels.mean_abs_diff > 0.01
    assert (proof.reload.max_abs_diff or 0) <= 1
    assert (proof.merge.max_abs_diff or 0) <= 1
