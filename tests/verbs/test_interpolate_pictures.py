"""``detour interpolate``: strips, videos, and figures of how evenly pictures change."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from detour.adapter_files.writing import write_adapter
from detour.adapters.adapter import Adapter
from detour.bases.base import open_base
from detour.cli.main import cli
from detour.errors import ConfigError, MissingExtra
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.generation.video import check_video, save_video
from detour.specs.generation import InterpolateSpec, PictureSpec
from detour.verbs.draw.interpolation import Interpolation, interpolate_pictures, measure, notes_on
from tests.generation.pool import chosen, lora


def spec_of(base: Path, **values: Any) -> InterpolateSpec:
    how = PictureSpec(steps=2, guidance_scale=5.0)
    return InterpolateSpec.model_validate(
        {"base": str(base), "prompts": ("a house",), "frames": 3, "picture": how, **values}
    )


def test_even_steps_on_a_line_have_no_jump_and_are_monotone() -> None:
    frames = np.stack([np.full((4, 4, 3), 10 * index, np.uint8) for index in range(6)])
    found = measure(frames)
    assert found == {"steps": (10.0,) * 5, "jump": 1.0, "monotone": 1.0, "length": 1.0}


def test_a_jump_and_a_way_back_are_measured() -> None:
    levels = [0, 2, 4, 100, 98, 102]
    found = measure(np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels]))
    assert found["jump"] == 48.0  # 96 over the median of 2, 2, 96, 2, 4
    assert found["monotone"] == 0.8
    assert found["length"] == pytest.approx(106 / 102, abs=1e-3)


@pytest.mark.parametrize(("levels", "named"), [([0, 2, 4, 6, 60], "75% and 100%"), ([0, 2, 4, 6, 9], "")])
def test_a_note_names_the_place_of_a_jump(levels: list[int], named: str, tmp_path: Path) -> None:
    frames = np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels])
    place = tmp_path / "way.png"
    result = Interpolation(
        path=place,
        figures=place,
        video=None,
        base="tiny",
        shares=(0.0, 0.25, 0.5, 0.75, 1.0),
        seconds=1.0,
        **measure(frames),
    )
    notes = " ".join(notes_on(result, None))
    assert ("uneven" in notes) == bool(named)
    assert named in notes


def test_a_strip_its_figures_and_a_gif_are_written(tiny_base: Path, tmp_path: Path) -> None:
    arguments = ["interpolate", "a house", "a cat", "--base", str(tiny_base), "--seed", "1", "--seed-to", "2"]
    arguments += ["--frames", "4", "--steps", "2", "--out", str(tmp_path / "way.png")]
    done = CliRunner().invoke(cli, [*arguments, "--video", str(tmp_path / "way.gif"), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["shares"] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert len(result["steps"]) == 3
    assert min(result["steps"]) > 0
    with Image.open(tmp_path / "way.gif") as gif:
        assert gif.n_frames == 4  # type: ignore[attr-defined]
        assert gif.info["duration"] == 120 or gif.info["duration"] == 125
    with Image.open(tmp_path / "way.png") as strip:
        assert strip.width > 4 * 64
    assert json.loads((tmp_path / "way.json").read_text())["jump"] == result["jump"]
    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code != 0


def test_between_two_adapters_the_ends_are_each_alone(tiny_base: Path, tmp_path: Path) -> None:
    base = open_base(str(tiny_base))
    engine = PictureEngine.load(base)
    weights = chosen(engine.unet, "unet", "attn1", "attn2")
    adapters = [Adapter({k: lora(w, 4, seed) for k, w in weights.items()}) for seed in (10, 90)]
    files = [
        write_adapter(tmp_path / f"{i}.safetensors", one, family=base.family)
        for i, one in enumerate(adapters)
    ]
    spec = spec_of(tiny_base, lora_from=(f"{files[0]}:0.8",), lora_to=(str(files[1]),), batch=1)
    interpolate_pictures(spec, out=tmp_path / "way.png", video=tmp_path / "way.gif")
    how = PictureSpec(steps=2, guidance_scale=5.0, scheduler="ddim")
    ends = [
        engine.draw(
            [PictureRequest(prompt="a house", seed=0, how=how)],
            adapters=[AdapterInUse(adapter=adapter, weight=weight)],
        ).pictures[0]
        for adapter, weight in zip(adapters, (0.8, 1.0), strict=True)
    ]
    with Image.open(tmp_path / "way.png") as strip:
        pixels = np.asarray(strip.convert("RGB"))
    for end in ends:
        windows = np.lib.stride_tricks.sliding_window_view(pixels, end.shape)[::1, ::1, 0]
        assert any(np.array_equal(row, end) for rows in windows for row in rows)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "one end": ({}, "nothing to go between"),
    "three prompts": ({"prompts": ("a", "b", "c")}, "3 prompts"),
    "noise of its own": ({"seed_to": 2, "picture": {"scheduler": "euler-a"}}, "DDIM without noise"),
    "eta": ({"seed_to": 2, "picture": {"scheduler": "ddim", "eta": 0.5}}, "DDIM without noise"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_way_is_refused(tiny_base: Path, tmp_path: Path, what: str) -> None:
    changes, said = REFUSED[what]
    with pytest.raises(ConfigError, match=said):
        interpolate_pictures(spec_of(tiny_base, **changes), out=tmp_path / "way.png")
    assert not list(tmp_path.iterdir())


def test_a_video_without_its_extra_says_which_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingExtra, match=r"detour-lora\[video\]"):
        check_video(tmp_path / "way.mp4")
    with pytest.raises(ConfigError, match=r"\.gif, \.mp4 or \.webm"):
        check_video(tmp_path / "way.avi")
    check_video(tmp_path / "way.gif")


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # imageio's reader leaves a pipe open
def test_an_mp4_has_every_picture(tmp_path: Path) -> None:
    iio = pytest.importorskip("imageio.v3", reason="an extra (detour-lora[video])")
    pytest.importorskip("imageio_ffmpeg", reason="an extra (detour-lora[video])")
    rows = torch.linspace(0, 255, 5).to(torch.uint8).numpy()
    frames = np.stack([np.full((72, 64, 3), level, np.uint8) for level in rows])
    save_video(tmp_path / "way.mp4", frames, fps=5)
    back = iio.imread(tmp_path / "way.mp4")
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames.astype(int)).mean() < 4
