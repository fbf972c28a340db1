"""The drawing studies on a base with random weights: what they compare is right, whatever the pictures show."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from detour.adapter_files.writing import write_adapter
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.bases.families import FAMILIES
from detour.cli.main import cli
from detour.diffusion.process import shifted
from detour.errors import ConfigError
from detour.specs.generation import GenerateSpec, PictureSpec
from detour.specs.studies import StudySpec
from detour.verbs.draw.pictures import generate_pictures
from detour.verbs.studies.blocks import of_blocks, study_blocks
from detour.verbs.studies.engine import Cell, CellStore, Variant
from detour.verbs.studies.guidance import study_guidance
from detour.verbs.studies.schedulers import study_schedulers
from detour.verbs.studies.studio import Studio, colours_of
from detour.verbs.studies.table import Row, Table
from detour.verbs.studies.timesteps import study_timesteps
from tests.adapter_files.examples import SD1, adapter_for, small_adapter
from tests.adapter_files.transformers import lora_on
from tests.tiny_flow import make_tiny_sd3

PROMPTS = ("a red house", "a dog")


@pytest.fixture(scope="module")
def lora(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    layers = select(adaptable_layers(open_base(str(tiny_base)).meta_network()), "attn")
    path = tmp_path_factory.mktemp("loras") / "style.safetensors"
    return str(write_adapter(path, adapter_for(layers, seed=1), family=SD1))


def spec_of(judged: str, /, **values: object) -> StudySpec:
    defaults = {
        "base": judged, "prompts": PROMPTS, "seeds": 2, "device": "cpu", "batch": 2,
        "picture": PictureSpec(steps=3),
    }  # fmt: skip
    return StudySpec(**{**defaults, **values})


def pictures(folder: Path, variant: str, seed: int) -> np.ndarray:
    return CellStore(folder, []).pictures(variant, seed)


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def samples(folder: Path, variant: str, figure: str) -> list[float]:
    cells = [Cell.model_validate_json(line) for line in (folder / "cells.jsonl").read_text().splitlines()]
    return [value for cell in cells if cell.variant == variant for value in cell.samples.get(figure, ())]


def assert_whole(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names >= {"settings.json", "table.json", "table.csv", "figure.png", "sheet.png", "finding.md"}
    assert (folder / "finding.md").read_text().strip()
    assert (folder / "table.csv").read_text().startswith("variant,")


def test_schedulers_compare_each_picture_with_the_reference_of_its_seed(judged: str, tmp_path: Path) -> None:
    out = tmp_path / "s"
    result = study_schedulers(
        spec_of(judged), out=out, steps=(2, 4), samplers=("dpm++", "ddim"), reference_steps=4, budget_s=1e-9
    )
    assert_whole(out)
    assert [row.variant for row in result.table.rows] == [
        "reference",
        "dpmpp-2",
        "dpmpp-4",
        "ddim-2",
        "ddim-4",
    ]
    assert max(samples(out, "dpmpp-4", "pixels")) <= 1  # the reference again
    for seed in (0, 1):
        apart = np.abs(
            pictures(out, "ddim-2", seed).astype(int) - pictures(out, "reference", seed).astype(int)
        ).mean((1, 2, 3))
        assert samples(out, "ddim-2", "pixels")[2 * seed : 2 * seed + 2] == pytest.approx(apart)
    assert len(samples(out, "reference", "another_seed_pixels")) == len(PROMPTS)
    assert "Nothing fits 1e-09 s a picture" in result.finding


def test_a_study_goes_on_and_draws_nothing_twice(judged: str, tmp_path: Path) -> None:
    out = tmp_path / "g"
    study_guidance(spec_of(judged, seeds=1), out=out, scales=(1, 6))
    before = (out / "cells.jsonl").read_text()
    study_guidance(spec_of(judged), out=out, scales=(1, 6, 12))
    after = (out / "cells.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 6
    with pytest.raises(ConfigError, match="holds an experiment with prompts"):
        study_guidance(spec_of(judged, prompts=("a cat", "a dog")), out=out)


@pytest.mark.parametrize(
    ("file", "key"),
    [("unet/diffusion_pytorch_model.safetensors", "base_sha256"), ("judge/model.safetensors", "judge")],
)
def test_a_base_or_judge_that_was_edited_under_its_name_is_another_one(
    judged: str, tmp_path: Path, file: str, key: str
) -> None:
    base = shutil.copytree(judged, tmp_path / "base")
    study = Studio.open(spec_of(str(base)))
    before = study.settings()
    weights = base / file
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    after = Studio.open(spec_of(str(base))).settings()
    assert {name for name in before if before[name] != after[name]} == {key}


def test_guidance_figures_rise_with_colour(judged: str, tmp_path: Path) -> None:
    result = study_guidance(spec_of(judged), out=tmp_path / "g", scales=(1, 30))
    assert_whole(tmp_path / "g")
    assert set(result.table.rows[0].figures) == {
        "clip", "saturation", "clipped", "contrast", "round_trip", "variety",
    }  # fmt: skip
    grey = np.full((1, 8, 8, 3), 128, np.uint8)
    red = np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert (colours_of(grey)["saturation"], colours_of(grey)["clipped"]) == ([0.0], [0.0])
    assert (colours_of(red)["saturation"], colours_of(red)["clipped"]) == ([1.0], [1.0])


def test_timesteps_windows_are_the_pictures_that_generate_draws(
    judged: str, lora: str, tmp_path: Path
) -> None:
    out = tmp_path / "t"
    result = study_timesteps(spec_of(judged, lora=f"{lora}:0.5", seeds=1), out=out, num_timesteps=3)
    assert_whole(out)
    assert (out / "predictions" / "table.json").is_file()
    windows = {"only-early": ((0.0, 1.0), (1 / 3, 0.0)), "base": (), "full": ()}
    for name, steps in windows.items():
        spec = GenerateSpec(
            prompts=PROMPTS, base=judged, seed=1000, device="cpu", batch=2, lora_steps=steps,
            picture=PictureSpec(steps=3), loras=() if name == "base" else (f"{lora}:0.5",),
        )  # fmt: skip
        files = generate_pictures(spec, out=tmp_path / name).files
        drawn = np.stack([opened(file.path) for file in files])
        assert np.array_equal(drawn, pictures(out, name, 0)), name
    assert result.table.row("full").figures["move"].mean == pytest.approx(1.0)
    assert result.table.row("only-early").figures["pixels"].mean > 0


def test_predictions_do_not_differ_where_the_adapter_weighs_nothing(
    judged: str, lora: str, tmp_path: Path
) -> None:
    study_timesteps(spec_of(judged, lora=f"{lora}:0", seeds=1), out=tmp_path / "t", num_timesteps=2)
    for name in ("t333", "t666"):
        assert samples(tmp_path / "t" / "predictions", name, "prediction") == [0.0] * len(PROMPTS)


def test_blocks_are_switched_off_one_at_a_time(judged: str, lora: str, tmp_path: Path) -> None:
    out = tmp_path / "b"
    result = study_blocks(spec_of(judged, lora=lora, seeds=1), out=out)
    assert_whole(out)
    blocks = [row.settings["block"] for row in result.table.rows if row.settings["which"] == "without"]
    assert blocks == ["down.0", "mid", "up.1"]
    assert result.table.row("full").figures["move"].mean == pytest.approx(1.0)
    full, base = pictures(out, "full", 0), pictures(out, "base", 0)
    for block in blocks:
        for which in ("without", "only"):
            here = pictures(out, f"{which}-{block}", 0)
            assert not np.array_equal(here, full), (which, block)
            assert not np.array_equal(here, base), (which, block)


def test_a_block_is_left_out_or_left_alone() -> None:
    adapter = small_adapter()
    down = {key for key in adapter.layers if "down_blocks.0" in key}
    kept = {
        which: set(of_blocks(adapter, Variant(name="x", settings={"which": which, "block": "down.0"})).layers)
        for which in ("only", "without", "full", "base")
    }
    assert down
    assert kept == {
        "only": down, "without": {"unet.conv_in"}, "full": set(adapter.layers), "base": set(),
    }  # fmt: skip


def test_move_is_counted_along_the_full_one(judged: str) -> None:
    studio = Studio.open(spec_of(judged))
    rng = np.random.default_rng(0)
    plain, full = rng.integers(0, 256, size=(2, 3, 64, 64, 3), dtype=np.uint8)
    assert np.mean(studio.share_of_move(full, plain, full)) == pytest.approx(1.0)
    assert np.mean(studio.share_of_move(plain, plain, full)) == pytest.approx(0.0)


def test_what_cannot_be_studied_is_said_before_anything_is_loaded(
    tiny_base: Path, judged: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="has no judge of its own"):
        study_guidance(spec_of(str(tiny_base)), out=tmp_path / "x")
    with pytest.raises(ConfigError, match="no prompts: name some with --prompt"):
        study_guidance(spec_of(judged, prompts=()), out=tmp_path / "x")
    with pytest.raises(ConfigError, match="at least two guidance scales"):
        study_guidance(spec_of(judged), out=tmp_path / "x", scales=(3,))
    with pytest.raises(ConfigError, match="no adapter"):
        study_blocks(spec_of(judged), out=tmp_path / "x")
    with pytest.raises(ConfigError, match="at least one sampler"):
        study_schedulers(spec_of(judged), out=tmp_path / "x", steps=())
    assert not (tmp_path / "x").exists()


def test_on_the_embedded_base_prompts_are_read_word_by_word_beside_true_pictures(tmp_path: Path) -> None:
    spec = StudySpec(num_prompts=2, seeds=1, device="cpu", picture=PictureSpec(steps=1))
    result = study_guidance(spec, out=tmp_path / "g", scales=(1, 2))
    assert [row.variant for row in result.table.rows] == ["cfg-1", "cfg-2", "true"]
    true = result.table.row("true").figures
    assert {"object", "colour", "place"} <= set(true)
    assert true["colour"].mean == 1.0


def test_commands_print_table_and_finding(judged: str, lora: str, tmp_path: Path) -> None:
    common = ["--base", judged, "--prompt", "a dog", "--seeds", "1", "--batch", "1"]
    runs = {
        "schedulers": ["--steps", "1", "--samplers", "ddim", "--reference-steps", "2", "--budget", "9s"],
        "guidance": ["--scales", "1,2", "--steps", "1"],
        "timesteps": [lora, "--steps", "3", "--timesteps", "2"],
        "blocks": [lora, "--steps", "1"],
    }
    for name, arguments in runs.items():
        result = CliRunner().invoke(cli, [name, *arguments, *common, "--out", str(tmp_path / name)])
        assert result.exit_code == 0, (name, result.output, result.exception)
        assert f"folder: {tmp_path / name}" in result.output
    arguments = ["guidance", *runs["guidance"], *common, "--out", str(tmp_path / "guidance"), "--json"]
    assert json.loads(CliRunner().invoke(cli, arguments).stdout)["finding"]
    bad = CliRunner().invoke(cli, ["schedulers", "--samplers", "heun"])
    assert "'heun' is no sampler" in bad.output


def test_studies_of_an_adapter_go_on_a_flow(judged: str, tmp_path: Path) -> None:
    """Windows, blocks and samplers of a transformer: its own noise levels, its own block names."""
    base = make_tiny_sd3(tmp_path / "flow", t5=False)
    lora = str(
        write_adapter(
            tmp_path / "flow.safetensors",
            lora_on(open_base(str(base)).load_network()),
            family=FAMILIES["sd3"],
        )
    )
    asked = {
        "base": str(base), "judge": f"{judged}/judge", "lora": lora, "seeds": 1, "prompts": PROMPTS[:1],
    }  # fmt: skip
    windows = study_timesteps(spec_of(judged, **asked), out=tmp_path / "t", num_timesteps=2)
    levels = [row.settings["timestep"] for row in _curve(tmp_path / "t")]
    assert levels == pytest.approx([shifted(1 / 3, 3.0), shifted(2 / 3, 3.0)])
    assert windows.table.row("only-early").figures["move"].mean != 1
    blocks = study_blocks(spec_of(judged, **asked), out=tmp_path / "b")
    assert [row.settings["block"] for row in blocks.table.rows if row.settings["which"] == "without"] == [
        "rest",
        "block.0",
        "block.1",
    ]
    samplers = study_schedulers(spec_of(judged, **asked), out=tmp_path / "s", steps=(2,), reference_steps=4)
    assert {row.settings["sampler"] for row in samplers.table.rows} == {"euler", "dpm++"}
    with pytest.raises(ConfigError, match="scheduler 'ddim'"):
        study_schedulers(spec_of(judged, **asked), out=tmp_path / "x", samplers=("ddim",))


def _curve(folder: Path) -> list[Row]:
    return list(Table.model_validate_json((folder / "predictions" / "table.json").read_text()).rows)
