from pathlib import Path

import numpy as np
import pytest
import torch

from detour.bases.base import Base, open_base
from detour.bases.safety import SafetyChecker
from detour.diffusion.safe_latent import safe_guidance
from detour.errors import ConfigError
from detour.generation.engine import PictureEngine, PictureRequest
from detour.specs.generation import PictureSpec
from tests.tiny_flow import make_tiny_sd3

TWO = [PictureRequest(prompt="a red house", seed=5), PictureRequest(prompt="a blue cat", seed=9)]
FEW = PictureSpec(steps=3)


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return open_base(str(tiny_base))


@pytest.fixture(scope="module")
def engine(base: Base) -> PictureEngine:
    return PictureEngine.load(base)


def far(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


CLASSES = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "lcm": "LCMScheduler",
    "tcd": "TCDScheduler",
}


@pytest.mark.parametrize("scheduler", list(CLASSES))
@pytest.mark.parametrize("guidance", [1.0, 6.0])
def test_draws_what_the_pipeline_of_diffusers_draws(
    engine: PictureEngine, base: Base, scheduler: str, guidance: float
) -> None:
    import diffusers

    pipeline = diffusers.StableDiffusionPipeline(
        vae=engine.vae,
        text_encoder=engine.text.models["text_encoder"],
        tokenizer=engine.text.tokenizers["text_encoder"],
        unet=engine.unet,
        scheduler=getattr(diffusers, CLASSES[scheduler]).from_config(base.scheduler_config()),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        [request.prompt for request in TWO],
        negative_prompt=["blurry"] * 2 if guidance > 1 else None,
        num_inference_steps=4,
        guidance_scale=guidance,
        eta=0.3 if scheduler == "tcd" else 0.0,  # the sampler's own default, which the pipeline overrides
        generator=[torch.Generator().manual_seed(request.seed) for request in TWO],
        output_type="np",
    ).images
    spec = PictureSpec(steps=4, guidance_scale=guidance, scheduler=scheduler, negative_prompt="blurry")
    ours = engine.draw(TWO, spec).pictures
    assert far(ours, (theirs * 255).round().astype(np.uint8)) <= 1
    assert far(ours[0], ours[1]) > 20


@pytest.mark.parametrize("interval", [(0.0, 0.5), (0.5, 1.0), (0.25, 0.75)])
def test_guidance_in_part_of_the_steps_is_that_of_a_pipeline_that_switches_it(
    engine: PictureEngine, base: Base, interval: tuple[float, float]
) -> None:
    import diffusers

    pipeline = diffusers.StableDiffusionPipeline(
        vae=engine.vae,
        text_encoder=engine.text.models["text_encoder"],
        tokenizer=engine.text.tokenizers["text_encoder"],
        unet=engine.unet,
        scheduler=diffusers.DPMSolverMultistepScheduler.from_config(base.scheduler_config()),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    texts = pipeline.encode_prompt(TWO[0].prompt, "cpu", 1, True, "blurry")
    both, alone = torch.cat([texts[1], texts[0]]), texts[0]

    def is_guided(step: int) -> bool:
        return interval[0] <= step / 8 < interval[1]

    def switch(pipe, step, _, state):  # type: ignore[no-untyped-def]
        pipe._guidance_scale = 20.0 if is_guided(step + 1) else 1.0
        return {**state, "prompt_embeds": both if is_guided(step + 1) else alone}

    theirs = pipeline(
        prompt_embeds=texts[0],
        negative_prompt_embeds=texts[1] if is_guided(0) else None,
        num_inference_steps=8,
        guidance_scale=20.0 if is_guided(0) else 1.0,
        generator=torch.Generator().manual_seed(TWO[0].seed),
        callback_on_step_end=switch,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
        output_type="np",
    ).images
    spec = PictureSpec(steps=8, guidance_scale=20.0, negative_prompt="blurry", guidance_interval=interval)
    rows: list[int] = []
    handle = engine.unet.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[0]))
    ours = engine.draw(TWO[:1], spec).pictures
    handle.remove()
    assert far(ours, (theirs * 255).round().astype(np.uint8)) <= 1
    assert (
        far(ours, engine.draw(TWO[:1], spec.model_copy(update={"guidance_interval": (0.0, 1.0)})).pictures)
        > 1
    )
    assert rows == [2 if is_guided(step) else 1 for step in range(8)]


def test_reused_deep_features_are_those_of_a_pass_whose_last_layers_are_handed_them(
    engine: PictureEngine, base: Base
) -> None:
    """diffusers' pipeline in whole passes, in which a hook puts the kept features in the place of the new ones."""
    import diffusers

    pipeline = diffusers.StableDiffusionPipeline(
        vae=engine.vae,
        text_encoder=engine.text.models["text_encoder"],
        tokenizer=engine.text.tokenizers["text_encoder"],
        unet=engine.unet,
        scheduler=diffusers.DPMSolverMultistepScheduler.from_config(base.scheduler_config()),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    last, skip = engine.unet.up_blocks[-1].resnets[-1], engine.unet.config["block_out_channels"][0]
    kept: list[torch.Tensor] = []
    passes: list[int] = []

    def reuse(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        step = len(passes)
        passes.append(step)
        deep, own = args[0][:, :-skip], args[0][:, -skip:]
        if step % 3 == 0:
            kept[:] = [deep]
        return (torch.cat([kept[0], own], dim=1), *args[1:])

    handle = last.register_forward_pre_hook(reuse)
    theirs = pipeline(
        TWO[0].prompt,
        num_inference_steps=7,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(TWO[0].seed),
        output_type="np",
    ).images
    handle.remove()
    middle: list[int] = []
    handle = engine.unet.mid_block.resnets[0].register_forward_pre_hook(lambda *_: middle.append(1))
    spec = PictureSpec(steps=7, guidance_scale=5.0, deep_every=3)
    ours = engine.draw(TWO[:1], spec).pictures
    handle.remove()
    assert len(passes) == 7
    assert len(middle) == 3
    assert far(ours, (theirs * 255).round().astype(np.uint8)) <= 1
    assert far(ours, engine.draw(TWO[:1], spec.model_copy(update={"deep_every": 1})).pictures) > 1
    assert not any("forward" in module.__dict__ for module in engine.unet.modules())


def test_deep_features_of_a_transformer_are_refused(tmp_path: Path) -> None:
    flow = PictureEngine.load(open_base(str(make_tiny_sd3(tmp_path / "sd3", t5=False))))
    with pytest.raises(ConfigError, match="is a transformer"):
        flow.submit(PictureRequest(prompt="a house", seed=1, how=PictureSpec(steps=2, deep_every=2)))


def test_an_interval_without_a_step_is_refused_and_so_is_one_beside_another_guidance(
    engine: PictureEngine,
) -> None:
    narrow = PictureSpec(steps=4, guidance_interval=(0.3, 0.4))
    with pytest.raises(ConfigError, match="none of 4 steps"):
        engine.draw(TWO[:1], narrow)
    steered = PictureRequest(
        prompt="a house",
        seed=1,
        how=PictureSpec(steps=4, guidance_interval=(0.0, 0.5)),
        guidance=safe_guidance("medium"),
        further_texts=("blood",),
    )
    with pytest.raises(ConfigError, match="every step"):
        engine.submit(steered)


def test_an_empty_negative_prompt_is_the_familys_unconditional_text(engine: PictureEngine) -> None:
    spec = PictureSpec(steps=2, guidance_scale=5.0)
    named = [PictureRequest(prompt="a red house", seed=5, negative_prompt="cat")]
    assert far(engine.draw(TWO[:1], spec).pictures, engine.draw(named, spec).pictures) > 0
    both = engine.draw([*TWO[:1], *named], spec).pictures
    assert far(both[1], engine.draw(named, spec).pictures[0]) <= 1


def test_a_picture_does_not_depend_on_its_neighbours(engine: PictureEngine) -> None:
    together = engine.draw(TWO, FEW, batch=2).pictures
    alone = engine.draw(TWO, FEW, batch=1).pictures
    assert far(together, alone) <= 1
    assert far(engine.draw(TWO[::-1], FEW).pictures[::-1], together) <= 1


@pytest.mark.parametrize("scheduler", ["ddpm", "dpm++"])
def test_same_request_gives_the_same_bytes(engine: PictureEngine, scheduler: str) -> None:
    spec = PictureSpec(steps=3, scheduler=scheduler)
    torch.manual_seed(1)
    first = engine.draw(TWO, spec).pictures
    torch.manual_seed(2)
    assert (engine.draw(TWO, spec).pictures == first).all()


def test_drawing_leaves_the_global_random_state_and_the_training_mode(engine: PictureEngine) -> None:
    engine.unet.train()
    before = torch.get_rng_state()
    engine.draw(TWO, FEW)
    assert torch.equal(torch.get_rng_state(), before)
    assert engine.unet.training
    engine.unet.eval()


def test_guidance_of_one_takes_a_single_forward_pass(engine: PictureEngine) -> None:
    sizes: list[int] = []
    handle = engine.unet.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[0]))
    for scale, width in ((1.0, 2), (1.5, 4)):
        how = PictureSpec(steps=2, guidance_scale=scale)
        asked = [PictureRequest(prompt=one.prompt, seed=one.seed, how=how, width_class=width) for one in TWO]  # type: ignore[arg-type]
        with engine.paused():  # both wait before the first pass, so that they start together
            drawn = [engine.submit(one) for one in asked]
        for one in drawn:
            one.result()
    handle.remove()
    assert sizes == [2, 2, 4, 4]


def test_auto_is_the_bases_own_size_and_guidance(engine: PictureEngine) -> None:
    resolved = engine.resolved(PictureSpec())
    assert (resolved.width_px, resolved.height_px, resolved.guidance_scale) == (64, 64, 7.5)


def test_width_and_height_are_not_mixed_up(engine: PictureEngine) -> None:
    spec = PictureSpec(steps=1, width_px=96, height_px=32)
    assert engine.draw(TWO, spec).pictures.shape == (2, 32, 96, 3)


@pytest.mark.parametrize("scheduler", ["dpm++", "pndm", "euler"])
def test_trace_ends_with_the_finished_picture(engine: PictureEngine, scheduler: str) -> None:
    spec = PictureSpec(steps=5, scheduler=scheduler)
    drawn = engine.draw(TWO, spec, batch=1, trace=3)
    assert [(moment.step, moment.total) for moment in drawn.trace] == [(2, 5), (4, 5), (5, 5)]
    assert (drawn.trace[-1].pictures == drawn.pictures).all()
    assert far(drawn.trace[0].pictures, drawn.pictures) > 0
    assert (engine.draw(TWO, spec, batch=1).pictures == drawn.pictures).all()


def test_moments_of_euler_are_brought_to_the_scale_of_latents(
    engine: PictureEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Euler's own variables start with a standard deviation of 14.6; decoded as they are they show nothing."""
    spreads: list[float] = []

    def decode(vae: torch.nn.Module, latents: torch.Tensor) -> np.ndarray:
        spreads.append(float(latents.std()))
        return np.zeros((1, 64, 64, 3), dtype=np.uint8)

    monkeypatch.setattr("detour.generation.drawing.decode_latents", decode)
    engine.draw(TWO[:1], PictureSpec(steps=25, scheduler="euler", guidance_scale=1.0), trace=25)
    finished, *moments = spreads
    assert moments[0] < 2
    assert moments[-1] == finished


def test_steps_are_reported_over_all_batches(engine: PictureEngine) -> None:
    seen: list[tuple[int, int]] = []
    engine.draw(TWO, FEW, batch=1, on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range_are_refused(engine: PictureEngine, seed: int) -> None:
    with pytest.raises(ConfigError, match="seed"):
        engine.draw([PictureRequest(prompt="x", seed=seed)], FEW)


def test_no_requests_are_refused(engine: PictureEngine) -> None:
    with pytest.raises(ConfigError, match="no prompts"):
        engine.draw([], FEW)


def test_what_the_safety_checker_refuses_is_black_and_said(engine: PictureEngine) -> None:
    looked: list[int] = []

    class RefusesTheSecond(SafetyChecker):
        def flag(self, pictures: np.ndarray) -> list[bool]:
            looked.append(len(pictures))
            return [len(looked) == 2]

    checked = PictureEngine(
        engine.base, unet=engine.unet, vae=engine.vae, text=engine.text, safety=RefusesTheSecond(None)
    )
    drawn = checked.draw(TWO, FEW)
    assert (drawn.safety, drawn.nsfw) == ("checked", (False, True))
    assert drawn.pictures[1].max() == 0
    assert drawn.pictures[0].max() > 0
    assert engine.draw(TWO, FEW).safety == "absent"


def test_bf16_draws_about_the_same_picture(base: Base, engine: PictureEngine) -> None:
    half = PictureEngine.load(base, dtype="bf16").draw(TWO, FEW).pictures
    assert 0 < np.abs(half.astype(int) - engine.draw(TWO, FEW).pictures).mean() < 5
