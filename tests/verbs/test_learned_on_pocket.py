"""The whole way once: the embedded base learns a light of its world, and its own judge finds that it did."""

from pathlib import Path

from detour.adapter_files import read_adapter
from detour.specs import load_run_spec
from detour.verbs.judge.held_out_material import write_world_style
from detour.verbs.train.demo import draw_training_pictures
from detour.verbs.train.run import train_adapter

STYLE = "dusk"
"""A palette that the base was never shown; it changes every pixel, so a few steps are enough."""


def test_a_few_steps_on_pocket_are_called_learned_by_its_judge(tmp_path: Path) -> None:
    draw_training_pictures(tmp_path / "data", style_name=STYLE, count=8, seed=0)
    write_world_style(tmp_path / "data", STYLE)
    spec = load_run_spec(
        flags={
            "name": "dusk", "goal": "style", "base.name": "pocket", "base.device": "cpu", "base.dtype": "fp32",
            "data.source": str(tmp_path / "data"), "adapter.rank": 4, "train.steps": 20, "train.batch": 4,
            "train.threads": 1, "train.optim.lr": 9e-3, "train.loss.caption_dropout": 0.0, "sample.every": 0,
            "validate.every": 0, "checkpoint.every": 0, "evaluate.num_prompts": 8, "evaluate.steps": 4,
            "evaluate.proof_pictures": 1,
        }
    )  # fmt: skip
    result = train_adapter(spec, runs=tmp_path / "runs")
    proof = result.proof
    assert proof is not None
    assert proof.verdict == "learned", proof.reasons
    assert proof.gradients is not None
    assert proof.gradients.base_unchanged
    assert proof.gradients.base_tensors_with_gradient == 0
    assert proof.pixels.noise_floor == 0.0
    assert proof.pixels.mean_abs_diff > 10
    assert proof.reload.max_abs_diff is not None
    assert proof.reload.max_abs_diff <= 1
    assert proof.merge.max_abs_diff is not None
    assert proof.merge.max_abs_diff <= 1
    distance, accuracy = proof.held_out.style_distance, proof.held_out.prompt_accuracy
    assert distance is not None
    assert distance.ceiling < distance.base
    assert distance.adapter < 0.5 * distance.base
    assert accuracy is not None
    # The judge reads the base's pictures, the adapter's and the true ones far better than chance (1 in 8 or less).
    for side in (accuracy.base, accuracy.adapter, accuracy.ceiling):
        assert min(side.object, side.colour, side.place) >= 0.5
    assert any(layer.tensors["up"].any() for layer in read_adapter(result.adapter_file).layers.values())
