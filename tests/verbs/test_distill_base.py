"""``detour distill``: an adapter for few steps, resumable to the byte, whose file says how it is drawn."""

import json
from pathlib import Path
from typing import Any

import pytest

from detour.adapter_files import read_adapter
from detour.bases.base import open_base
from detour.errors import ConfigError, Interrupted
from detour.generation.few_steps import names_of, recognise
from detour.specs import RunSpec, load_run_spec
from detour.specs.generation import GenerateSpec
from detour.verbs.draw.pictures import generate_pictures
from detour.verbs.train.distillation import distill_base, with_distillation
from tests.tiny_flow import make_tiny_sd3
from tests.verbs.photos import make_photos
from tests.verbs.test_train_adapter import files, metrics, stop_after


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos", 4)


def spec_of(base: Path, photos: Path, **flags: Any) -> RunSpec:
    values: dict[str, Any] = {
        "name": "few",
        "seed": 3,
        "data.source": str(photos),
        "base.name": str(base),
        "base.device": "cpu",
        "adapter.rank": 2,
        "adapter.targets": "cross-attn",
        "train.steps": 5,
        "train.batch": 2,
        "train.threads": 1,
        "train.optim.lr": 1e-3,
        "checkpoint.every": 2,
        "distill.steps": 2,
        "distill.solver_steps": 4,
        "evaluate.steps": 3,
        "evaluate.num_prompts": 2,
    }
    return load_run_spec(flags={**values, **{key.replace("__", "."): value for key, value in flags.items()}})


def test_a_run_resumes_to_the_byte_and_its_file_says_how_it_is_drawn(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    straight = distill_base(spec_of(tiny_base, photos), runs=tmp_path / "straight")
    with pytest.raises(Interrupted):
        distill_base(spec_of(tiny_base, photos), runs=tmp_path / "broken", progress=stop_after(3))
    broken = tmp_path / "broken" / "few"
    distill_base(None, resume=broken)
    folder = straight.run_folder
    assert files(folder, "*.safetensors") == files(broken, "*.safetensors")
    assert metrics(folder) == metrics(broken)
    gradients = json.loads((folder / "gradients.json").read_text())
    assert gradients["base_unchanged"] is True
    assert gradients["adapter_tensors"] == gradients["adapter_tensors_with_gradient"]

    proof = json.loads((folder / "distilled.json").read_text())
    assert (proof["base"]["steps"], proof["base_in_few"]["steps"], proof["distilled"]["steps"]) == (3, 2, 2)
    assert (proof["distilled"]["scheduler"], proof["distilled"]["guidance_scale"]) == ("lcm", 1.0)
    assert proof["base"]["moved"] == 0 < proof["distilled"]["moved"]
    assert any("few" in note or "steps" in note for note in straight.notes)

    # The name says nothing of few steps; the file does.
    adapter = read_adapter(straight.adapter_file)
    found = recognise(names_of(straight.adapter_file.stem, adapter.metadata))
    assert found is not None
    assert (found.kind, found.steps) == ("lcm", 2)
    drawn = generate_pictures(
        GenerateSpec(base=str(tiny_base), prompts=("a dog",), loras=(str(straight.adapter_file),)),
        out=tmp_path / "drawn",
    )
    made = drawn.files[0].metadata
    assert made is not None
    assert (made.steps, made.scheduler, made.guidance_scale) == (2, "lcm", 1.0)
    assert not any("distilled" in finding.rule for finding in drawn.warnings)


def test_a_flow_is_distilled_and_drawn_with_its_own_sampler(photos: Path, tmp_path: Path) -> None:
    base = make_tiny_sd3(tmp_path / "sd3", t5=False)
    result = distill_base(
        spec_of(base, photos, adapter__targets="attn", train__steps=2), runs=tmp_path / "runs"
    )
    proof = json.loads((result.run_folder / "distilled.json").read_text())
    assert (proof["base"]["scheduler"], proof["distilled"]["scheduler"]) == ("euler", "lcm")
    assert proof["distilled"]["moved"] > 0


def test_settings_that_were_named_stay_and_others_are_those_of_a_distillation(tiny_base: Path) -> None:
    base = open_base(str(tiny_base))
    spec = load_run_spec(flags={"base.name": str(tiny_base), "train.ema": 0.5, "distill.steps": 2})
    made = with_distillation(spec, base)
    assert (made.train.ema, made.distill.steps, made.name) == (0.5, 2, f"{tiny_base.name}-lcm-2step")
    assert (made.adapter.rank, made.validate_.every, made.sample.every) == (64, 0, 0)
    assert with_distillation(made, base) == made
    found = recognise([str(made.name)])
    assert found is not None
    assert (found.kind, found.steps) == ("lcm", 2)


def test_a_base_without_a_world_needs_pictures(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--data"):
        distill_base(load_run_spec(flags={"base.name": str(tiny_base)}), runs=tmp_path)
