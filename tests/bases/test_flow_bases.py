"""SD 3 and Flux folders: text states, predictions and pictures are those of diffusers' own pipelines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detour.bases.base import Base, open_base
from detour.bases.denoiser import make_denoiser
from detour.bases.names import NO_T5
from detour.errors import BaseError, ConfigError
from detour.generation.engine import PictureEngine, PictureRequest
from detour.specs.generation import PictureSpec
from tests.tiny_flow import make_tiny_flux, make_tiny_sd3

PROMPTS = ["a red cat", "an old house on a hill"]
KINDS = ("sd3", "sd3-without-t5", "sd3-t5-left-out", "sd3-without-zeros", "flux-dev", "flux-schnell")
"""``sd3-without-zeros`` has no T5 and, as ``pocket-flow``, wants no zero states in its place."""
WITH_T5 = ("sd3", "sd3-t5-left-out")


def write(kind: str, folder: Path) -> Path:
    if kind.startswith("sd3"):
        zero_states = 0 if kind == "sd3-without-zeros" else None
        return make_tiny_sd3(folder, t5=kind in WITH_T5, zero_states=zero_states)
    return make_tiny_flux(folder, guidance=kind == "flux-dev")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(kind, tmp_path_factory.mktemp("flow") / kind)


@pytest.fixture(scope="module")
def base(kind: str, folder: Path) -> Base:
    return open_base(f"{folder}{NO_T5}" if kind == "sd3-t5-left-out" else str(folder))


@pytest.fixture(scope="module")
def pipeline(kind: str, folder: Path) -> Any:
    import diffusers

    if kind.startswith("sd3"):
        lacking = {} if kind == "sd3" else {"text_encoder_3": None, "tokenizer_3": None}
        pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(folder, **lacking)
    else:
        pipe = diffusers.FluxPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def their_text(kind: str, pipeline: Any, base: Base, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    assert base.joint_text is not None
    length = base.joint_text.num_tokens
    with torch.no_grad():
        if kind.startswith("sd3"):
            states, _, pooled, _ = pipeline.encode_prompt(prompts, None, None, max_sequence_length=length)
        else:
            states, pooled, _ = pipeline.encode_prompt(prompts, None, max_sequence_length=length)
    return states, pooled


def test_text_states_are_the_pipelines(kind: str, base: Base, pipeline: Any) -> None:
    base.require_weights()
    ours = base.load_text().encode(PROMPTS)
    states, pooled = their_text(kind, pipeline, base, PROMPTS)
    torch.testing.assert_close(ours.states, states, rtol=0, atol=2e-5)
    assert ours.pooled is not None
    torch.testing.assert_close(ours.pooled, pooled, rtol=0, atol=2e-5)


def test_t5_in_bf16_gives_the_states_of_fp32_to_its_precision_beside_clips_exact_ones(
    kind: str, base: Base
) -> None:
    if base.family.t5_part not in base.text_parts:
        pytest.skip("has no T5")
    exact = base.load_text().encode(PROMPTS)
    stage = base.load_text(t5_dtype=torch.bfloat16)
    assert stage.models[str(base.family.t5_part)].dtype == torch.bfloat16
    rounded = stage.encode(PROMPTS)
    assert rounded.states.dtype == torch.float32
    clip = 77 if kind.startswith("sd3") else 0
    assert torch.equal(rounded.states[:, :clip], exact.states[:, :clip])
    off = (rounded.states - exact.states).norm() / exact.states[:, clip:].norm()
    assert 0 < off < 0.02
    assert exact.pooled is not None
    assert rounded.pooled is not None
    assert torch.equal(rounded.pooled, exact.pooled)


def test_the_length_of_the_text_is_that_of_its_states(base: Base) -> None:
    assert base.load_text().encode(PROMPTS).states.shape[1] == base.text_length


def test_a_left_out_t5_is_neither_loaded_nor_part_of_what_pictures_depend_on(tmp_path: Path) -> None:
    whole = open_base(str(make_tiny_sd3(tmp_path / "base")))
    assert "text_encoder_3" in whole.loaded_parts
    (tmp_path / "base" / "text_encoder_3" / "model.safetensors").write_bytes(b"not weights")
    left_out = open_base(f"{tmp_path / 'base'}{NO_T5}")
    assert "text_encoder_3" not in left_out.loaded_parts
    assert left_out.identity == whole.identity, "the same adapters fit"
    assert (
        left_out.weights_sha256()
        == open_base(str(make_tiny_sd3(tmp_path / "other", t5=False))).weights_sha256()
    )
    assert left_out.load_text().encode(PROMPTS).states.shape[1] == whole.text_length


def test_a_t5_that_cannot_be_left_out_is_said(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(Flux\) reads T5's states alone"):
        open_base(f"{make_tiny_flux(tmp_path / 'flux')}{NO_T5}")
    with pytest.raises(ConfigError, match=r"\(Stable Diffusion 1\.x\) has no T5"):
        open_base(f"{tiny_base}{NO_T5}")
    with pytest.raises(BaseError, match="'nowhere' is no file or folder"):
        open_base(f"nowhere{NO_T5}")


def test_zero_states_are_part_of_what_pictures_depend_on(tmp_path: Path) -> None:
    """Two folders with the same weights, which draw differently: by number of zero states."""
    none, few, plain = (
        open_base(str(make_tiny_sd3(tmp_path / str(number), t5=False, zero_states=number)))
        for number in (0, 3, None)
    )
    assert len({base.content_sha256() for base in (none, few, plain)}) == 3
    assert len({base.weights_sha256() for base in (none, few, plain)}) == 1
    assert [base.text_length for base in (none, few, plain)] == [77, 80, 77 + 256]


@pytest.mark.parametrize("index", ['{"_zero_states": -1}', '{"_zero_states": "many"}', "[", "[1]"])
def test_an_index_that_asks_for_no_number_of_zero_states_is_refused(tmp_path: Path, index: str) -> None:
    folder = make_tiny_sd3(tmp_path / "base", t5=False)
    (folder / "model_index.json").write_text(index)
    with pytest.raises(BaseError, match=r"model_index\.json: .*(whole number|not readable)"):
        open_base(str(folder))


def test_predictions_are_the_transformers_own_at_exact_times(kind: str, base: Base, pipeline: Any) -> None:
    states, pooled = their_text(kind, pipeline, base, PROMPTS)
    text = base.load_text().encode(PROMPTS)
    denoiser = make_denoiser(base, base.load_network(), device="cpu", dtype=torch.float32)
    noisy = torch.randn(2, base.latent_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    times = torch.tensor([0.7512, 0.2])
    with torch.no_grad():
        ours = denoiser.predict(noisy, times, text)
        if kind.startswith("sd3"):
            theirs = pipeline.transformer(noisy, states, pooled, times * 1000, return_dict=False)[0]
        else:
            ids = pipeline._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32)
            theirs = pipeline.transformer(
                pipeline._pack_latents(noisy, 2, base.latent_channels, 8, 8),
                states,
                pooled,
                times,
                ids,
                torch.zeros(states.shape[1], 3),
                torch.ones(2) if base.embeds_guidance else None,
                return_dict=False,
            )[0]
            theirs = pipeline._unpack_latents(theirs, 64, 64, base.latent_factor)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert ours.std() > 0.05  # noise alone would be as equal


def their_pictures(
    kind: str, pipeline: Any, seeds: list[int], size: tuple[int, int], **how: Any
) -> np.ndarray:
    pictures = pipeline(
        PROMPTS,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        height=size[0],
        width=size[1],
        output_type="np",
        **how,
    ).images
    return (pictures * 255).round().astype(np.int16)


def draw(base: Base, spec: PictureSpec) -> np.ndarray:
    spec = spec.model_copy(
        update={key: 64 for key in ("width_px", "height_px") if getattr(spec, key) == "auto"}
    )
    requests = [
        PictureRequest(prompt=prompt, seed=seed) for prompt, seed in zip(PROMPTS, (3, 4), strict=True)
    ]
    return PictureEngine.load(base).draw(requests, spec).pictures.astype(np.int16)


def test_pictures_are_the_pipelines(kind: str, base: Base, pipeline: Any) -> None:
    size = (64, 96)  # not the base's own: a shift that moves with the size moves
    spec = PictureSpec(steps=4, height_px=size[0], width_px=size[1])
    assert base.joint_text is not None
    how: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": base.recommended_guidance}
    how["max_sequence_length"] = base.joint_text.num_tokens
    ours = draw(base, spec)
    theirs = their_pictures(kind, pipeline, [3, 4], size, **how)
    assert np.abs(ours - theirs).max() <= 1
    assert np.abs(ours[0] - ours[1]).max() > 20


def test_a_negative_prompt_steers_as_in_the_pipelines(kind: str, base: Base, pipeline: Any) -> None:
    away = "blurry"
    how: dict[str, Any] = {"num_inference_steps": 3, "negative_prompt": [away] * 2}
    if kind.startswith("sd3"):
        spec = PictureSpec(steps=3, negative_prompt=away, guidance_scale=6)
        how["guidance_scale"] = 6.0
    elif kind == "flux-dev":
        spec = PictureSpec(steps=3, negative_prompt=away, guidance_scale=3, true_guidance_scale=4)
        how |= {"guidance_scale": 3.0, "true_cfg_scale": 4.0}
    else:
        spec = PictureSpec(steps=3, negative_prompt=away, guidance_scale=4)
        how["true_cfg_scale"] = 4.0
    if base.joint_text is not None:
        how["max_sequence_length"] = base.joint_text.num_tokens
    ours, plain = draw(base, spec), draw(base, spec.model_copy(update={"negative_prompt": ""}))
    assert np.abs(ours - their_pictures(kind, pipeline, [3, 4], (64, 64), **how)).max() <= 1
    assert np.abs(ours - plain).max() > 1


def test_the_told_guidance_scale_changes_the_picture_of_dev_alone(kind: str, base: Base) -> None:
    low, high = (draw(base, PictureSpec(steps=2, guidance_scale=scale)) for scale in (0.0, 1.0))
    assert bool(np.abs(low - high).max() > 0) == (kind == "flux-dev")


def test_samplers_of_other_processes_are_refused_by_name(base: Base) -> None:
    with pytest.raises(ConfigError, match=r"scheduler 'ddim'.*rectified.*euler or dpm"):
        draw(base, PictureSpec(steps=2, scheduler="ddim"))
    assert PictureEngine.load(base).resolved(PictureSpec()).scheduler == "euler"


def test_pictures_beyond_the_table_of_positions_are_refused_before_anything_is_drawn(
    kind: str, base: Base
) -> None:
    spec = PictureSpec(steps=1, width_px=64, height_px=272)  # 16 positions of 2 × 2 latents of 8 px reach 256
    engine = PictureEngine.load(base)
    if kind.startswith("sd3"):
        with pytest.raises(ConfigError, match=r"pictures of 272 px: the position table .* ends at 256 px"):
            engine.resolved(spec)
        assert engine.resolved(spec.model_copy(update={"height_px": 256})).height_px == 256
    else:
        assert engine.resolved(spec).height_px == 272
