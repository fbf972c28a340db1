import json
from pathlib import Path

import pytest

from detour.errors import ConfigError, DataError
from detour.verbs.explain.slow_step import StepTrace, step_once
from detour.verbs.explain.step_figure import plot_step
from tests.tiny_flow import make_tiny_flux, make_tiny_sd3
from tests.verbs.photos import make_photos


@pytest.fixture(scope="module")
def trace(tiny_base: Path) -> StepTrace:
    return step_once(base=str(tiny_base), timestep=300, rank=2)


def test_every_tensor_from_picture_to_loss_is_there_in_order(trace: StepTrace) -> None:
    names = [note.name for note in trace.tensors]
    assert names == [
        "pixels",
        "latent_mean",
        "latent_std",
        "latents",
        "timesteps",
        "noise",
        "noisy_latents",
        "text_states",
        "prediction",
        "target",
        "loss",
    ]
    by_name = {note.name: note for note in trace.tensors}
    assert by_name["pixels"].shape == (1, 3, 64, 64)
    assert by_name["latents"].shape == by_name["noise"].shape == by_name["prediction"].shape == (1, 4, 8, 8)
    assert by_name["timesteps"].mean == trace.timestep == 300
    assert by_name["loss"].mean == trace.loss
    alpha = trace.signal_share**2
    latents, noisy = by_name["latents"], by_name["noisy_latents"]
    assert noisy.std**2 == pytest.approx(alpha * latents.std**2 + 1 - alpha, rel=0.25)


def test_first_step_moves_up_alone_and_says_why(trace: StepTrace) -> None:
    assert trace.gradients
    assert all(group.down_grad_norm == 0 for group in trace.gradients)
    assert all(group.up_grad_norm > 0 and group.up_change_norm > 0 for group in trace.gradients)
    assert [g.block for g in trace.gradients] == ["down_blocks.0", "mid_block", "up_blocks.1"]
    assert any("'down' gets no gradient in the first step" in remark for remark in trace.remarks)
    assert trace.base_unchanged


def test_trace_is_json_and_a_picture(trace: StepTrace, tmp_path: Path) -> None:
    again = StepTrace.model_validate_json(trace.to_json())
    assert again.tensors == trace.tensors
    assert "pictures" not in json.loads(trace.to_json())
    path = plot_step(trace, tmp_path / "step.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert plot_step(trace, tmp_path / "again.png").read_bytes() == path.read_bytes()
    with pytest.raises(ConfigError, match="has no pictures"):
        plot_step(again, tmp_path / "no.png")


def test_own_picture_takes_the_caption_beside_it(tiny_base: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path, 1)
    trace = step_once(base=str(tiny_base), picture=photos / "0.png", rank=1)
    assert (trace.picture, trace.caption) == ("0.png", "picture 0")


def test_bad_input_is_one_line(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="timestep 1000 is outside"):
        step_once(base=str(tiny_base), timestep=1000)
    with pytest.raises(DataError, match="no such picture"):
        step_once(base=str(tiny_base), picture=tmp_path / "none.png")


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_step_of_a_flow_is_told_in_its_own_terms(family: str, tmp_path: Path) -> None:
    base = make_tiny_sd3(tmp_path / "b") if family == "sd3" else make_tiny_flux(tmp_path / "b")
    trace = step_once(base=str(base), picture=make_photos(tmp_path / "p", 1) / "0.png", timestep=0.25, rank=2)
    by_name = {note.name: note for note in trace.tensors}
    assert trace.signal_share == pytest.approx(0.75)
    assert trace.timestep == "0.250000"
    assert by_name["timesteps"].mean == 0.25
    noise, latents, target = (by_name[name] for name in ("noise", "latents", "target"))
    assert target.mean == pytest.approx(noise.mean - latents.mean, abs=1e-5)
    assert "velocity" in by_name["target"].meaning
    assert "UNet" not in " ".join((*trace.remarks, *(note.meaning for note in trace.tensors)))
    blocks = [group.block for group in trace.gradients]
    assert blocks[:2] == ["transformer_blocks.0", "transformer_blocks.1"]
    assert blocks[2:] == ([] if family == "sd3" else [f"single_transformer_blocks.{i}" for i in (0, 1)])
    with pytest.raises(ConfigError, match=r"timestep 2 is outside the schedule. Choose 0 to 1"):
        step_once(base=str(base), picture=tmp_path / "p" / "0.png", timestep=2.0)
