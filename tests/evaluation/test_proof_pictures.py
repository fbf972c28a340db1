from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from detour.errors import RunError
from detour.evaluation.proof_pictures import (
    TRAINED_PICTURES,
    draw_proof_pictures,
    keep_trained_pictures,
    proof_requests,
    read_trained_pictures,
)
from detour.specs import EvaluateSpec, RunSpec, SampleSpec


class RecordingEngine:
    """Remembers how it was asked to draw."""

    def draw(
        self, requests: Any, spec: Any, *, adapters: Any = (), batch: int = 4, blacken: bool = False
    ) -> Any:
        self.asked, self.blackens = (requests, spec, batch), blacken
        return SimpleNamespace(pictures=np.zeros((len(requests), 8, 8, 3), np.uint8))


def run(**sections: Any) -> RunSpec:
    return RunSpec(**sections)


def test_sample_prompts_win_over_captions() -> None:
    assert {r.prompt for r in proof_requests(run(sample=SampleSpec(prompts=("s",))), ["c"])} == {"s"}
    assert {r.prompt for r in proof_requests(run(), ["c"])} == {"c"}


def test_few_prompts_repeat_with_new_seeds_and_many_are_spread() -> None:
    few = proof_requests(run(), ["a", "b", "a"])
    assert [request.prompt for request in few] == ["a", "b", "a", "b"]
    assert len({request.seed for request in few}) == 4
    many = proof_requests(run(), [str(i) for i in range(8)])
    assert [request.prompt for request in many] == ["0", "2", "4", "6"]


def test_every_side_draws_with_the_same_steps_size_and_batch() -> None:
    engine = RecordingEngine()
    spec = run(evaluate=EvaluateSpec(steps=7))
    draw_proof_pictures(engine, proof_requests(spec, ["a"]), spec)
    assert (engine.asked[1].steps, engine.asked[1].width_px, engine.asked[2]) == (7, "auto", 8)
    assert engine.blackens, "a picture that is not finite ends a proof without a verdict"


def test_the_trained_models_pictures_come_back_as_they_were_kept(tmp_path: Path) -> None:
    requests = proof_requests(run(), ["ein Häuschen", "b"])
    pictures = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    keep_trained_pictures(tmp_path, requests, pictures)
    kept = read_trained_pictures(tmp_path)
    assert kept is not None
    assert kept[0] == requests
    assert np.array_equal(kept[1], pictures)


def test_a_run_without_them_says_so_and_broken_ones_are_one_line(tmp_path: Path) -> None:
    assert read_trained_pictures(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / TRAINED_PICTURES).write_bytes(b"not a zip")
    with pytest.raises(RunError, match="not a whole archive of pictures"):
        read_trained_pictures(tmp_path)
