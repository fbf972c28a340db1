import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import write_adapter
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.cli.main import cli
from detour.errors import AdapterError, ConfigError
from detour.specs.generation import GenerateSpec, PictureSpec
from detour.training.checkpoints import adapter_of
from detour.verbs.draw.grid import draw_grid
from detour.verbs.draw.pictures import generate_pictures
from detour.verbs.draw.strengths import draw_strengths
from tests.adapter_files.examples import SD1, adapter_for

STEPS = 2


@pytest.fixture(scope="module")
def loras(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("loras")
    layers = adaptable_layers(open_base(str(tiny_base)).meta_network())
    first, second = select(layers, "cross-attn"), select(layers, "self-attn")
    return (
        str(write_adapter(folder / "style.safetensors", adapter_for(first, seed=1), family=SD1)),
        str(write_adapter(folder / "cat.safetensors", adapter_for(second, seed=2), family=SD1)),
    )


def spec_of(tiny: Path, loras: tuple[str, ...]) -> GenerateSpec:
    return GenerateSpec(
        prompts=("a house",),
        base=str(tiny),
        loras=loras,
        seed=5,
        device="cpu",
        picture=PictureSpec(steps=STEPS),
    )


@pytest.mark.parametrize("num", [1, 2])
@pytest.mark.parametrize("setting", [{"merge": True}, {"trace": 2}, {"width_class": 8}])
def test_a_setting_that_a_sheet_does_not_read_is_refused(
    tiny_base: Path, loras: tuple[str, str], tmp_path: Path, num: int, setting: dict[str, object]
) -> None:
    spec = spec_of(tiny_base, loras[:num]).model_copy(update=setting)
    draw = draw_grid if num == 2 else draw_strengths
    with pytest.raises(ConfigError, match=f"{next(iter(setting))}: a sheet"):
        draw(spec, out=tmp_path / "g.png")


def test_every_cell_is_the_picture_that_generate_draws(
    tiny_base: Path, loras: tuple[str, str], tmp_path: Path
) -> None:
    result = draw_grid(spec_of(tiny_base, loras), out=tmp_path / "g.png", weights=(0.5,))
    with Image.open(result.path) as image:
        sheet = np.asarray(image.convert("RGB")).astype(int)
    chosen = [(), (f"{loras[0]}:0.5",), (f"{loras[1]}:0.5",), (f"{loras[0]}:0.5", f"{loras[1]}:0.5")]
    for column, texts in enumerate(chosen):
        drawn = generate_pictures(spec_of(tiny_base, texts), out=tmp_path / str(column))
        with Image.open(drawn.files[0].path) as image:
            picture = np.asarray(image.convert("RGB")).astype(int)
        left = 8 + column * (64 + 8)
        cell = sheet[-64 - 8 : -8, left : left + 64]
        assert np.abs(cell - picture).max() <= 1, column


def test_figures_stand_beside_the_sheet(tiny_base: Path, loras: tuple[str, str], tmp_path: Path) -> None:
    result = draw_grid(spec_of(tiny_base, loras), out=tmp_path / "g.png", weights=(0.0, 1.0))
    off, on = result.rows
    assert (off.first, off.second, off.both) == (0.0, 0.0, 0.0)
    assert min(on.first, on.second, on.both) > 0
    assert json.loads((tmp_path / "g.json").read_text())["names"] == ["style", "cat"]


def test_one_adapter_is_drawn_at_every_strength_and_checkpoint(
    tiny_base: Path, loras: tuple[str, str], tmp_path: Path
) -> None:
    """Cells are the pictures that ``generate`` draws; a checkpoint equal to the file is not drawn twice."""
    run = tmp_path / "run"
    product = write_adapter(run / "run.safetensors", read_adapter(Path(loras[1])), family=SD1)
    step = write_adapter(adapter_of(run, 10), read_adapter(Path(loras[0])), family=SD1)
    shutil.copyfile(product, adapter_of(run, 20))
    result = draw_strengths(
        spec_of(tiny_base, (f"{product}:0.5",)), out=tmp_path / "g.png", strengths=(0.0, 1.0, 2.0)
    )
    assert result.checkpoints == ("step 10", "run")
    assert [row.moved[0] for row in result.rows] == [0.0, 0.0]
    assert all(row.moved[2] > row.moved[1] > 0 for row in result.rows)
    with Image.open(result.path) as image:
        sheet = np.asarray(image.convert("RGB")).astype(int)
    left = 8 + 2 * (64 + 8)  # base, 0, then strength 1
    for file, bottom in ((product, sheet.shape[0] - 8), (step, None)):
        drawn = generate_pictures(spec_of(tiny_base, (f"{file}:0.5",)), out=tmp_path / file.stem)
        with Image.open(drawn.files[0].path) as image:
            picture = np.asarray(image.convert("RGB")).astype(int)
        column = sheet[:bottom, left : left + 64]
        places = [
            top for top in range(len(column) - 63) if np.abs(column[top : top + 64] - picture).max() <= 1
        ]
        assert len(places) == 1, file
        assert bottom is None or places == [bottom - 64]


def test_the_command_with_one_adapter_shows_a_column_for_each_strength(
    tiny_base: Path, loras: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "g.png"
    asked = [
        "grid",
        "a house",
        "--base",
        str(tiny_base),
        "--lora",
        loras[0],
        "--steps",
        "1",
        "--out",
        str(out),
    ]
    told = CliRunner().invoke(cli, [*asked, "--weights", "0,1.5"])
    assert told.exit_code == 0, told.output
    for word in ("×0", "×1.5", "0.00", "style", str(out.with_suffix(".json"))):
        assert word in told.output.replace("\n", ""), word
    with Image.open(out) as image:
        assert image.width == 3 * 64 + 4 * 8  # base and two strengths, gaps between and around


def test_a_damaged_checkpoint_is_not_drawn(tiny_base: Path, loras: tuple[str, str], tmp_path: Path) -> None:
    product = write_adapter(tmp_path / "run.safetensors", read_adapter(Path(loras[1])), family=SD1)
    kept = write_adapter(adapter_of(tmp_path, 10), read_adapter(Path(loras[0])), family=SD1)
    data = bytearray(kept.read_bytes())
    data[-3] ^= 4
    kept.write_bytes(data)
    with pytest.raises(AdapterError, match="damaged"):
        draw_strengths(spec_of(tiny_base, (str(product),)), out=tmp_path / "g.png")


def test_bad_requests_write_nothing(tiny_base: Path, loras: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two adapters, 1 were named"):
        draw_grid(spec_of(tiny_base, loras[:1]), out=tmp_path / "g.png")
    with pytest.raises(ConfigError, match=r"end in \.png"):
        draw_grid(spec_of(tiny_base, loras), out=tmp_path / "g.jpg")
    assert not list(tmp_path.iterdir())
    (tmp_path / "g.json").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        draw_grid(spec_of(tiny_base, loras), out=tmp_path / "g.png")


def test_the_command_draws_the_sheet(tiny_base: Path, loras: tuple[str, str], tmp_path: Path) -> None:
    arguments = ["grid", "a house", "--base", str(tiny_base), "--lora", loras[0], "--lora", loras[1]]
    arguments += ["--weights", "1", "--steps", "1", "--out", str(tmp_path / "g.png")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "Moved from the base" in result.output
