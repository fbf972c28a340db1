"""The embedded flow base by its name and as a folder: it is drawn with, trained on and proved as every other base."""

from pathlib import Path

import numpy as np
import pytest
import torch

from detour.adapter_files import read_adapter
from detour.bases.base import open_base
from detour.bases.embedded import EMBEDDED
from detour.generation.engine import PictureEngine, PictureRequest
from detour.specs import load_run_spec
from detour.specs.generation import PictureSpec
from detour.verbs.judge.held_out_material import write_world_style
from detour.verbs.train.demo import DEMOS, draw_training_pictures
from detour.verbs.train.memory_plan import plan_memory
from detour.verbs.train.run import train_adapter

FLOW = EMBEDDED["pocket-flow"]
pytestmark = pytest.mark.skipif(
    not (FLOW.folder / "model_index.json").is_file(),
    reason="the weights of pocket-flow are not in this checkout",
)
PROMPT = "a red house in the desert"


def test_its_pictures_are_those_of_the_diffusers_pipeline_by_name_and_as_a_folder() -> None:
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(FLOW.folder, text_encoder_3=None, tokenizer_3=None)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPT,
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(4),
        max_sequence_length=0,
        output_type="np",
    ).images
    spec = PictureSpec(steps=3, guidance_scale=3.0)
    for name in ("pocket-flow", str(FLOW.folder)):
        base = open_base(name)
        assert (base.embedded is FLOW) == (name == "pocket-flow")
        drawn = PictureEngine.load(base).draw([PictureRequest(prompt=PROMPT, seed=4)], spec).pictures
        difference = np.abs(drawn.astype(np.int16) - (theirs * 255).round().astype(np.int16))
        assert difference.max() <= 1
        assert drawn.std() > 20


def test_a_run_is_trained_and_proved_by_name(tmp_path: Path) -> None:
    draw_training_pictures(tmp_path / "data", style_name="comic", count=6, seed=0)
    spec = load_run_spec(
        flags={
            "name": "two", "base.name": "pocket-flow", "base.device": "cpu", "base.dtype": "fp32",
            "data.source": str(tmp_path / "data"), "adapter.rank": 2, "train.steps": 2, "train.batch": 1,
            "train.threads": 1, "sample.every": 0, "validate.every": 0, "checkpoint.every": 0,
            "evaluate.num_prompts": 1, "evaluate.steps": 2, "evaluate.proof_pictures": 1,
        }
    )  # fmt: skip
    result = train_adapter(spec, runs=tmp_path / "runs")
    assert result.proof is not None
    assert result.proof.gradients is not None
    assert result.proof.gradients.base_unchanged
    assert result.proof.held_out.prompt_accuracy is not None  # its own judge, its own world
    assert result.proof.reload.max_abs_diff is not None
    assert result.proof.reload.max_abs_diff <= 1
    layers = read_adapter(result.adapter_file).layers
    assert all(layer.up.any() for layer in layers.values())  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_style_of_its_demo_is_called_learned_by_its_judge(tmp_path: Path) -> None:
    style = DEMOS["pocket-flow"].style
    draw_training_pictures(tmp_path / "data", style_name=style, count=24, seed=0, as_asked=True)
    write_world_style(tmp_path / "data", style)
    spec = load_run_spec(
        flags={
            "name": "style", "goal": "style", "base.name": "pocket-flow", "base.device": "cpu", "base.dtype": "fp32",
            "data.source": str(tmp_path / "data"), "adapter.rank": 4, "train.steps": DEMOS["pocket-flow"].steps,
            "train.threads": 1, "train.loss.caption_dropout": 0.0, "sample.every": 0, "validate.every": 0,
            "checkpoint.every": 0, "evaluate.num_prompts": 16, "evaluate.proof_pictures": 1,
        }
    )  # fmt: skip
    plan = plan_memory(spec)
    assert plan.base == FLOW.identity
    assert plan.peak_bytes > 0
    proof = train_adapter(spec, runs=tmp_path / "runs").proof
    assert proof is not None
    assert proof.verdict == "learned", proof.reasons
