"""``detour generate --from PICTURE``: sizes, masks and what the files say of it."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detour.bases.base import Base, open_base
from detour.errors import ConfigError, DataError
from detour.generation.png import parameters_text, read_png_metadata
from detour.specs.generation import GenerateSpec, PictureSpec
from detour.verbs.draw.pictures import generate_pictures
from detour.verbs.draw.start_picture import open_start, size_like


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return open_base(str(tiny_base))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows, columns = np.mgrid[:100, :200]
    pixels = np.stack([rows * 2, columns, rows + columns], axis=-1).astype(np.uint8)
    path = tmp_path_factory.mktemp("photos") / "wide.png"
    Image.fromarray(pixels).save(path)
    return path


def spec_of(tiny: Path, photo: Path, **values: object) -> GenerateSpec:
    how = PictureSpec(steps=4)
    whole = {"base": str(tiny), "prompts": ("a cat",), "picture": how, "start": str(photo), **values}
    return GenerateSpec.model_validate(whole)


@pytest.mark.parametrize("size", [(100, 100), (200, 100), (90, 160), (30, 400)])
def test_a_picture_gives_its_shape_at_the_bases_area(base: Base, size: tuple[int, int]) -> None:
    width, height = size_like(size, base)
    step, area = base.drawing_step_px, base.native_size_px**2
    assert width % step == height % step == 0
    assert abs(width - (area * size[0] / size[1]) ** 0.5) <= step / 2 or width == step
    assert abs(height - (area * size[1] / size[0]) ** 0.5) <= step / 2 or height == step


def test_the_files_say_what_they_began_with(tiny_base: Path, photo: Path, tmp_path: Path) -> None:
    found = generate_pictures(spec_of(tiny_base, photo, strength=0.5), out=tmp_path)
    metadata = read_png_metadata(found.files[0].path)
    assert metadata is not None
    assert metadata.start is not None
    assert metadata.start.sha256 == hashlib.sha256(photo.read_bytes()).hexdigest()
    assert metadata.start.strength == 0.5
    assert metadata.start.mask_sha256 == ""
    assert "Denoising strength: 0.5" in parameters_text(metadata)
    with Image.open(found.files[0].path) as drawn:
        assert drawn.size == (metadata.width_px, metadata.height_px)
        assert 1.5 < drawn.width / drawn.height < 2.5


def test_a_mask_keeps_what_is_black(tiny_base: Path, photo: Path, tmp_path: Path) -> None:
    mask = np.zeros((100, 200), np.uint8)
    mask[:, 100:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    spec = spec_of(
        tiny_base,
        photo,
        mask=str(tmp_path / "mask.png"),
        picture=PictureSpec(steps=4, width_px=200, height_px=104),
    )
    found = generate_pictures(spec, out=tmp_path / "out")
    metadata = read_png_metadata(found.files[0].path)
    assert metadata is not None
    assert metadata.start is not None
    assert metadata.start.mask_sha256 == hashlib.sha256((tmp_path / "mask.png").read_bytes()).hexdigest()
    _, start, _ = open_start(spec, open_base(str(tiny_base)))
    assert start is not None
    assert start.mask is not None
    with Image.open(found.files[0].path) as drawn:
        pixels = np.asarray(drawn.convert("RGB"))
    stays = start.mask == 0
    assert 0.4 < stays.mean() < 0.6
    assert np.array_equal(pixels[stays], start.pixels[stays])
    assert not np.array_equal(pixels[~stays], start.pixels[~stays])


def test_what_is_no_picture_is_refused_by_name(
    base: Base, tiny_base: Path, photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "note.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"note\.png"):
        open_start(spec_of(tiny_base, tmp_path / "note.png"), base)
    with pytest.raises(DataError, match=r"missing\.png"):
        open_start(spec_of(tiny_base, tmp_path / "missing.png"), base)
    Image.new("L", (50, 50), 255).save(tmp_path / "small.png")
    with pytest.raises(DataError, match=r"small\.png"):
        open_start(spec_of(tiny_base, photo, mask=str(tmp_path / "small.png")), base)
    with pytest.raises(ConfigError, match="name the picture with --from"):
        open_start(spec_of(tiny_base, photo, mask=str(photo)).model_copy(update={"start": None}), base)
