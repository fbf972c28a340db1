"""``--policy`` of sheets and strips: what a policy withholds is in no file, is named, and is the exit code."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detour.adapter_files.writing import write_adapter
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.cli.main import run
from detour.errors import Withheld
from detour.specs.generation import GenerateSpec, InterpolateSpec, PictureSpec
from detour.verbs.draw.grid import draw_grid
from detour.verbs.draw.interpolation import interpolate_pictures
from detour.verbs.draw.pictures import generate_pictures
from detour.verbs.draw.strengths import draw_strengths
from tests.adapter_files.examples import SD1, adapter_for
from tests.safety.policies import RULES, TERMS, rendered, write_pictures, write_policy

GREY = 128


@pytest.fixture(scope="module")
def lora(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    layers = select(adaptable_layers(open_base(str(tiny_base)).meta_network()), "self-attn")
    place = tmp_path_factory.mktemp("loras") / "style.safetensors"
    return str(write_adapter(place, adapter_for(layers, seed=1), family=SD1))


def way(base: Path, policy: Path | None, *prompts: str) -> InterpolateSpec:
    return InterpolateSpec(
        prompts=prompts, seed=1, seed_to=2, frames=4, base=str(base), device="cpu",
        policy=policy and str(policy), picture=PictureSpec(steps=2, guidance_scale=4.0),
    )  # fmt: skip


def sheet(base: Path, policy: Path | None, *prompts: str, loras: tuple[str, ...]) -> GenerateSpec:
    return GenerateSpec(
        prompts=prompts, base=str(base), loras=loras, seed=5, device="cpu", policy=policy and str(policy),
        picture=PictureSpec(steps=2),
    )  # fmt: skip


def cells(path: Path) -> np.ndarray:
    """Whether each field of a one-row sheet is grey all over."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    row = pixels[-64 - 8 : -8]
    count = (row.shape[1] - 8) // 72
    return np.array([(row[:, 8 + 72 * i : 72 * i + 72] == GREY).all() for i in range(count)])


@pytest.mark.parametrize("prompts", [("a cr0wn",), ("a house", "a cr0wn")])
def test_both_ends_of_a_way_pass_the_layers_of_texts(
    tiny_base: Path, tmp_path: Path, prompts: tuple[str, ...]
) -> None:
    policy = write_policy(tmp_path, terms=TERMS, rewrite=RULES)
    with pytest.raises(Withheld, match=r"nothing may be drawn.*terms\.crowns"):
        interpolate_pictures(way(tiny_base, policy, *prompts), out=tmp_path / "way.png")
    assert not (tmp_path / "way.png").exists()


def test_a_withheld_picture_of_a_way_is_grey_in_the_strip_and_in_no_figure(
    tiny_base: Path, tmp_path: Path
) -> None:
    plain = interpolate_pictures(way(tiny_base, None, "a house"), out=tmp_path / "plain.png")
    with Image.open(plain.path) as image:
        first = np.asarray(image.convert("RGB"))[-64 - 8 : -8, 8:72]
    write_pictures(tmp_path / "works", [first, rendered("house", 3), rendered("duck", 5)])
    policy = write_policy(tmp_path, copies={"references": "works", "margin": 0.0})
    found = interpolate_pictures(
        way(tiny_base, policy, "a house"), out=tmp_path / "way.png", video=tmp_path / "way.gif"
    )
    assert (0, "picture", "copies") in [(one.number, one.stage, one.code) for one in found.withheld]
    gone = {one.number for one in found.withheld}
    assert cells(found.path).tolist() == [number in gone for number in range(4)]
    with Image.open(tmp_path / "way.gif") as video:
        assert (np.asarray(video.convert("RGB")) == GREY).all()
    left = [number for number in range(4) if number not in gone]
    assert found.shares == tuple(plain.shares[number] for number in left)
    assert len(found.steps) == len(left) - 1
    assert "copies" in found.figures.read_text()


def test_a_refused_prompt_of_a_sheet_has_no_row_and_the_exit_code_says_so(
    tiny_base: Path, tmp_path: Path, lora: str, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = write_policy(tmp_path, terms=TERMS, rewrite=RULES)
    prompts = ("a cr0wn", "a house")
    found = draw_strengths(
        sheet(tiny_base, policy, *prompts, loras=(lora,)), out=tmp_path / "s.png", strengths=(1.0,)
    )
    assert [row.prompt for row in found.rows] == ["a house"]
    plain = draw_strengths(
        sheet(tiny_base, None, *prompts, loras=(lora,)), out=tmp_path / "p.png", strengths=(1.0,)
    )
    assert found.rows[0].seed == plain.rows[1].seed
    # Alone it is drawn at a narrower width class, which is another rounding.
    assert found.rows[0].moved == pytest.approx(plain.rows[1].moved, abs=0.05)
    pair = draw_grid(
        sheet(tiny_base, policy, *prompts, loras=(lora, lora)), out=tmp_path / "g.png", weights=(1.0,)
    )
    assert [row.prompt for row in pair.rows] == ["a house"]
    assert [one.code for one in pair.withheld] == ["terms.crowns"]
    arguments = ["grid", *prompts, "--lora", lora, "--base", str(tiny_base), "--steps", "2", "--weights", "1"]
    with pytest.raises(SystemExit) as stopped:
        run([*arguments, "--policy", str(policy), "--out", str(tmp_path / "c.png")])
    assert stopped.value.code == 19
    assert "terms.crowns" in capsys.readouterr().err


def test_a_withheld_cell_of_a_sheet_is_grey(tiny_base: Path, tmp_path: Path, lora: str) -> None:
    one = sheet(tiny_base, None, "a house", loras=())
    made = generate_pictures(one, out=tmp_path / "plain").files[0].path
    with Image.open(made) as image:
        work = np.asarray(image.convert("RGB"))
    write_pictures(tmp_path / "works", [work, rendered("house", 3), rendered("duck", 5)])
    policy = write_policy(tmp_path, copies={"references": "works", "margin": 0.0})
    found = draw_strengths(
        sheet(tiny_base, policy, "a house", loras=(lora,)), out=tmp_path / "s.png", strengths=(0.0, 4.0)
    )
    grey = cells(found.path)
    assert grey[:2].all(), "the base's picture, and the same with the adapter at strength 0"
    assert len(found.withheld) == grey.sum()
    assert found.rows[0].moved[0] == 0
