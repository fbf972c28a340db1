"""A run that the version before this one trained and proved still reads: ``old/old-run`` is its folder.

It was made on 30 November 2026 with commit f7f46c3 by ``detour train pics --name old-run --rank 1 --steps 4 --targets
're:mid_block.*attn2\\.to_[qv]$' --set sample.every=0 --set validate.every=2`` on five drawn pictures; checkpoints,
pages and pictures were left out, and the pictures' folder is called ``photos`` here.
"""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detour.adapter_files.reading import read_adapter
from detour.bases.base import open_base
from detour.evaluation.proof import read_proof
from detour.specs import load_run_spec
from detour.training.resolving import resolve
from detour.verbs.chosen_adapters import choose_adapter
from detour.verbs.judge.finished_run import read_finished_run
from detour.verbs.train.run_list import list_runs

OLD = Path(__file__).parent / "old"
RUN = OLD / "old-run"


def leaves(table: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Dotted key → value of a nested table."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= leaves(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


def test_its_settings_are_read_as_they_were_written_and_can_be_resolved_again() -> None:
    written = leaves(tomllib.loads((RUN / "resolved.toml").read_text()))
    assert len(written) > 80
    spec = load_run_spec(config=RUN / "resolved.toml")
    again = resolve(spec, open_base("pocket"), ["a red cup on a field"] * 5, name="again", device="cpu").spec
    for read in (spec, again):
        now = leaves(read.model_dump(mode="json", by_alias=True))
        assert {key: now[key] for key in written} == written


def test_the_list_of_runs_shows_it() -> None:
    (run,) = list_runs(OLD)
    assert (run.name, run.state, run.step, run.steps) == ("old-run", "finished", 4, 4)
    assert (run.base, run.method, run.verdict) == ("pocket-v1", "lora", "inconclusive")
    assert run.final_loss == pytest.approx(0.10802168)


def test_its_proof_reads() -> None:
    proof = read_proof(RUN / "proof.json")
    assert (proof.schema_, proof.verdict, proof.answers) == (1, "inconclusive", None)
    assert proof.pixels.mean_abs_diff == pytest.approx(7.756, abs=1e-3)


def test_the_run_can_be_proved_again_from_what_it_says() -> None:
    run = read_finished_run(RUN)
    assert [step for step, _ in run.metrics.loss] == [1, 2, 3, 4]
    assert run.problems == ()
    assert run.gradients is not None
    assert run.gradients.adapter_tensors_with_gradient == 4


def test_its_adapter_fits_the_base_of_today() -> None:
    adapter = read_adapter(RUN / "old-run.safetensors")
    chosen = choose_adapter(str(RUN / "old-run.safetensors"), open_base("pocket"))
    assert set(chosen.adapter.layers) == set(adapter.layers)
    assert len(adapter.layers) == 2
    assert all(np.isfinite(layer.delta().numpy()).all() for layer in adapter.layers.values())
