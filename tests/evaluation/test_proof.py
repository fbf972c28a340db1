import json
from pathlib import Path

import pytest

from detour.errors import RunError
from detour.evaluation.documents import read_document
from detour.evaluation.evaluation import Evaluation
from detour.evaluation.proof import read_proof, write_proof
from tests.evaluation.figures import UNMEASURED, learned_proof

OLD = Path(__file__).parent / "old"
"""Files of schema 1, as version 0.1 wrote them: a short run on the embedded base, an evaluation on a tiny one."""


def test_the_file_has_exactly_the_keys_of_schema_two(tmp_path: Path) -> None:
    write_proof(tmp_path / "proof.json", learned_proof())
    written = json.loads((tmp_path / "proof.json").read_text())
    assert list(written) == [
        "schema", "gradients", "pixels", "reload", "merge", "held_out", "answers", "verdict", "headline", "unknown",
        "reasons", "next_step",
    ]  # fmt: skip
    assert written["schema"] == 2
    assert set(written["gradients"]) == {
        "adapter_tensors", "adapter_tensors_with_gradient", "dead_by_structure",
        "base_tensors_with_gradient", "base_unchanged",
    }  # fmt: skip
    assert set(written["pixels"]) == {"mean_abs_diff", "noise_floor", "pictures"}
    assert set(written["reload"]) == set(written["merge"]) == {"max_abs_diff"}
    assert set(written["held_out"]) == {"prompts", "seeds", "style_distance", "prompt_accuracy"}
    assert set(written["held_out"]["style_distance"]) == {"base", "adapter", "ceiling"}
    for side in ("base", "adapter", "ceiling"):
        assert set(written["held_out"]["prompt_accuracy"][side]) == {"object", "colour", "place"}


@pytest.mark.parametrize(
    "proof", [learned_proof(), learned_proof().model_copy(update={"held_out": UNMEASURED})]
)
def test_what_is_written_is_read_back(tmp_path: Path, proof: object) -> None:
    write_proof(tmp_path / "proof.json", proof)  # type: ignore[arg-type]
    assert read_proof(tmp_path / "proof.json") == proof


@pytest.mark.parametrize(
    "spoil", [{"schema": 3}, {"verdict": "great"}, {"extra": 1}, {"pixels": {"mean_abs_diff": 1}}]
)
def test_another_schema_is_refused_in_one_line(tmp_path: Path, spoil: dict[str, object]) -> None:
    path = tmp_path / "proof.json"
    write_proof(path, learned_proof())
    path.write_text(json.dumps(json.loads(path.read_text()) | spoil))
    with pytest.raises(RunError) as caught:
        read_proof(path)
    assert "\n" not in str(caught.value)


def test_files_of_the_first_schema_still_read() -> None:
    proof = read_proof(OLD / "proof-schema-1.json")
    assert (proof.schema_, proof.verdict, proof.unknown, proof.next_step) == (1, "inconclusive", (), "")
    assert proof.held_out.prompt_accuracy is not None
    assert proof.held_out.prompt_accuracy.ceiling is not None
    assert proof.answers is None
    evaluation = read_document(OLD / "evaluation-schema-1.json", Evaluation, command="detour evaluate")
    assert (evaluation.schema_, evaluation.verdict, evaluation.unknown) == (1, "copies", ())
    assert evaluation.prompt_keeping is not None


def test_a_missing_proof_says_what_next(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Run detour prove first"):
        read_proof(tmp_path / "proof.json")
