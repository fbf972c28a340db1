"""``detour generate --policy``: each picture is refused alone, with a code, and never silently missing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detour.cli.main import run
from detour.errors import ConfigError
from detour.generation.png import read_png_metadata
from detour.specs.generation import GenerateSpec, PictureSpec
from detour.verbs.draw.pictures import generate_pictures
from tests.safety.policies import RULES, TERMS, rendered, write_pictures, write_policy


def spec_of(base: Path, policy: Path | None, *prompts: str, **other: object) -> GenerateSpec:
    told = {"picture": PictureSpec(steps=2, guidance_scale=4.0), "device": "cpu", "batch": 2, **other}
    return GenerateSpec(prompts=prompts, base=str(base), policy=policy and str(policy), **told)


def test_one_picture_of_a_batch_is_refused_alone_and_the_others_keep_their_bytes(
    tiny_base: Path, tmp_path: Path
) -> None:
    policy = write_policy(tmp_path, terms=TERMS, rewrite=RULES)
    prompts = ("a house", "a cr0wn", "a bowler hat", "a cat")
    result = generate_pictures(
        spec_of(tiny_base, policy, *prompts, width_class=4), out=tmp_path / "out", grid=True
    )
    assert [(one.number, one.stage, one.code) for one in result.withheld] == [(1, "request", "terms.crowns")]
    drawn = [file for file in result.files if file.kind == "picture"]
    assert [file.path.name[:4] for file in drawn] == ["0000", "0002", "0003"]
    assert [file.metadata.prompt for file in drawn if file.metadata] == ["a house", "a cup", "a cat"]
    read = read_png_metadata(drawn[0].path)
    assert read is not None
    assert read.policy == result.policy
    assert result.policy.startswith("test@1:")
    assert any("'a bowler hat' to 'a cup'" in note for note in result.notes)
    plain = generate_pictures(
        spec_of(tiny_base, None, "a house", "x", "a cup", "a cat", width_class=4), out=tmp_path / "plain"
    )
    for file, number in zip(drawn, (0, 2, 3), strict=True):
        same = next(one.path for one in plain.files if one.path.name.startswith(f"{number:04d}"))
        with Image.open(file.path) as one, Image.open(same) as other:
            assert np.array_equal(np.asarray(one), np.asarray(other))


def test_a_picture_that_is_refused_is_in_no_file(tiny_base: Path, tmp_path: Path) -> None:
    plain = generate_pictures(spec_of(tiny_base, None, "a house", "a cat"), out=tmp_path / "plain")
    with Image.open(plain.files[0].path) as image:
        work = np.asarray(image.convert("RGB"))
    write_pictures(tmp_path / "works", [work, rendered("house", 3), rendered("duck", 5)])
    policy = write_policy(tmp_path, copies={"references": "works", "margin": 0.0})
    result = generate_pictures(
        spec_of(tiny_base, policy, "a house", "a cat"), out=tmp_path / "out", grid=True
    )
    assert (0, "picture", "copies") in [(one.number, one.stage, one.code) for one in result.withheld]
    left = [file.path.name for file in result.files if file.kind == "picture"]
    assert not any(name.startswith("0000") for name in left)
    assert len(left) + len(result.withheld) == 2
    with Image.open(next(file.path for file in result.files if file.kind == "grid")) as sheet:
        assert (np.asarray(sheet.convert("RGB")) == 128).all(axis=2).sum() >= work.shape[0] * work.shape[1]


def test_a_call_of_which_nothing_is_drawn_says_so(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = write_policy(tmp_path, terms=TERMS, rewrite=RULES)
    with pytest.raises(SystemExit) as stop:
        run(["generate", "a crown", "--base", str(tiny_base), "--steps", "1", "--device", "cpu",
             "--policy", str(policy), "--out", str(tmp_path / "out")])  # fmt: skip
    told = capsys.readouterr()
    assert stop.value.code == 19
    assert "refused by the safety policy (layer terms, code terms.crowns)" in told.out
    assert "1 of 1 pictures" in told.err
    assert not list(tmp_path.glob("out/*.png"))


def test_moments_that_no_layer_sees_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    policy = write_policy(tmp_path, frames={})
    with pytest.raises(ConfigError, match="never see"):
        generate_pictures(spec_of(tiny_base, policy, "a house", trace=2), out=tmp_path / "out")
