"""Files made for few steps are told by their names and drawn as their authors draw them."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from detour.bases.base import Base, open_base
from detour.cli.options import SAMPLERS
from detour.errors import ConfigError
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.few_steps import (
    KINDS,
    FewStepKind,
    contradictions,
    names_of,
    parse_kind,
    recognise,
    with_few_steps,
)
from detour.generation.schedulers import TITLES
from detour.specs.generation import PictureSpec, SchedulerName

# Names of published files and folders.
PUBLISHED = {
    "lcm-lora-sdv1-5": ("lcm", 4),
    "pytorch_lora_weights_LCM": ("lcm", 4),
    "LCM_Dreamshaper_v7": ("lcm", 4),
    "sdxl_lightning_2step_lora": ("lightning", 2),
    "sdxl_lightning_8step_lora": ("lightning", 8),
    "Hyper-SD15-8steps-lora": ("hyper", 8),
    "Hyper-SDXL-1step-lora": ("hyper", 1),
    "Hyper-FLUX.1-dev-16steps-lora": ("hyper", 16),
    "sdxl_tcd_lora": ("tcd", 4),
    "TCD-SD15-LoRA": ("tcd", 4),
    "stabilityai/sdxl-turbo": ("turbo", 4),
    "sd_turbo": ("turbo", 4),
    "sd3.5-large-turbo": ("turbo", 4),
    "FLUX.1-schnell": ("schnell", 4),
}
OTHERS = (
    "my-style",
    "falcmont",
    "hyperrealism_v2",
    "turbocharged_cars",
    "detail-tweaker",
    "tcdetail",
    "25steps",
    "",
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_recognised(name: str) -> None:
    found = recognise([name])
    assert found is not None
    assert (found.kind, found.steps) == PUBLISHED[name]


@pytest.mark.parametrize("name", OTHERS)
def test_other_names_are_left_alone(name: str) -> None:
    assert recognise([name]) is None


def test_titles_in_the_metadata_count_too() -> None:
    assert recognise(names_of("pytorch_lora_weights", {"modelspec.title": "LCM LoRA"})) is not None
    assert recognise(names_of("pytorch_lora_weights", {"ss_tag_frequency": "lcm"})) is None


def test_hypers_one_step_file_is_drawn_with_tcd() -> None:
    one, two = recognise(["Hyper-SD15-1step-lora"]), recognise(["Hyper-SD15-2steps-lora"])
    assert one is not None
    assert two is not None
    assert (one.scheduler, one.spacing, one.eta) == ("tcd", "own", 1.0)
    assert (two.scheduler, two.spacing) == ("ddim", "trailing")


@pytest.mark.parametrize("kind", get_args(FewStepKind))
def test_a_flag_says_the_kind(kind: FewStepKind) -> None:
    assert parse_kind(kind) == KINDS[kind]
    told = parse_kind(f"{kind}:2")
    assert told is not None
    assert (told.kind, told.steps) == (kind, 2)


def test_what_is_no_kind_is_refused() -> None:
    assert parse_kind("off") is None
    for text in ("fast", "lcm:0", "lcm:many", "off:2", ""):
        with pytest.raises(ValueError, match=r"is not one of|is no number of steps"):
            parse_kind(text)


def test_settings_follow_from_the_file_unless_they_are_named() -> None:
    lightning = KINDS["lightning"]
    assert with_few_steps(PictureSpec(), lightning) == PictureSpec(
        steps=4, guidance_scale=1.0, scheduler="euler", spacing="trailing"
    )
    named = with_few_steps(PictureSpec(steps=25, guidance_scale=5.0), lightning)
    assert (named.steps, named.guidance_scale, named.scheduler) == (25, 5.0, "euler")
    other = with_few_steps(PictureSpec(scheduler="lcm"), lightning)
    assert (other.scheduler, other.spacing, other.eta) == ("lcm", "own", "auto")


@pytest.mark.parametrize("kind", get_args(FewStepKind))
def test_a_files_own_settings_contradict_nothing(kind: FewStepKind) -> None:
    found = KINDS[kind]
    assert contradictions(found, with_few_steps(PictureSpec(), found), found.scheduler) == []


def test_wrong_combinations_are_named() -> None:
    how = PictureSpec(steps=25, guidance_scale=7.5)
    said = contradictions(KINDS["lightning"], how, "euler")
    assert len(said) == 3
    assert "25 steps" in said[0]
    assert "guidance 7.5" in said[1]
    assert "own spacing" in said[2]
    assert contradictions(KINDS["lcm"], PictureSpec(steps=4, guidance_scale=1), "dpm++") == [
        "sampler dpm++; it is distilled for lcm"
    ]


def test_every_place_that_lists_samplers_lists_all() -> None:
    assert SAMPLERS == get_args(SchedulerName) == tuple(TITLES)


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> PictureEngine:
    return PictureEngine.load(open_base(str(tiny_base)))


@pytest.mark.parametrize(
    ("scheduler", "theirs", "spacing", "eta"),
    [
        ("euler", "EulerDiscreteScheduler", "trailing", "auto"),
        ("ddim", "DDIMScheduler", "trailing", "auto"),
        ("ddim", "DDIMScheduler", "own", 0.6),
        ("ddim", "DDIMScheduler", "own", 1.0),
        ("tcd", "TCDScheduler", "own", 0.9),
        ("dpm++", "DPMSolverMultistepScheduler", "leading", "auto"),
    ],
)
def test_spacing_and_eta_are_those_of_diffusers(
    engine: PictureEngine, scheduler: str, theirs: str, spacing: str, eta: Any
) -> None:
    import diffusers

    base: Base = engine.base
    config = base.scheduler_config() | ({} if spacing == "own" else {"timestep_spacing": spacing})
    pipeline = diffusers.StableDiffusionPipeline(
        vae=engine.vae,
        text_encoder=engine.text.models["text_encoder"],
        tokenizer=engine.text.tokenizers["text_encoder"],
        unet=engine.unet,
        scheduler=getattr(diffusers, theirs).from_config(config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        "a red house",
        num_inference_steps=4,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
        **({} if eta == "auto" else {"eta": eta}),
    ).images[0]
    spec = PictureSpec.model_validate(
        {"steps": 4, "guidance_scale": 1.0, "scheduler": scheduler, "spacing": spacing, "eta": eta}
    )
    request = PictureRequest(prompt="a red house", seed=5, how=spec)
    drawn = engine.draw([request]).pictures[0].astype(int)
    assert np.abs(drawn - (expected * 255).round()).max() <= 1
    own = spec.model_copy(update={"spacing": "own", "eta": "auto"})
    plain = engine.draw([PictureRequest(prompt="a red house", seed=5, how=own)]).pictures[0]
    assert np.abs(drawn - plain).max() > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheduler": "euler", "eta": 0.5}, "scheduler 'euler' has none"),
        ({"scheduler": "lcm", "spacing": "trailing"}, "scheduler 'lcm' has times of its own"),
    ],
)
def test_what_a_sampler_does_not_have_is_refused(
    engine: PictureEngine, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        engine.resolved(PictureSpec.model_validate(settings))


def test_pictures_of_one_call_have_each_their_own_spacing(engine: PictureEngine) -> None:
    spec = PictureSpec(steps=4, guidance_scale=1.0, scheduler="ddim")
    ways = [spec, spec.model_copy(update={"spacing": "trailing"})]
    requests = [PictureRequest(prompt="a red house", seed=5, how=how, width_class=2) for how in ways]
    own, trailing = engine.draw(requests).pictures
    assert np.array_equal(engine.draw(requests[1:]).pictures[0], trailing)
    assert np.abs(own.astype(int) - trailing).max() > 1
