"""The proof is drawn in fp32 where the memory is there for it, and says so where it is not."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from detour.bases.base import open_base
from detour.evaluation.proof import read_proof
from detour.verbs.train.proof_memory import proof_footprint, with_proof_dtype
from detour.verbs.train.run import train_adapter
from tests.verbs.photos import make_photos, quick_spec


def with_memory(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    found = SimpleNamespace(total_memory=num_bytes)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: found)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)


@pytest.mark.parametrize(
    ("memory", "dtype"), [(1 << 40, "auto"), (1 << 20, "fp16")], ids=["large card", "small card"]
)
def test_a_card_that_is_too_small_for_fp32_draws_the_proof_as_it_trained(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, memory: int, dtype: str
) -> None:
    with_memory(monkeypatch, memory)
    base, spec = open_base(str(tiny_base)), quick_spec(tiny_base, Path("none"))
    chosen, notes = with_proof_dtype(spec, base, "cuda")
    assert chosen.evaluate.dtype == dtype
    assert bool(notes) == (dtype != "auto")


def test_what_the_user_asks_for_and_a_cpu_are_left_alone(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(monkeypatch, 1)
    base = open_base(str(tiny_base))
    asked = quick_spec(tiny_base, Path("none"), evaluate__dtype="fp32")
    assert with_proof_dtype(asked, base, "cuda") == (asked, ())
    plain = quick_spec(tiny_base, Path("none"))
    assert with_proof_dtype(plain, base, "cpu") == (plain, ())


def test_half_precision_halves_what_the_proof_keeps(tiny_base: Path) -> None:
    base, spec = open_base(str(tiny_base)), quick_spec(tiny_base, Path("none"), train__batch=2)
    whole, half = (proof_footprint(base, spec, dtype).parts for dtype in ("fp32", "bf16"))
    assert whole["weights"] == 2 * half["weights"]
    assert whole["activations"] > half["activations"]


@pytest.mark.parametrize("trained_in", ["fp32", "bf16"])
def test_a_proof_in_half_precision_reloads_to_the_same_pictures(
    tiny_base: Path, tmp_path: Path, trained_in: str
) -> None:
    photos = make_photos(tmp_path / "photos")
    spec = quick_spec(
        tiny_base, photos, evaluate__dtype="bf16", base__dtype=trained_in, train__optim__lr=0.05
    )
    train_adapter(spec, runs=tmp_path / "runs", resume=None, force=False)
    proof = read_proof(tmp_path / "runs" / "quick" / "proof.json")
    assert proof.pixels.mean_abs_diff > 0.5
    assert proof.reload.max_abs_diff == 0
    assert not any("merged base" in reason for reason in proof.reasons), proof.reasons
