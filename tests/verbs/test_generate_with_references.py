"""``detour generate --reference``: which files are read, what the picture says of them, and what is refused."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from click.testing import CliRunner
from PIL import Image

from detour.bases.base import open_base
from detour.cli.main import cli
from detour.errors import AdapterError, BaseError, ConfigError, DetourError
from detour.generation.png import read_png_metadata
from detour.specs.generation import GenerateSpec
from detour.verbs.draw.pictures import generate_pictures
from detour.verbs.draw.provenance import Redrawing, verify_picture
from tests.reference_files import make_image_encoder, reference_tensors


@pytest.fixture(scope="module")
def place(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of the published files: models/FILE with models/image_encoder beside it."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "models").mkdir()
    (folder / "sdxl_models").mkdir()
    network = open_base(str(tiny_base)).meta_network()
    for where in ("models/ip.safetensors", "sdxl_models/ip.safetensors"):
        safetensors.torch.save_file(reference_tensors(network, "plain"), folder / where)
    make_image_encoder(folder / "models" / "image_encoder")
    make_image_encoder(folder / "sdxl_models" / "image_encoder", projection_dim=40)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "cat.png")
    return folder


def test_the_command_draws_with_references_and_writes_down_which(
    tiny_base: Path, place: Path, tmp_path: Path
) -> None:
    arguments = ["generate", "a dog", "--base", str(tiny_base), "--steps", "2", "--out", str(tmp_path)]
    arguments += ["--reference", f"{place / 'cat.png'}:0.6", "--reference-blocks", "up.1.0=0.5"]
    arguments += ["--reference-steps", "0=1,0.5=0.5", "--compare", "--json"]
    arguments += ["--reference-adapter", str(place / "models" / "ip.safetensors")]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    files = {file["kind"]: Path(file["path"]) for file in json.loads(done.stdout)["files"]}
    metadata, plain = (read_png_metadata(files[kind]) for kind in ("picture", "base"))
    assert metadata is not None
    assert plain is not None
    (use,) = metadata.references
    assert use.sha256 == hashlib.sha256((place / "cat.png").read_bytes()).hexdigest()
    assert (use.strength, use.adapter, use.blocks) == (0.6, "ip", (("up.1.0", 0.5),))
    assert use.steps == ((0.0, 1.0), (0.5, 0.5))
    assert plain.references == ()
    assert json.loads(done.stdout)["mean_abs_diff"] > 0


def test_the_image_encoder_of_the_right_width_is_found_beside_the_file(
    tiny_base: Path, place: Path, tmp_path: Path
) -> None:
    """As of ip-adapter_sdxl_vit-h: the folder beside it holds another encoder than the one it reads."""
    common: dict[str, Any] = {"base": str(tiny_base), "prompts": ("a dog",), "picture": {"steps": 1}}
    common |= {"references": (str(place / "cat.png"),)}
    drawn = [
        generate_pictures(
            GenerateSpec.model_validate(
                {**common, "reference_adapter": str(place / f"{where}/ip.safetensors")}
            ),
            out=tmp_path / where,
        )
        for where in ("models", "sdxl_models")
    ]
    first, second = (np.asarray(Image.open(one.files[0].path)) for one in drawn)
    assert np.array_equal(first, second)


def test_a_picture_with_references_is_drawn_again_from_files_that_are_found_by_content(
    tiny_base: Path, place: Path, tmp_path: Path
) -> None:
    other = tmp_path / "dog.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(other)
    spec = {"base": str(tiny_base), "prompts": ("a dog",), "picture": {"steps": 2}}
    spec |= {"references": (f"{place / 'cat.png'}:3", f"{other}:0.5"), "device": "cpu"}
    spec |= {"reference_adapter": str(place / "models" / "ip.safetensors")}
    spec |= {"reference_blocks": (("up.1.0", 0.5),), "reference_steps": ((0.0, 1.0), (0.5, 0.2))}
    drawn = generate_pictures(GenerateSpec.model_validate(spec), out=tmp_path / "out").files[0].path

    def again(files: Path | None) -> Redrawing:
        return verify_picture(drawn, base=str(tiny_base), files=files, device="cpu")

    assert "a reference picture is needed" in again(None).cause
    files = tmp_path / "files"
    files.mkdir()
    for number, path in enumerate((place / "cat.png", other)):
        shutil.copy(path, files / f"renamed-{number}.png")
    assert "IP-Adapter 'ip' is needed" in again(files).cause
    shutil.copy(place / "models" / "ip.safetensors", files / "renamed.safetensors")
    assert "image encoder of IP-Adapter 'ip' is not beside it" in again(files).cause
    shutil.copytree(place / "models" / "image_encoder", files / "image_encoder")
    assert again(files).state == "equal"
    (files / "renamed-0.png").unlink()
    assert again(files).state == "cannot"


REFUSED: dict[str, tuple[dict[str, Any], type[DetourError], str]] = {
    "no adapter": ({"reference_adapter": None}, ConfigError, "no IP-Adapter of its own"),
    "no such file": ({"reference_adapter": "nowhere.safetensors"}, AdapterError, "no such IP-Adapter"),
    "no picture": ({"references": ()}, ConfigError, "--reference PICTURE"),
    "no such picture": (
        {"references": ("nowhere.png",)},
        AdapterError,
        "--reference nowhere.png: no such file",
    ),
    "another encoder": ({"reference_encoder": "sdxl_models/image_encoder"}, BaseError, "width 40"),
    "no encoder": ({"reference_encoder": "models"}, BaseError, "no image encoder"),
    "another family": ({"base": "pocket"}, AdapterError, "text states of width 32"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_drawn_is_refused_before_anything_is(
    tiny_base: Path, place: Path, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    changes, error, said = REFUSED[what]
    spec = {"base": str(tiny_base), "prompts": ("a dog",), "references": ("cat.png",)}
    spec |= {"reference_adapter": "models/ip.safetensors", **changes}
    with pytest.raises(error, match=said) as caught:
        generate_pictures(GenerateSpec.model_validate(spec), out=tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
